"""Print what a command would do: all its options and training settings, as a file for ``--config``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from feataug import __version__
from feataug.cli.command_parser import CommandParser
from feataug.cli.config_file import TABLE, option_for, training_class
from feataug.errors import ConfigError


def training_config(args: argparse.Namespace) -> Any:
    """The training settings of a command: its options, and ``[COMMAND.config]`` of a file; ``None`` if it has none.

    Raises:
        ConfigError: a setting is out of range, or does not belong to the preset.
    """
    kind = training_class(args.command)
    if kind is None:
        return None
    if args.command == "fit-generator":
        given: dict[str, Any] = {"num_images": args.images, "seed": args.seed, "snapshot_images": max(args.images // 20, 1)}
        given |= ({} if args.lr is None else {"lr": args.lr}) | args.settings
        try:
            return kind.for_preset(args.preset, **given)
        except ConfigError as error:
            raise ConfigError(f"feataug fit-generator --preset {args.preset}: {error}") from error
    given = {"num_steps": args.steps, "lr": args.lr, "seed": args.seed, "save_every": max(args.steps // 20, 1)}
    return kind(**given | args.settings)


def dry_run(args: argparse.Namespace, command: CommandParser) -> str:
    """The text that ``--dry-run`` prints: TOML with all options of the command and all settings of its training.

    Raises:
        ConfigError: a setting is out of range.
    """
    config = training_config(args)
    settings = config.to_dict() if config is not None else {}
    values = {name: getattr(args, action.dest) for name, action in command.options.items()}
    # Settings that a preset decides, such as the learning rate, are known only now.
    values |= {option: value for name, value in settings.items() if (option := option_for(command, name)) is not None}
    lines = [
        f"# feataug {__version__}: what `feataug {args.command}` would do with these options; nothing was done.",
        f"# To use it as a file: feataug {args.command} --config FILE",
        f"[{args.command}]",
    ]
    for name, action in command.options.items():
        value = values[name]
        if isinstance(value, tuple) and action.nargs is None:
            value = "x".join(map(str, value))
        lines.append(f"# {name} is not set: {action.help}" if value is None else f"{name} = {_toml(value)}")
    if settings:
        lines += ["", f"[{args.command}.{TABLE}]", *(f"{name} = {_toml(value)}" for name, value in settings.items())]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(name))} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    # A JSON string is a TOML string, except for this control character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
