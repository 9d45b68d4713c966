"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feataug.cli.command_parser import CommandParser
from feataug.cli.option_types import ANY, NOT_NEGATIVE, POSITIVE, SHARE, Number

PAIR: dict[str, Any] = {"type": POSITIVE, "nargs": 2, "metavar": ("ROWS", "COLUMNS")}


def add_run(command: CommandParser, output: str | None) -> None:
    """``--output``, ``--seed``, ``--device``, ``--quiet``."""
    folder = Path(output) if output is not None else None
    command.add_option("--output", type=Path, default=folder, metavar="DIR", help="folder for result.json and the other results")
    command.add_option("--seed", type=NOT_NEGATIVE, default=0, help="seeds the data order, the weights and the noise")
    command.add_option("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto takes a GPU if there is one")
    command.add_flag("--quiet", help="show no progress bars")


def add_source(command: CommandParser, *, training: bool = True) -> None:
    """The data set and its splits.

    Args:
        command: The command's parser.
        training: The command reads a training split, too.
    """
    command.add_option("--data", type=Path, metavar="DIR", help="folder of the data set")
    command.add_option(
        "--dataset", default="camvid", choices=("camvid", "cityscapes", "ade20k", "idd", "folder", "scenes"),
        help="camvid: train/ trainannot/ val/ valannot/; cityscapes, ade20k, idd (IDD-Lite): the layout of the download; "
        "folder: SPLIT/images and SPLIT/masks, or another usual layout; scenes: drawn by feataug, without --data",
    )  # fmt: skip
    command.add_option("--classes", nargs="+", metavar="NAME", help="class names, for --dataset folder")
    command.add_option("--void", type=ANY, default=255, help="label of pixels without a class in the masks of --dataset folder")
    command.add_option(
        "--ids", nargs="+", metavar="LABEL=CLASS",
        help="class of each label in the masks of --dataset folder: 0=0 255=1, 7=road 0=void; any other label is an error",
    )  # fmt: skip
    command.add_option(
        "--colors", nargs="+", metavar="R,G,B", help="colours of the classes in colour-coded masks; or NAME=R,G,B, void=R,G,B"
    )
    command.add_option(
        "--folders", nargs=2, metavar=("IMAGES", "MASKS"),
        help="image and mask folders of --dataset folder below --data if they have other names; {split} stands for the split",
    )  # fmt: skip
    command.add_option(
        "--holdout", type=Number(low=0, high=1, open_low=True, open_high=True), metavar="SHARE",
        help="for a --dataset folder without splits: evaluate on this share of the images, always the same ones, and train on the others",
    )  # fmt: skip
    command.add_option(
        "--endings", nargs=2, metavar=("IMAGES", "MASKS"), help="endings of the image and mask files' names before the suffix"
    )
    for option, split in (("--names", "--split"), ("--eval-names", "--eval-split"))[not training :]:
        command.add_option(
            option, type=Path, metavar="FILE", help=f"list of the file names of {split}, one per line, such as VOC's train.txt"
        )
    if training:
        command.add_option("--split", default="train", help="split to train on")
    command.add_option("--eval-split", default="val", help="split to evaluate on")


def add_data(command: CommandParser, *, training: bool = True, size: tuple[int, int] | None = (240, 320)) -> None:
    """The data set, its splits, and how it is loaded.

    Args:
        command: The command's parser.
        training: The command reads a training split, too.
        size: The default of ``--size``.
    """
    add_source(command, training=training)
    command.add_option("--size", default=size, **PAIR, help="size of the crops and of the evaluated images")
    command.add_option("--batch-size", type=POSITIVE, default=16, help="images per batch")
    command.add_option("--workers", type=NOT_NEGATIVE, default=0, help="number of processes that load images")


def add_model(command: CommandParser) -> None:
    """A required ``--model``."""
    command.add_option("--model", required=True, metavar="FOLDER", help="a model saved by `feataug finetune`, or a hub id")


def add_generator(command: CommandParser, *, required: bool = True) -> None:
    """``--generator``."""
    command.add_option(
        "--generator", metavar="FOLDER", required=required, help="a generator saved by `feataug fit-generator`, or a hub id"
    )


def add_license(command: CommandParser) -> None:
    """``--data-license``."""
    command.add_option("--data-license", metavar="TEXT", help="licence of the data, for the card of the saved model")


def add_schedule(command: CommandParser, *, steps: int, lr: float, of: str = "") -> None:
    """``--steps`` and ``--lr`` with their defaults."""
    command.add_option("--steps", type=POSITIVE, default=steps, help=f"optimiser steps{of}")
    command.add_option("--lr", type=Number(low=0), default=lr, help="initial learning rate; it follows the poly policy")


def add_mixing(command: CommandParser) -> None:
    """How synthetic features are made and mixed into a batch."""
    command.add_option("--ratio", type=Number(low=0, high=1, open_high=True), help="share of synthetic samples in a batch (0.3)")
    command.add_option(
        "--bank", type=NOT_NEGATIVE, default=0,
        help="number of synthetic samples to keep and use again: a step then generates only a quarter of its samples (0: all of them)",
    )  # fmt: skip
    command.add_option("--label-smoothing", type=SHARE, default=1e-4, help="epsilon of Eq. (3), for synthetic samples only")
    command.add_option(
        "--preset", default="recommended", choices=("recommended", "paper", "random"),
        help="recommended: random masks, without synthetic pixels that the decoder does not recognise; paper: hard negative masks; "
        "random: random masks",
    )  # fmt: skip
    command.add_option(
        "--power", type=Number(low=0), default=0.0,
        help="strength of class weights for classes that are predicted too rarely, with --preset recommended (0: none; a class bias "
        "does the same without training)",
    )  # fmt: skip
