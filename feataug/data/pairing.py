"""Pairs images with masks by file name, and explains which files are missing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feataug.data.dataset_root import IMAGE_SUFFIXES, MASK_SUFFIXES, FoundFiles, find_files
from feataug.data.name_lists import choose, read_names
from feataug.errors import ConfigError, DataError, MissingDataError

_JPEG = (".jpg", ".jpeg")
# Marks between the words of a name; the empty text is its end.
_MARKS = ("_", "-", ".", " ", "")
Suffixes = str | Sequence[str] | None


def pair_files(
    who: str, images: Path, masks: Path, endings: tuple[str, str], suffixes: tuple[Suffixes, Suffixes] | None, names: Any
) -> tuple[list[Path], list[Path]]:
    """Images and their masks, one for each image, in the order of the images' paths or of ``names``.

    Args:
        who: The reader, for errors.
        images, masks: Folders. They may be the same, and one may be inside the other.
        endings: Endings of the stems of images and of masks.
        suffixes: Suffixes of images and of masks.
        names: See ``name_lists.read_names``; all images if ``None``.

    Raises:
        ConfigError, MissingDataError, DataError: as ``MaskedImages``.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise MissingDataError(
                f"{who}: a folder is missing.",
                given=str(folder),
                needed="a folder of images and one of masks",
                advice=near_folder(folder),
            )
    entries = read_names(who, names) if names is not None else None
    kinds = [_suffixes(who, kind, usual) for kind, usual in zip(suffixes or (None, None), (IMAGE_SUFFIXES, MASK_SUFFIXES), strict=True)]
    real = [os.path.realpath(folder) for folder in (images, masks)]
    together = real[0] == real[1] or os.path.commonpath(real) in real
    if real[0] == real[1] and endings[0] == endings[1] and suffixes is None:
        # a.jpg and a.png: only the second can be the mask.
        kinds = [_JPEG, MASK_SUFFIXES]
    unless = [other if together and other != own and other.endswith(own) else "" for own, other in (endings, endings[::-1])]
    here = find_files(who, images, endings[0], kinds[0], leave=masks, unless=unless[0])
    if not here.files:
        raise no_files(who, here, endings[0], kinds[0], "images", suffixes is None and kinds[0] == _JPEG)
    there = find_files(who, masks, endings[1], kinds[1], leave=images, unless=unless[1])
    mask_of = dict(there.files)
    if entries is None:
        named: list[tuple[str, Path, str | None]] = [(name, file, None) for name, file in here.files]
    else:
        named = choose(who, entries, here.files, "images", images, endings, (*IMAGE_SUFFIXES, *kinds[0]))
    lost = [(name, file) for name, file, _ in named if name not in mask_of]
    if lost:
        raise _without_masks(who, lost, len(named), masks, there, endings, entries is not None)
    for name, file, mask in named:
        if mask is not None and mask.rpartition("/")[2] != mask_of[name].stem:
            raise DataError(
                f"{who}: the list and the folders disagree on a mask.",
                given=f"{mask} for {file}",
                needed=str(mask_of[name]),
                advice="Images and masks are paired by name; endings= says what their stems end in.",
            )
    return [file for _, file, _ in named], [mask_of[name] for name, _, _ in named]


def files_of(who: str, folder: Path, ending: str, suffixes: Suffixes, usual: Sequence[str], kind: str, names: Any) -> list[Path]:
    """The files of one folder, at least one. With a list of names, those of the list in its order.

    Raises:
        ConfigError, MissingDataError, DataError: as ``MaskFolder``.
    """
    if not folder.is_dir():
        needed, advice = f"a folder of {kind}", near_folder(folder)
        raise MissingDataError(f"{who}: the folder is missing.", given=str(folder), needed=needed, advice=advice)
    entries = read_names(who, names) if names is not None else None
    suffixes = _suffixes(who, suffixes, usual)
    found = find_files(who, folder, ending, suffixes)
    if not found.files:
        raise no_files(who, found, ending, suffixes, kind)
    if entries is None:
        return [file for _, file in found.files]
    return [file for _, file, _ in choose(who, entries, found.files, kind, folder, (ending,), (*IMAGE_SUFFIXES, *suffixes))]


