"""``feataug demo``."""

from __future__ import annotations

import argparse

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options

SUMMARY = "The whole method on embedded scenes, in a few minutes on a CPU."
EXAMPLES = ("feataug demo", "feataug demo --seed 1 --output runs/demo-1")


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/demo")


def run(args: argparse.Namespace) -> None:
    from feataug.cli.demo import run_demo, summary

    result = run_demo(args.output, seed=args.seed, device=args.device, progress=not args.quiet)
    print(summary(result) + f"\nwritten: {args.output / 'result.json'}, {args.output / 'demo.png'}")
