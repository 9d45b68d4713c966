"""Read options from a TOML or JSON file: by their long names, for all commands or in a section for one."""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feataug.cli.command_parser import CommandParser
from feataug.cli.option_types import convert, needed
from feataug.errors import ConfigError

# Name of the table with the settings of a command's training, such as [fit-generator.config].
TABLE = "config"
# Settings that options give as well.
_AS_OPTION = {"num_images": "images", "num_steps": "steps", "lr": "lr", "seed": "seed"}


def training_class(command: str) -> Any:
    """The class of a command's training settings, or ``None`` if it has none."""
    if command not in ("fit-generator", "finetune", "compare", "teach"):
        return None
    # Imported here because --help must answer without torch.
    from feataug.training.config import FinetuneConfig, GeneratorConfig

    return GeneratorConfig if command == "fit-generator" else FinetuneConfig


def option_for(command: CommandParser, setting: str) -> str | None:
    """The long name of the option that gives a setting of the training, if there is one."""
    name = _AS_OPTION.get(setting)
    return name if name in command.options else None


def read(path: Path, commands: Mapping[str, CommandParser], command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file for one command.

    Every section is checked, so that a mistake in another command's section is found now.

    Args:
        path: The file.
        commands: The parsers of all commands, by name.
        command: The name of the command that reads the file.

    Returns:
        The command's options by their long names, and the settings of its training that no option gives.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value does not fit.
    """
    content = _load(path)
    known = {name for parser in commands.values() for name in parser.options}
    own = commands[command].options
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key in commands:
            continue
        if key not in known:
            raise _unknown(f"{path}: {key}", key, "an option or a section", (*known, *commands))
        if key in own:
            advice = f"Write values that differ between commands into sections, such as [{command}]."
            values[key] = _value(str(path), own[key], key, value, advice)
    sections = {name: _section(path, name, parser, content.get(name, {})) for name, parser in commands.items()}
    in_section, settings = sections[command]
    return values | in_section, settings


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, not a table")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            "feataug: the configuration file cannot be read.",
            given=f"{path} ({type(error).__name__}: {error})",
            needed="TOML, or JSON in a file that ends in .json",
            advice="The same command with --dry-run prints such a file.",
        ) from error
    return content


def _section(path: Path, name: str, parser: CommandParser, content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    where = f"{path}, [{name}]"
    if not isinstance(content, dict):
        raise ConfigError(f"feataug: {path}: {name} is not a section.", given=repr(content)[:200], needed=f"[{name}]")
    values: dict[str, Any] = {}
    has_table = TABLE in content and training_class(name) is not None
    for key, value in content.items():
        if key == TABLE and has_table:
            continue
        if key not in parser.options:
            raise _unknown(f"{where}: {key}", key, f"an option of `feataug {name}`", parser.options)
        values[key] = _value(where, parser.options[key], key, value)
    settings = {}
    for key, value in _settings(f"{path}, [{name}.{TABLE}]", name, content[TABLE]).items() if has_table else ():
        option = option_for(parser, key)
        if option is None:
            settings[key] = value
            continue
        value = _value(f"{path}, [{name}.{TABLE}]", parser.options[option], key, value)
        if values.setdefault(option, value) != value:
            raise ConfigError(
                f"feataug: {where}: {option} is given twice.",
                given=f"{option} = {values[option]!r} and {TABLE}.{key} = {value!r}",
                needed="one of them, or the same in both",
            )
    return values, settings


def _settings(where: str, command: str, table: Any) -> dict[str, Any]:
    """A table of training settings, each checked by the class of these settings."""
    kind = training_class(command)
    if not isinstance(table, dict):
        raise ConfigError(f"feataug: {where} is not a table.", given=repr(table)[:200], needed="settings by name")
    known = kind().to_dict()
    for key, value in table.items():
        if key not in known:
            raise _unknown(f"{where}: {key}", key, f"a setting of {kind.__name__}", known)
        try:
            # By itself: a setting of BicycleGAN is in range whatever the preset is.
            kind.from_dict({key: value})
        except ConfigError as error:
            raise ConfigError(f"feataug: {where}: {error}") from error
    return table


def _value(where: str, action: argparse.Action, key: str, value: Any, advice: str | None = None) -> Any:
    try:
        return convert(action, value)
    except ValueError:
        raise ConfigError(
            f"feataug: {where}: {key} does not fit.", given=repr(value)[:200], needed=needed(action), advice=advice
        ) from None


def _unknown(where: str, key: str, kind: str, known: Any) -> ConfigError:
    near = difflib.get_close_matches(key.replace("_", "-"), known, n=3) or difflib.get_close_matches(key, known, n=3)
    return ConfigError(f"feataug: {where} is unknown.", given=repr(key), needed=f"{kind}: {', '.join(near or sorted(known))}")
