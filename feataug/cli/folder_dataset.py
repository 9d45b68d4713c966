"""``--dataset folder``: your own images and masks, as the options describe them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from feataug.core.label_checks import check_labels
from feataug.errors import ConfigError

_VOID = "void"


def folder_data(args: argparse.Namespace, split: str, transforms: Any) -> Any:
    """The data set of a split.

    Raises:
        ConfigError: an option is missing or wrong, or several folders fit.
        MissingDataError, DataError: as ``data.MaskedImages``; or the masks hold 0 and 255, and no option says what they mean.
    """
    from feataug.data import MaskedImages
    from feataug.data.split_layouts import find_layout

    if not args.classes:
        raise ConfigError("feataug: class names are missing.", given="--dataset folder", needed="--classes sky road car ...")
    if len(args.classes) > 255:
        raise ConfigError(
            "feataug: the commands use 255 as the label of void, so there can be at most 255 classes.",
            given=f"{len(args.classes)} classes",
            needed="at most 255",
            advice="From Python, pass ignore_index=-1 to MaskedImages, train_transforms, FeatureGenerator and FeatureMixer.",
        )
    names: Any = getattr(args, "names", None) if split == getattr(args, "split", None) else args.eval_names
    if args.holdout is not None:
        images, masks, names = _divided(args, split)
    elif args.folders is not None:
        images, masks = (args.data / folder.replace("{split}", split) for folder in args.folders)
    else:
        layout = find_layout(args.data, split, names)
        images, masks, names = layout.images, layout.masks, layout.names
    classes = list(args.classes)
    data = MaskedImages(
        images,
        masks,
        classes,
        endings=tuple(args.endings or ("", "")),
        names=names,
        ids=_parse_ids(args.ids, classes),
        colors=_parse_colors(args.colors, classes),
        void=args.void,
        transforms=transforms,
    )
    check_labels(f"feataug {args.command}", data)
    return data


def _divided(args: argparse.Namespace, split: str) -> tuple[Path, Path, list[str]]:
    """Folders and image files of a split that ``--holdout`` makes."""
    from feataug.data.holdout import hold_out
    from feataug.data.pairing import pair_files
    from feataug.data.split_layouts import find_undivided

    if split not in ("train", "val"):
        raise _option_error("--holdout", f"the split {split}", "train and val, the splits that it makes")
    if lists := [option for option in ("names", "eval_names") if getattr(args, option, None) is not None]:
        raise _option_error("--holdout", f"--holdout and --{lists[0].replace('_', '-')}", "one of them: both divide the images")
    if args.folders is None:
        layout = find_undivided(args.data)
        images, masks = layout.images, layout.masks
    else:
        images, masks = (args.data / folder for folder in args.folders)
    files, _ = pair_files("MaskedImages", images, masks, tuple(args.endings or ("", "")), None, None)
    train, val = hold_out([file.relative_to(images).as_posix() for file in files], args.holdout)
    return images, masks, train if split == "train" else val


def _parse_ids(given: list[str] | None, classes: list[str]) -> dict[int, int] | None:
    """Parse ``LABEL=CLASS``; the class is a number, a name, or ``void``."""
    if given is None:
        return None
    table: dict[int, int] = {}
    for text in given:
        label, mark, name = text.partition("=")
        number = _class_number(name, classes)
        if not mark or not label.strip().isdecimal() or number is None or int(label) in table:
            raise _option_error("--ids", text, "a label and its class, each label once: 0=0, 255=1, 7=road, 0=void")
        table[int(label)] = number
    return table


def _parse_colors(given: list[str] | None, classes: list[str]) -> Any:
    """Parse ``R,G,B`` in the order of the classes, or ``NAME=R,G,B``, where a class may have several colours."""
    if given is None:
        return None
    needed = "three numbers 0 .. 255 for each class, in their order: 128,64,128; or with names: road=128,64,128 void=0,0,0"
    named: dict[int, list[tuple[int, ...]]] = {}
    plain: list[tuple[int, ...]] = []
    for text in given:
        name, mark, rest = text.rpartition("=")
        parts = [part.strip() for part in rest.split(",")]
        number = _class_number(name, classes) if mark else None
        if len(parts) != 3 or not all(part.isdecimal() and int(part) < 256 for part in parts) or (mark and number is None):
            raise _option_error("--colors", text, needed)
        color = tuple(int(part) for part in parts)
        if number is None:
            plain.append(color)
        else:
            named.setdefault(number, []).append(color)
    if named and plain:
        raise _option_error("--colors", "some with names and some without", needed)
    return named or plain


def _class_number(name: str, classes: list[str]) -> int | None:
    name = name.strip()
    if name in classes:
        return classes.index(name)
    if name == _VOID:
        return 255
    return int(name) if name.isdecimal() and (int(name) < len(classes) or int(name) == 255) else None


def _option_error(option: str, given: str, needed: str) -> ConfigError:
    return ConfigError(f"feataug: {option} does not fit.", given=repr(given), needed=needed)
