"""Find options that contradict each other or have no effect."""

from __future__ import annotations

import argparse
from collections.abc import Set

from feataug.errors import ConfigError

# Options of `feataug finetune` that need another one.
_NEED_GENERATOR = ("ratio", "bank", "label-smoothing", "preset", "power")
_NEED_ENCODER = ("pretrained", "output-stride")


def check_compare(args: argparse.Namespace) -> None:
    """Check the options of ``feataug compare``.

    Raises:
        ConfigError: the ceiling's split is one that is used for training or evaluation.
    """
    used = {args.split: "--split", args.eval_split: "--eval-split"}
    if args.ceiling_split in used:
        raise ConfigError(
            "feataug compare: the ceiling's split is already in use.",
            given=f"--ceiling-split {args.ceiling_split}, which is {used[args.ceiling_split]}",
            needed="a split of labelled images that no other arm sees",
        )


def check_finetune(args: argparse.Namespace, explicit: Set[str]) -> None:
    """Check the options of ``feataug finetune``.

    Args:
        args: All options.
        explicit: The long names of those that the command line gives. Options from a configuration file may have no effect, because a file
            may serve several commands.

    Raises:
        ConfigError: two models are given, or an option that has no effect without another one.
    """
    if args.model is not None and args.encoder is not None:
        raise ConfigError(
            "feataug finetune: two models.",
            given=f"--model {args.model} --encoder {args.encoder}",
            needed="--model FOLDER to train a saved model further, or --encoder NAME for a new one",
        )
    for names, missing in ((_NEED_GENERATOR, "generator"), (_NEED_ENCODER, "encoder")):
        if getattr(args, missing) is not None:
            continue
        values = {name: getattr(args, name.replace("-", "_")) for name in names if name in explicit}
        # False is a flag that was switched off.
        given = [f"--{name}" if value is True else f"--{name} {value}" for name, value in values.items() if value is not False]
        if given:
            raise ConfigError(
                f"feataug finetune: an option has no effect without --{missing}.",
                given=", ".join(given),
                needed=f"--{missing} with it, or none of these",
            )
