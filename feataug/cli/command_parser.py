"""The parser of one command."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
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
