"""``feataug report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from feataug.cli.command import Command, CommandParser


def _add_options(command: CommandParser) -> None:
    command.add_option("run", type=Path, metavar="RUN", help="the --output of any other command")
    command.add_option("--output", type=Path, metavar="FILE", help="file to write the page to (default: RUN/report.html)")


def _run(args: argparse.Namespace) -> None:
    from feataug.reporting.page import write_page

    print(f"written: {write_page(args.run, args.output)}")


COMMAND = Command(
    name="report",
    summary="Make one HTML page of a run.",
    details="It shows the settings, measures, curves and pictures that a command left in a folder, and warnings with advice. The command needs "
    "neither the data nor the model. The page needs no network.",
    examples=("feataug report runs/demo", "feataug report runs/compare --output compare.html"),
    add_options=_add_options,
    run=_run,
)
