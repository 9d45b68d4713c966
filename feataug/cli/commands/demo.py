"""``feataug demo``."""

from __future__ import annotations

import argparse

from feataug.cli.command import Command, CommandParser
from feataug.cli.commands.options import add_run_options


def _add_options(command: CommandParser) -> None:
    add_run_options(command, "runs/demo")


def _run(args: argparse.Namespace) -> None:
    from feataug.cli.demo import run_demo, summary

    result = run_demo(args.output, seed=args.seed, device=args.device, progress=not args.quiet)
    print(summary(result) + f"\nwritten: {args.output / 'result.json'}, {args.output / 'demo.png'}")


COMMAND = Command(
    name="demo",
    summary="The whole method on embedded scenes, in a few minutes on a CPU.",
    examples=("feataug demo", "feataug demo --seed 1 --output runs/demo-1"),
    add_options=_add_options,
    run=_run,
)
