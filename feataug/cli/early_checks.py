"""Find out in a moment whether there are data at all: before torch is imported, which takes seconds."""

from __future__ import annotations

import argparse

from feataug.data.dataset_root import FOLDERS, find_root, folders_of
from feataug.data.split_layouts import find_layout
from feataug.errors import ConfigError, FeatAugError

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
    if dataset == "scenes":
        return
    if args.data is None:
        raise ConfigError("feataug: no data.", given=f"--dataset {dataset}", needed="--data DIR")
    errors: list[FeatAugError] = []
    splits = dict.fromkeys(split for name in ("split", "eval_split") if (split := getattr(args, name, None)) is not None)
    for split in splits:
        try:
            if dataset in _READERS and split in _SPLITS:
                find_root(_READERS[dataset], args.data, folders_of(_READERS[dataset], split))
            elif dataset == "folder" and args.folders is None:
                find_layout(args.data, split, args.eval_names if split == args.eval_split else getattr(args, "names", None))
        except FeatAugError as error:
            errors.append(error)
    # The doctor says what it finds of one split, and what is wrong with the other.
    if errors and (args.command != "doctor" or len(errors) == len(splits)):
        raise errors[0]


assert set(_READERS.values()) == set(FOLDERS)
