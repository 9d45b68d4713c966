"""A command: its parser, its options, and what it runs."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Default:
    """A value that the command line did not give: an option's own default, or one from a configuration file.

    argparse leaves it in the namespace as it is, so what was given explicitly can be told from a default after parsing.
    """

    value: Any

    def __str__(self) -> str:
        return " ".join(map(str, self.value)) if isinstance(self.value, (tuple, list)) else str(self.value)


class CommandParser(argparse.ArgumentParser):
    """The parser of one command.

    Attributes:
        options: The arguments that a configuration file can set: options by their long names, a positional argument by its own name.
    """

    def __init__(self, **settings: Any) -> None:
        # The description is wrapped here because this formatter, which leaves the examples' lines alone, does not wrap it.
        width = shutil.get_terminal_size().columns - 2
        description = textwrap.fill(settings.pop("description"), width)
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self.options: dict[str, argparse.Action] = {}

    def add_option(self, name: str, *, group: Any = None, default: Any = None, help: str, **settings: Any) -> None:
        """Add an argument that a configuration file can set, too.

        Args:
            name: ``--long-name``, or the name of a positional argument.
            group: A group of this parser that the option belongs to.
            default: The value if neither the command line nor a file gives one. The help shows it.
            help: The help text.
            settings: Further arguments of ``add_argument``.
        """
        shown = "" if default is None else " (default: %(default)s)"
        action = (group or self).add_argument(name, default=Default(default), help=help + shown, **settings)
        self.options[name.removeprefix("--")] = action

    def add_flag(self, name: str, *, group: Any = None, help: str) -> None:
        """Add an option that is switched on by its name alone; ``--no-NAME`` switches off what a file switched on."""
        action = (group or self).add_argument(name, action="store_true", default=Default(False), help=help)
        self.options[name.removeprefix("--")] = action
        off = name.replace("--", "--no-", 1)
        self.add_argument(off, dest=action.dest, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def set_file_values(self, values: Mapping[str, Any]) -> None:
        """Make a file's values, by the options' long names, the defaults: the command line still wins over them."""
        for name, value in values.items():
            action = self.options[name]
            action.default, action.required = Default(value), False
            if not action.option_strings:
                action.nargs = "?"


@dataclass(frozen=True)
class Command:
    """What a file in ``feataug.cli.commands`` defines.

    Attributes:
        name: The command's name on the command line.
        summary: One sentence for ``feataug --help``.
        examples: Command lines for the command's help: first one that runs without any data (after those of the commands before it).
        add_options: Declares the options.
        run: Executes the command. It imports what it needs itself: ``--help`` must answer at once, and torch takes seconds to import.
        details: Further sentences for the command's own help.
    """

    name: str
    summary: str
    examples: tuple[str, ...]
    add_options: Callable[[CommandParser], None]
    run: Callable[[argparse.Namespace], None]
    details: str = ""

    def add_parser(self, subparsers: Any) -> None:
        """Add the command's parser, with the options that every command has."""
        command = subparsers.add_parser(
            self.name,
            help=self.summary,
            description=f"{self.summary} {self.details}",
            epilog="\n  ".join(("examples:", *self.examples)),
        )
        self.add_options(command)
        command.add_flag("--traceback", help="show the traceback of an error")
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="read options from a TOML or JSON file; options given here win"
        )
        command.add_argument("--dry-run", action="store_true", help="print all options and settings as such a file, and exit")
