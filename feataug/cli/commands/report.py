"""``feataug report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from feataug.cli.command_parser import CommandParser

SUMMARY = "Make one HTML page of a run: settings, measures, curves, pictures, and warnings with advice."
EXAMPLES = ("feataug report runs/demo", "feataug report runs/compare --output compare.html")


def add_options(command: CommandParser) -> None:
    command.add_option("run", type=Path, metavar="RUN", help="the --output of any other command")
    command.add_option("--output", type=Path, metavar="FILE", help="file to write the page to (default: RUN/report.html)")


def run(args: argparse.Namespace) -> None:
    from feataug.reporting.page import write_page

    print(f"written: {write_page(args.run, args.output)}")
