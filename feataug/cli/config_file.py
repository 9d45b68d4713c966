"""Options from a file, TOML or JSON: by their long names, for all commands or in a section for one."""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feataug.cli.option_types import convert, needed
from feataug.errors import ConfigError, message

# The table of a section with every setting of the training, such as [fit-generator.config].
TABLE = "config"
# Settings that are options, too.
_AS_OPTION = {"num_images": "images", "num_steps": "steps", "lr": "lr", "seed": "seed"}


def training_class(command: str) -> Any:
    """The class of a command's training settings; ``None`` where nothing is trained by settings."""
    if command not in ("fit-generator", "finetune", "compare", "teach"):
        return None
    # Here, not at the top: --help is to answer without torch.
    from feataug.training.config import FinetuneConfig, GeneratorConfig

    return GeneratorConfig if command == "fit-generator" else FinetuneConfig


def options(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """What a file can set: a command's options by their long names, and its argument by its own."""
    return {
        action.option_strings[-1].removeprefix("--") if action.option_strings else action.dest: action
        for action in command._actions
        if action.help is not argparse.SUPPRESS and action.dest not in ("help", "config", "dry_run")
    }


def option_of(command: argparse.ArgumentParser, setting: str) -> argparse.Action | None:
    """The option that a setting of the training is given by, if there is one."""
    return options(command).get(_AS_OPTION.get(setting, ""))


class ReadConfig(argparse.Action):
    """``--config FILE``: its values become the command's defaults, so that what the command line says wins.

    Args:
        commands: All commands by name.
        command: The name of this one.
    """

    def __init__(self, *args: Any, commands: Mapping[str, argparse.ArgumentParser], command: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands, self.command = commands, command
        self._read: set[Path] = set()

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        """Take the file; once, since the command line is parsed a second time after it, and a pipe has nothing more then."""
        setattr(namespace, self.dest, values)
        if values in self._read:
            return
        self._read.add(values)
        found, settings = read(values, self.commands, self.command)
        for name, value in found.items():
            action = options(parser)[name]
            action.default, action.required = value, False
            if not action.option_strings:
                action.nargs = "?"
        preset = found.get("preset") if settings else None
        parser.set_defaults(settings=(parser.get_default("settings") or {}) | settings, preset_of_settings=preset)


def read(path: Path, commands: Mapping[str, argparse.ArgumentParser], command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options for one command by their long names, and the settings of its training that no option gives.

    Every section is checked, so that a mistake in one is found before its turn comes.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value does not fit.
    """
    content = _load(path)
    known = {name for parser in commands.values() for name in options(parser)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key in commands:
            continue
        if key not in known:
            raise _unknown(f"{path}: {key}", key, "an option or a section", (*known, *commands))
        if key in options(commands[command]):
            advice = f"Values that differ between commands stand in sections, such as [{command}]."
            values[key] = _value(str(path), options(commands[command])[key], key, value, advice)
    settings: dict[str, Any] = {}
    for name in commands:
        own, table = _section(path, name, commands[name], content.get(name, {}))
        if name == command:
            values, settings = values | own, table
    return values, settings


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, no table")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            message(
                "feataug: the configuration file cannot be read.",
                given=f"{path} ({type(error).__name__}: {error})",
                needed="TOML, or JSON in a file that ends in .json",
                advice="The same command with --dry-run prints such a file.",
            )
        ) from error
    return content


def _section(path: Path, name: str, parser: argparse.ArgumentParser, content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    where = f"{path}, [{name}]"
    if not isinstance(content, dict):
        raise ConfigError(message(f"feataug: {path}: {name} is no section.", given=repr(content)[:200], needed=f"[{name}]"))
    values: dict[str, Any] = {}
    has_table = TABLE in content and training_class(name) is not None
    for key, value in content.items():
        if key == TABLE and has_table:
            continue
        if key not in options(parser):
            raise _unknown(f"{where}: {key}", key, f"an option of `feataug {name}`", options(parser))
        values[key] = _value(where, options(parser)[key], key, value)
    settings = {}
    for key, value in _settings(f"{path}, [{name}.{TABLE}]", name, content[TABLE]).items() if has_table else ():
        action = option_of(parser, key)
        if action is None:
            settings[key] = value
            continue
        option = action.option_strings[-1].removeprefix("--")
        value = _value(f"{path}, [{name}.{TABLE}]", action, key, value)
        if values.setdefault(option, value) != value:
            raise ConfigError(
                message(
                    f"feataug: {where}: {option} is given twice.",
                    given=f"{option} = {values[option]!r} and {TABLE}.{key} = {value!r}",
                    needed="one of them, or the same in both",
                )
            )
    return values, settings


def _settings(where: str, command: str, table: Any) -> dict[str, Any]:
    """A table of training settings, each checked by the class that it is for."""
    kind = training_class(command)
    if not isinstance(table, dict):
        raise ConfigError(message(f"feataug: {where} is no table.", given=repr(table)[:200], needed="settings by name"))
    known = kind().to_dict()
    for key, value in table.items():
        if key not in known:
            raise _unknown(f"{where}: {key}", key, f"a setting of {kind.__name__}", known)
        try:
            kind(**{key: value})
        except ConfigError as error:
            raise ConfigError(f"feataug: {where}: {error}") from error
    return table


def _value(where: str, action: argparse.Action, key: str, value: Any, advice: str | None = None) -> Any:
    try:
        return convert(action, value)
    except ValueError:
        raise ConfigError(
            message(f"feataug: {where}: {key} does not fit.", given=repr(value)[:200], needed=needed(action), advice=advice)
        ) from None


def _unknown(what: str, key: str, kind: str, known: Any) -> ConfigError:
    near = difflib.get_close_matches(key.replace("_", "-"), known, n=3) or difflib.get_close_matches(key, known, n=3)
    return ConfigError(
        message(f"feataug: {what} is unknown.", given=repr(key), needed=f"{kind}: {', '.join(near or sorted(known))}")
    )
