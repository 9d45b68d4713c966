"""Lists of the files that belong to a data set, such as PASCAL VOC's ``train.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from feataug.data.dataset_root import IMAGE_SUFFIXES
from feataug.errors import ConfigError, DataError, MissingDataError, message

Named = tuple[str, Path]


def read_names(who: str, names: Any) -> list[str]:
    """The entries of a list, or the lines of a text file.

    Raises:
        ConfigError: ``names`` is not a list of texts, or is empty.
        MissingDataError: there is no such file.
        DataError: the file cannot be read as text.
    """
    where = "a list"
    if isinstance(names, (str, Path)):
        where, names = str(names), _lines(who, Path(names))
    elif not isinstance(names, Iterable):
        raise ConfigError(_no_list(who, repr(names)[:100]))
    entries = [str(entry) if isinstance(entry, Path) else entry for entry in names]
    if not entries or not all(isinstance(entry, str) and entry.strip() for entry in entries):
        wrong = [entry for entry in entries if not isinstance(entry, str) or not entry.strip()]
        raise ConfigError(_no_list(who, f"{wrong[0]!r} in {where}" if wrong else f"{where} without a name"))
    return [entry.strip() for entry in entries]


def _lines(who: str, file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise MissingDataError(
            f"{who}: the list of names is missing.",
            given=str(file),
            needed="a text file with one name a line, or a list of names",
            advice='A single name is given as a list: names=["0001"].',
        ) from error
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{who}: the list of names cannot be read.", given=f"{file} ({error})", needed="a text file in UTF-8"
        ) from error
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _no_list(who: str, given: str) -> str:
    return message(f"{who}: names is not a list of names.", given=given, needed="names as texts, or a text file with one name a line")


def choose(
    who: str,
    entries: Sequence[str],
    found: Sequence[Named],
    kind: str,
    folder: Path,
    endings: Sequence[str] = ("",),
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> list[tuple[str, Path, str | None]]:
    """The files that a list names, in its order.

    An entry is a name, with or without folders, suffix and ending; or a line of two names, image and mask.

    Args:
        who: The reader, for errors.
        entries: As ``read_names`` returns them.
        found: Name and path of the files of a folder.
        kind: ``"images"`` or ``"masks"``, for errors.
        folder: The folder of the files, for errors.
        endings: Endings that an entry may have.
        suffixes: Suffixes that an entry may have.

    Returns:
        Name and path of each file, and the mask that the line names, without suffix, or ``None``.

    Raises:
        MissingDataError: there is no such file.
        DataError: an entry matches several files, a file is listed twice, or a line holds more than names.
    """
    by_stem: dict[str, list[Named]] = {}
    for name, file in found:
        by_stem.setdefault(name.rpartition("/")[2], []).append((name, file))
    chosen: list[tuple[str, Path, str | None]] = []
    lost: list[str] = []
    for entry in entries:
        match, second = _match(who, entry, by_stem, endings, suffixes), None
        if match is None:
            first, *rest = re.split(r"[\s,;]+", entry)
            match = _match(who, first, by_stem, endings, suffixes) if rest else None
            if match is not None and (len(rest) > 1 or re.fullmatch(r"[-+]?\d", rest[0])):
                # PASCAL VOC's lists for classification: -1 means that the image does *not* show the class.
                raise DataError(
                    f"{who}: a line of the list holds more than names.",
                    given=repr(entry),
                    needed="a name, or an image and its mask",
                    advice="Lists with a number after the name, as those in ImageSets/Main, say which images show a class: "
                        "ImageSets/Segmentation has those with masks.",
                )
            second = _plain(rest[0], suffixes) if rest else None
        if match is None:
            lost.append(entry)
        else:
            chosen.append((*match, second))
    if lost:
        raise MissingDataError(
            f"{who}: {len(lost)} of {len(entries)} names of the list have no file.",
            given=_abbreviate(lost),
            needed=f"{kind} of these names in {folder}, which holds {len(found)}"
                + (f", such as {found[0][1].name}" if found else ""),
        )
    files = [file for _, file, _ in chosen]
    if len(set(files)) < len(files):
        twice = [str(file) for file in dict.fromkeys(files) if files.count(file) > 1] if len(files) < 10_000 else []
        raise DataError(
            f"{who}: the list names a file twice.", given=_abbreviate(twice) if twice else folder.name, needed="each name once"
        )
    return chosen


def _match(
    who: str, entry: str, by_stem: dict[str, list[Named]], endings: Sequence[str], suffixes: Sequence[str]
) -> Named | None:
    """The file that an entry matches: one path ends in the other, folder by folder."""
    plain = _plain(entry, suffixes)
    # The full text first: an ending may be part of a name.
    for text in dict.fromkeys([plain, *(plain.removesuffix(ending) for ending in endings)]):
        candidates = by_stem.get(text.rpartition("/")[2], [])
        exact = [named for named in candidates if named[0] == text]
        near = exact or [(n, f) for n, f in candidates if text.endswith(f"/{n}")] or [
            (n, f) for n, f in candidates if n.endswith(f"/{text}")
        ]
        if len(near) > 1:
            raise DataError(
                f"{who}: a name in the list matches several files.",
                given=f"{entry!r}: {_abbreviate([str(file) for _, file in near])}",
                needed="the folders before the name, too",
            )
        if near:
            return near[0]
    return None


def _plain(entry: str, suffixes: Sequence[str]) -> str:
    """An entry without suffix, with slashes between folders."""
    text = entry.replace("\\", "/").removeprefix("./")
    suffix = next((s for s in suffixes if text.lower().endswith(s)), "")
    return text[: len(text) - len(suffix)]


def _abbreviate(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (", ..." if len(items) > 5 else "")
