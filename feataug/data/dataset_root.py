"""Where the files of a data set lie, and what to say when they do not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feataug.errors import DataError, MissingDataError, message

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# JPEG changes labels; what a .webp holds is seen when it is read.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".webp")
# What systems leave in folders of images: macOS' archives, Synology's thumbnails, Windows' waste bin.
_LEFT_BY_SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


@dataclass
class Found:
    """Files of a folder, and those that were passed over.

    Attributes:
        folder: Where they lie.
        files: Name and path of each, in the order of the paths. The name is the path within the folder, less suffix and ending.
        other: Files without one of the suffixes, counted by suffix.
        ending: Files with a suffix whose stems do not have the ending.
        hidden: Hidden files, and folders that are hidden or left by a system.
    """

    folder: Path
    files: list[tuple[str, Path]] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    ending: list[Path] = field(default_factory=list)
    hidden: int = 0

    def passed_over(self) -> str:
        """What was passed over and why, in words; empty if nothing was."""
        parts = []
        if self.ending:
            parts.append(f"{len(self.ending)} with another ending, such as {self.ending[0].name}")
        if self.other:
            kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self.other.most_common(4))
            parts.append(f"{self.other.total()} of other kinds ({kinds})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        return "; ".join(parts)

    def describe(self) -> str:
        """The folder, and what in it was passed over."""
        passed = self.passed_over()
        return f"{self.folder}, where these were passed over: {passed}" if passed else str(self.folder)


def find_files(
    who: str, folder: Path, ending: str = "", suffixes: Sequence[str] = IMAGE_SUFFIXES, *, leave: Path | None = None, unless: str = ""
) -> Found:
    """Image files in a folder and in those below it.

    Linked folders are followed, each real folder is read once, so that links in a circle end. Hidden files and folders are passed over.

    Args:
        who: The reader, for errors.
        folder: Where to look.
        ending: What the files' stems end in.
        suffixes: What counts as an image, in lower case.
        leave: A folder that is not looked into, such as the masks' within the images'.
        unless: Stems that end so do not count, unless it is empty.

    Raises:
        DataError: two files have one name, or a folder cannot be read.
        MissingDataError: an image is a link that leads nowhere.
    """
    found = Found(folder)
    for file in _walk(who, folder, found, leave):
        suffix = file.suffix.lower()
        if suffix not in suffixes:
            found.other[suffix] += 1
        elif not file.stem.endswith(ending) or (unless and file.stem.endswith(unless)):
            found.ending.append(file)
        elif not file.exists():
            raise MissingDataError(
                message(f"{who}: a file is a link that leads nowhere.", given=f"{file} -> {os.readlink(file)}", needed="the file")
            )
        else:
            name = file.relative_to(folder).with_suffix("").as_posix()
            found.files.append((name.removesuffix(ending), file))
    _refuse_twins(who, found)
    return found


def _walk(who: str, folder: Path, found: Found, leave: Path | None) -> list[Path]:
    """All files below a folder in the order of their paths; real folders first, so that a file has the name of its real place."""
    files: list[Path] = []
    seen = {os.path.realpath(leave)} if leave is not None else set()
    seen.discard(os.path.realpath(folder))
    linked = [folder]
    while linked:
        # Links to folders wait until all that is really there was read.
        here = [linked.pop(0)]
        while here:
            at = here.pop(0)
            real = os.path.realpath(at)
            if real in seen:
                continue
            seen.add(real)
            try:
                with os.scandir(at) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                raise DataError(
                    message(f"{who}: a folder cannot be read.", given=f"{at} ({error.strerror})", needed="a folder that can")
                ) from error
            for entry in listed:
                if entry.name[0] == "." or entry.name in _LEFT_BY_SYSTEMS:
                    found.hidden += 1
                elif not entry.is_dir():
                    files.append(at / entry.name)
                elif entry.is_symlink():
                    linked.append(at / entry.name)
                else:
                    here.append(at / entry.name)
    return sorted(files)


def _refuse_twins(who: str, found: Found) -> None:
    places: dict[str, Path] = {}
    for name, file in found.files:
        if name in places:
            raise DataError(
                message(
                    f"{who}: two files have the same name.",
                    given=f"{places[name]} and {file}",
                    needed="one file for each name, whatever its suffix",
                    advice="Move one of them out of the folder, or say by suffixes= which kind is meant.",
                )
            )
        places[name] = file


def find_root(who: str, root: str | Path, parts: Sequence[str]) -> Path:
    """``root`` as a path, if it holds the folders ``parts``.

    Raises:
        MissingDataError: it does not; the message says what it holds instead, and where the folders are if they are near.
    """
    root = Path(root)
    missing = [part for part in parts if not os.path.isdir(root / part)]
    if missing:
        raise MissingDataError(
            message(
                f"{who}: {'a folder is' if len(missing) == 1 else 'folders are'} missing.",
                given=f"{root}, which {contents(root)}",
                needed=f"a folder that holds {' and '.join(parts)}",
                advice=_advice(root, parts),
            )
        )
    return root


def contents(folder: Path) -> str:
    """What a folder holds, in words."""
    try:
        names = sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError:
        return "is no folder that can be read"
    if not names:
        return "is empty"
    return f"holds {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _advice(root: Path, parts: Sequence[str]) -> str | None:
    """The folder one or two levels up, or one down, that holds all parts; or those one level down that hold one each."""
    try:
        below = sorted(child for child in root.iterdir() if child.is_dir())
    except OSError:
        below = []
    above = list(root.absolute().parents)[:2]
    for folder in (*above, *below):
        if all(os.path.isdir(folder / part) for part in parts):
            return f"The data lie in {folder}: pass that folder."
    lie = {part: folder for folder in reversed((root, *below)) for part in parts if os.path.isdir(folder / part)}
    if len(lie) < len(parts):
        return None
    return f"{', '.join(f'{part} lies in {lie[part]}' for part in parts)}: move them into one folder."
