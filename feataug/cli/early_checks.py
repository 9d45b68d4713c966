"""Find out in a moment whether there are data at all: before torch is imported, which takes seconds."""

from __future__ import annotations

import argparse
from pathlib import Path

from feataug.data.dataset_root import FOLDERS, find_root, folders_of
from feataug.data.split_layouts import find_layout, find_undivided
from feataug.errors import ConfigError, FeatAugError, MissingDataError

_READERS = {"camvid": "CamVid", "cityscapes": "Cityscapes", "idd": "IDDLite"}
# Other splits are refused by the readers, which know them.
_SPLITS = ("train", "val")


def check_data(args: argparse.Namespace) -> None:
    """Check that the folders of the splits that a command reads are there, with the errors of their readers.

    Raises:
        ConfigError: ``--data`` is missing, or several folders may hold a split.
        MissingDataError: folders are missing.
    """
    dataset = getattr(args, "dataset", "scenes")
    if getattr(args, "holdout", None) is not None and dataset != "folder":
        raise ConfigError(
            "feataug: --holdout does not fit.", given=f"--dataset {dataset}, which has splits", needed="--dataset folder"
        )
    if dataset == "scenes":
        return
    if args.data is None:
        raise ConfigError("feataug: no data.", given=f"--dataset {dataset}", needed="--data DIR")
    errors: list[FeatAugError] = []
    splits = dict.fromkeys(split for name in ("split", "eval_split") if (split := getattr(args, name, None)) is not None)
    for split in splits:
        try:
            if dataset in _READERS and split in _SPLITS:
                _find_root(_READERS[dataset], args.data, split)
            elif dataset == "folder" and args.folders is None and args.holdout is not None:
                find_undivided(args.data)
            elif dataset == "folder" and args.folders is None:
                find_layout(args.data, split, args.eval_names if split == args.eval_split else getattr(args, "names", None))
        except FeatAugError as error:
            errors.append(error)
    # The doctor says what it finds of one split, and what is wrong with the other.
    if errors and (args.command != "doctor" or len(errors) == len(splits)):
        raise errors[0]


def _find_root(reader: str, data: Path, split: str) -> None:
    """As the reader finds its folders. ``camvid`` is the default, so that its error may be the first that a new user sees."""
    try:
        find_root(reader, data, folders_of(reader, split))
    except MissingDataError as error:
        raise MissingDataError(
            f"{error}\nIs this another data set? --dataset folder reads any folder of images and masks; --dataset camvid, cityscapes, ade20k "
            "and idd read those."
        ) from error


assert set(_READERS.values()) == set(FOLDERS)
