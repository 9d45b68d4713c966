"""``feataug demo``."""

from __future__ import annotations

import argparse
import time

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options

SUMMARY = "The whole method on embedded scenes, in a few minutes on a CPU: few labelled scenes, many masks without images."
EXAMPLES = ("feataug demo", "feataug demo --check", "feataug demo --seed 1 --output runs/demo-1")


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/demo")
    command.add_flag(
        "--check", help="end with an error unless every class is learned, real images would gain, and generated features do"
    )


def run(args: argparse.Namespace) -> None:
    from feataug.cli.demo.run import run_demo
    from feataug.cli.demo.summary import check, summary

    began = time.monotonic()
    result = run_demo(args.output, seed=args.seed, device=args.device, progress=not args.quiet)
    seconds = f"{time.monotonic() - began:.0f} s on {result['settings']['demo']['device']}"
    print(summary(result) + f"\n{seconds}; written: {args.output / 'result.json'}, {args.output / 'demo.png'}")
    if args.check:
        print(check(result))
