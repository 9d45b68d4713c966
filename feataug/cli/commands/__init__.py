"""The commands by name, in the order of a whole run. A new command is a file like these and a line here."""

from __future__ import annotations

import argparse
from typing import Protocol

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import compare, demo, doctor, evaluate, finetune, fit_bias, fit_generator, inspect, report, stages, teach


class Command(Protocol):
    """What the module of a command has: its line in ``feataug --help``, examples for its own help, and two functions."""

    SUMMARY: str

    @property
    def EXAMPLES(self) -> tuple[str, ...]:
        """Command lines; the first one runs without any data, after those of the commands before."""

    def add_options(self, command: CommandParser, /) -> None:
        """Declare the command's options."""

    def run(self, args: argparse.Namespace, /) -> None:
        """Execute the command. What it needs is imported here: ``--help`` must answer at once, and torch takes seconds to import."""


COMMANDS: dict[str, Command] = {
    "demo": demo,
    "doctor": doctor,
    "inspect": inspect,
    "stages": stages,
    "fit-generator": fit_generator,
    "finetune": finetune,
    "fit-bias": fit_bias,
    "compare": compare,
    "teach": teach,
    "evaluate": evaluate,
    "report": report,
}