def near_folder(folder: Path) -> str | None:
    """Advice for a missing folder: a folder beside it with a similar name."""
    try:
        beside = sorted(child.name for child in folder.parent.iterdir() if child.is_dir() and child.name[0] != ".")
    except OSError:
        return None
    lower = {name.lower(): name for name in beside}
    near = difflib.get_close_matches(folder.name.lower(), lower, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {folder.parent / lower[near[0]]}?"
    return f"{folder.parent} holds the folders {', '.join(beside[:8])}{', ...' if len(beside) > 8 else ''}." if beside else None


def no_files(who: str, found: FoundFiles, ending: str, suffixes: Sequence[str], kind: str, together: bool = False) -> DataError:
    """The error for a folder without a file of the kind; ``together`` if it should hold images and masks."""
    names = ", ".join(f"*{ending}{suffix}" for suffix in suffixes)
    advice = None
    if together:
        advice = "Images and masks in one folder are distinguished by endings= of their names, or by suffixes=, such as (\".png\", \".tif\")."
    elif found.ending:
        advice = f"Other files are there: is the ending right ({ending!r})?"
    elif kind == "masks" and any(suffix in found.other for suffix in _JPEG):
        advice = "JPEG changes labels, so masks in it cannot be used: write them as PNG from the original labels."
    return DataError(f"{who}: the folder holds no {kind}.", given=found.describe(), needed=f"files named {names}", advice=advice)


def _suffixes(who: str, given: Suffixes, usual: Sequence[str]) -> tuple[str, ...]:
    if given is None:
        return tuple(usual)
    several = (given,) if isinstance(given, str) else tuple(given)
    if not several or not all(isinstance(suffix, str) and suffix[:1] == "." for suffix in several):
        raise ConfigError(
            f"{who}: suffixes must start with a dot.", given=repr(given)[:100], needed='texts that start with a dot, such as ".png"'
        )
    return tuple(suffix.lower() for suffix in several)


def _without_masks(
    who: str, lost: Sequence[tuple[str, Path]], number: int, masks: Path, there: FoundFiles, endings: tuple[str, str], listed: bool
) -> DataError:
    advice = "Add the masks, or move these images out of the folder."
    found = [name for name, _ in there.files]
    jpeg = {file.with_suffix("").name for name, file in _jpegs(masks)}
    stems = [file.stem for file in (*(file for _, file in there.files), *there.ending)]
    # Readers of official folders fix the endings and take no list.
    free = who == "MaskedImages"
    if free and len(lost) == number and (guess := _endings(lost, stems)):
        advice = f"The names seem to end differently: endings={guess!r}."
    elif any(file.stem.removesuffix(endings[0]) + endings[1] in jpeg for _, file in lost):
        advice = "Masks of these names are there as JPEG, which changes labels: write them as PNG from the original labels."
    elif {name.rpartition("/")[2] for name, _ in lost} <= {name.rpartition("/")[2] for name in found}:
        advice = "Masks of these names are in other subfolders: images and masks must have the same subfolders."
    elif {name.lower() for name, _ in lost} <= {name.lower() for name in found}:
        advice = "Masks of these names differ in upper and lower case: rename them."
    elif free and len(lost) < number and not listed:
        advice = "Add the masks, or list the images that have one: names= takes a list, or a file such as VOC's train.txt."
    skipped = there.skipped()
    given = ", ".join(file.name for _, file in lost[:5]) + (", ..." if len(lost) > 5 else "")
    given += f"; masks: {len(found)}" + (f", such as {there.files[0][1].name}" if found else "")
    return MissingDataError(
        f"{who}: {len(lost)} of {number} images have no mask.",
        given=given + (f"; skipped: {skipped}" if skipped else ""),
        needed=f"a file of the same name in {masks}" + (f", ending in {endings[1]}" if endings[1] else ""),
        advice=advice,
    )


def _jpegs(folder: Path) -> list[tuple[str, Path]]:
    return [(file.stem, file) for file in folder.rglob("*") if file.suffix.lower() in _JPEG]


def _endings(lost: Sequence[tuple[str, Path]], masks: Sequence[str]) -> tuple[str, str] | None:
    """Endings of words with which every image would have a mask, if there are any."""
    known, image = set(masks), lost[0][1].stem
    # Try the masks whose names share the longest prefix with that of the first image.
    for mask in sorted(known, key=lambda stem: (-_common_prefix(stem, image), stem))[:3]:
        shared = _common_prefix(mask, image)
        # An ending starts at a mark between words, unless one name is a prefix of the other.
        marks = [place for place in range(shared, 0, -1) if image[place : place + 1] in _MARKS and mask[place : place + 1] in _MARKS]
        for place in [*marks, *([shared] if shared == min(len(image), len(mask)) else [])]:
            first, second = image[place:], mask[place:]
            if first == second or not any(map(str.isalpha, first + second)):
                continue
            if all(file.stem.endswith(first) and file.stem.removesuffix(first) + second in known for _, file in lost):
                return first, second
    return None


def _common_prefix(first: str, second: str) -> int:
    """Length of the prefix that two texts share."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
