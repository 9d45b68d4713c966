"""What a command would do: every option and every setting of the training, as a file that ``--config`` takes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from feataug import __version__
from feataug.cli.config_file import TABLE, option_of, options, training_class


def training_config(args: argparse.Namespace) -> Any:
    """The settings of a command's training: its options, and what ``[COMMAND.config]`` of a file adds; ``None`` if it has none.

    Raises:
        ConfigError: a setting is out of range.
    """
    kind = training_class(args.command)
    if kind is None:
        return None
    if args.command == "fit-generator":
        given: dict[str, Any] = {"num_images": args.images, "seed": args.seed, "snapshot_images": max(args.images // 20, 1)}
        given |= ({} if args.lr is None else {"lr": args.lr}) | args.settings
        return kind.paper(**given) if args.preset == "paper" else kind(**given)
    given = {"num_steps": args.steps, "lr": args.lr, "seed": args.seed, "save_every": max(args.steps // 20, 1)}
    return kind(**given | args.settings)


def dry_run(args: argparse.Namespace, command: argparse.ArgumentParser) -> str:
    """The text that ``--dry-run`` prints: TOML, with every option of the command and every setting of its training.

    Raises:
        ConfigError: as ``training_config``.
    """
    config = training_config(args)
    settings = config.to_dict() if config is not None else {}
    values = {name: getattr(args, action.dest) for name, action in options(command).items()}
    # What a preset decides, such as the learning rate, is known now.
    for name, value in settings.items():
        if (action := option_of(command, name)) is not None:
            values[action.option_strings[-1].removeprefix("--")] = value
    lines = [
        f"# feataug {__version__}: what `feataug {args.command}` would do with these options; nothing was done.",
        f"# As a file: feataug {args.command} --config FILE",
        f"[{args.command}]",
    ]
    for name, action in options(command).items():
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
    # JSON's texts are TOML's but for one control character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
