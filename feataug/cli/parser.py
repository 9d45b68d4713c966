"""Parse the command line: options from ``--config`` files become the defaults, so that explicit options win."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feataug import __version__
from feataug.cli.command_parser import CommandParser, Default
from feataug.cli.commands import COMMANDS
from feataug.cli.config_file import TABLE, read
from feataug.cli.contradictions import check_compare, check_finetune
from feataug.errors import ConfigError

_EPILOG = """\
a whole run on your own data:
  feataug inspect timm/resnet18
  feataug finetune --data DIR --dataset camvid --encoder resnet18 --pretrained --steps 4000 --lr 0.02 --output runs/base
  feataug stages --data DIR --dataset camvid --model runs/base --generator-images 1000 --output runs/stages
  feataug fit-generator --data DIR --dataset camvid --model runs/base --at encoder.layer3.0 --output runs/generator
  feataug finetune --data DIR --dataset camvid --model runs/base --generator runs/generator --output runs/feataug
  feataug teach --data DIR --dataset camvid --model runs/base --generator runs/generator --pretrained --output runs/teach
  feataug compare --data DIR --dataset camvid --model runs/base --generator runs/generator --output runs/compare
  feataug fit-bias --data DIR --dataset camvid --model runs/feataug
  feataug evaluate --data DIR --dataset camvid --model runs/feataug --output runs/feataug-eval
  feataug report runs/compare

Every command but inspect and report writes DIR/result.json; report makes a page of it.
To resume a run that was stopped, give the same command again.
--config FILE reads options from a file; --dry-run prints all options as such a file, and exits.

exit codes: 0 done, 1 an error that says what to do, 2 options that do not parse, 130 Ctrl-C, 141 output pipe closed, 143 SIGTERM
"""


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, CommandParser]]:
    """The parser of the whole command line, and those of the commands by name."""
    parser = argparse.ArgumentParser(
        prog="feataug",
        description="Better semantic segmentation by training the decoder on features generated from label masks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"feataug {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for name, command in COMMANDS.items():
        epilog = "\n  ".join(("examples:", *command.EXAMPLES))
        added = subparsers.add_parser(name, help=command.SUMMARY, description=command.SUMMARY, epilog=epilog)
        command.add_options(added)
        added.add_flag("--traceback", help="show the traceback of an error")
        added.add_argument("--config", type=Path, metavar="FILE", help="read options from a TOML or JSON file; options given here win")
        added.add_argument("--dry-run", action="store_true", help="print all options and settings as such a file, and exit")
    return parser, dict(subparsers.choices)


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, CommandParser | None]:
    """Parse a command line and the ``--config`` files that it names.

    Returns:
        The options, and the parser of the command if it is a dry run.

    Raises:
        ConfigError: a file cannot be read, does not fit, or holds the settings of another preset; or options contradict each other or
            have no effect.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser, commands = make_parser()
    settings: dict[str, Any] = {}
    preset = None
    files = _config_files(argv) if argv and argv[0] in commands else []
    for file in files:
        values, found = read(file, commands, argv[0])
        commands[argv[0]].set_file_values(values)
        settings |= found
        preset = values.get("preset") if found else preset
    parsed = vars(parser.parse_args(argv))
    config, dry_run = parsed.pop("config"), parsed.pop("dry_run")
    if config is not None and config not in files:
        parser.error("write --config in full")
    args = argparse.Namespace(**{name: value.value if isinstance(value, Default) else value for name, value in parsed.items()})
    args.settings = settings
    command = commands[args.command]
    if args.command == "fit-generator" and preset not in (None, args.preset):
        raise ConfigError(
            f"feataug: {config}: its settings are of another preset.",
            given=f"--preset {args.preset}",
            needed=f"--preset {preset}, or no [fit-generator.{TABLE}], which holds what that preset decides",
        )
    if args.command == "finetune":
        explicit = {name for name, action in command.options.items() if not isinstance(parsed[action.dest], Default)}
        check_finetune(args, explicit)
    if args.command == "compare":
        check_compare(args)
    return args, command if dry_run else None


def _config_files(argv: Sequence[str]) -> list[Path]:
    """The files of ``--config``; of several, a later one wins."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # A missing FILE is left to the command's parser, which reports it with the command's usage.
    reader.add_argument("--config", type=Path, action="append", nargs="?", default=[])
    return [file for file in reader.parse_known_args(argv)[0].config if file is not None]
