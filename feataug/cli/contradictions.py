"""Options that contradict each other, or that do nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from feataug.errors import ConfigError, message

# Options of `feataug finetune` that do nothing without another one.
_WITH_GENERATOR = ("--ratio", "--bank", "--label-smoothing", "--preset", "--power")
_WITH_ENCODER = ("--pretrained", "--output-stride")


def given_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None, command: argparse.ArgumentParser) -> dict[str, Any]:
    """The options that stand on the command line itself, by their long names, with their values."""
    absent = object()
    actions = {action.option_strings[-1]: action for action in command._actions if action.option_strings}
    before = {name: action.default for name, action in actions.items()}
    try:
        for action in actions.values():
            if action.default is not argparse.SUPPRESS:
                action.default = absent
        found = vars(parser.parse_args(argv))
    finally:
        for name, action in actions.items():
            action.default = before[name]
    values = {name: found.get(action.dest, absent) for name, action in actions.items()}
    return {name: value for name, value in values.items() if value is not absent and value is not False}


def check_compare(args: argparse.Namespace) -> None:
    """Check the options of ``feataug compare``.

    Raises:
        ConfigError: the ceiling's split is one that training or the measurement reads.
    """
    taken = {args.split: "--split", args.eval_split: "--eval-split"}
    if args.ceiling_split in taken:
        raise ConfigError(
            message(
                "feataug compare: the ceiling's split is already in use.",
                given=f"--ceiling-split {args.ceiling_split}, which is {taken[args.ceiling_split]}",
                needed="a split of labelled images that no other arm sees",
            )
        )


def check_finetune(args: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Check the options of ``feataug finetune``.

    Args:
        args: All options.
        given: Those of the command line itself. A configuration file may serve several commands, so further options in it are passed over.

    Raises:
        ConfigError: there are two models, or an option that does nothing without another one.
    """
    if args.model is not None and args.encoder is not None:
        raise ConfigError(
            message(
                "feataug finetune: two models.",
                given=f"--model {args.model} --encoder {args.encoder}",
                needed="--model FOLDER to train a saved model further, or --encoder NAME for a new one",
            )
        )
    for names, missing in ((_WITH_GENERATOR, "generator"), (_WITH_ENCODER, "encoder")):
        useless = [name for name in names if name in given] if getattr(args, missing) is None else []
        if useless:
            raise ConfigError(
                message(
                    f"feataug finetune: an option does nothing without --{missing}.",
                    given=", ".join(name if given[name] is True else f"{name} {given[name]}" for name in useless),
                    needed=f"--{missing} with it, or none of these",
                )
            )
