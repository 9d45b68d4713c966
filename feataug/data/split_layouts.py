"""The common layouts of folders with images, masks and splits, as ``--dataset folder`` recognises them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from feataug.data.dataset_root import MASK_SUFFIXES, contents
from feataug.errors import ConfigError, MissingDataError

IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "segmentationclass", "gt")
_SPLITS = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))
_LISTS = ("ImageSets/Segmentation", "splits", "")
_KNOWN = "SPLIT/images and SPLIT/masks, images/SPLIT and masks/SPLIT, or img_dir/SPLIT and ann_dir/SPLIT"


@dataclass(frozen=True)
class Layout:
    """The files of a split.

    Attributes:
        images, masks: The folders.
        names: The list of names in the split, if the folders hold several splits.
    """

    images: Path
    masks: Path
    names: Path | None = None


def find_layout(root: Path, split: str, names: Path | None = None) -> Layout:
    """Find the folders of a split by their usual names, in upper or lower case.

    The folder of masks may also be called ``labels`` or ``annotations``, for example, and the split ``val`` also ``valid``. If all
    splits share the folders, a list of names selects the files: ``names``, or ``ImageSets/Segmentation/SPLIT.txt`` (PASCAL VOC),
    ``splits/SPLIT.txt``, ``SPLIT.txt``.

    Raises:
        MissingDataError: there is no such layout.
        ConfigError: there are several.
    """
    found = _by_folders(root, split)
    if not found:
        lists = [names] if names is not None else [file for file in _lists(root, split) if file.is_file()]
        if len(lists) > 1:
            raise _several(root, split, [str(file.relative_to(root)) for file in lists])
        if lists:
            found, names = _pairs(root, root), lists[0]
    if len(found) == 1:
        return Layout(*found[0], names)
    if found:
        raise _several(root, split, [f"{i.relative_to(root)} and {m.relative_to(root)}" for i, m in found])
    undivided = _pairs(root, root)
    raise MissingDataError(
        f"feataug: no images and masks of the split {split!r} were found.",
        given=f"{root}, which {contents(root)}",
        needed=f"{_KNOWN}; or images, masks and {split}.txt with names",
        advice=f"{undivided[0][0].name} and {undivided[0][1].name} are not divided: --holdout 0.2 evaluates on a fifth of the images and trains on "
            "the others, or write the names of each split into a list."
            if undivided
            else "Name other folders with --folders IMAGES MASKS, such as --folders pictures/{split} truth/{split}.",
    )


def find_undivided(root: Path) -> Layout:
    """Find the folders of images and masks of a data set without splits, by their usual names.

    Raises:
        MissingDataError: there are no such folders.
        ConfigError: there are several, or they are divided into splits.
    """
    divided = _by_folders(root, "train") or _by_folders(root, "val")
    if divided:
        images, masks = divided[0]
        raise ConfigError(
            "feataug: the folders are divided already.",
            given=f"--holdout, and {images.relative_to(root)} and {masks.relative_to(root)} in {root}",
            needed="no --holdout; or with --folders the folders to divide",
        )
    found = _pairs(root, root)
    if not found:
        raise MissingDataError(
            "feataug: no folders of images and masks were found.",
            given=f"{root}, which {contents(root)}",
            needed="images and masks",
            advice="Name other folders with --folders IMAGES MASKS, such as --folders pictures truth.",
        )
    if len(found) > 1:
        raise ConfigError(
            "feataug: several folders may hold the images or the masks.",
            given=f"in {root}: {'; '.join(f'{i.name} and {m.name}' for i, m in found)}",
            needed="one of them",
            advice="Choose with --folders IMAGES MASKS, such as --folders images masks.",
        )
    return Layout(*found[0])


def _by_folders(root: Path, split: str) -> list[tuple[Path, Path]]:
    found: list[tuple[Path, Path]] = []
    splits = next((names for names in _SPLITS if split.lower() in names), (split.lower(),))
    for folder in _named(root, splits):
        found += _pairs(folder, folder)
    for images, masks in _pairs(root, root, holding=False):
        here, there = _named(images, splits), _named(masks, splits)
        # If there are several, they must be spelled alike in both folders.
        pairs = [(a, b) for a in here for b in there if a.name.lower() == b.name.lower()] or [(a, b) for a in here for b in there]
        found += [(a, b) for a, b in pairs if _holds_masks(b)]
    unique = {(os.path.realpath(a), os.path.realpath(b)): (a, b) for a, b in reversed(found)}
    chosen = list(reversed(unique.values()))
    # Prefer the spelling that was asked for.
    exact = [pair for pair in chosen if split in (pair[0].name, pair[0].parent.name)]
    return exact or chosen


def _pairs(first: Path, second: Path, holding: bool = True) -> list[tuple[Path, Path]]:
    """Folders of images in one folder with those of masks in another."""
    masks = [folder for folder in _named(second, MASKS) if not holding or _holds_masks(folder)]
    return [(images, folder) for images in _named(first, IMAGES) for folder in masks]


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    try:
        return sorted((child for child in folder.iterdir() if child.name.lower() in names and child.is_dir()), key=lambda p: p.name)
    except OSError:
        return []


def _holds_masks(folder: Path) -> bool:
    """Whether a folder may hold masks: a folder ``labels`` may also hold text files with boxes."""
    for _, _, files in os.walk(folder, followlinks=True):
        if any(os.path.splitext(name)[1].lower() in (*MASK_SUFFIXES, ".jpg", ".jpeg") for name in files):
            return True
    return False


def _lists(root: Path, split: str) -> list[Path]:
    return [root / place / f"{split}.txt" for place in _LISTS]


def _several(root: Path, split: str, found: list[str]) -> ConfigError:
    return ConfigError(
        f"feataug: several folders may hold the split {split!r}.",
        given=f"in {root}: {'; '.join(found)}",
        needed="one of them",
        advice="Choose with --folders IMAGES MASKS, such as --folders {split}/images {split}/masks.",
    )
