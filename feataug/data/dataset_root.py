"""Finds the files of a data set, and explains what is missing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feataug.errors import DataError, MissingDataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# Without JPEG, which changes labels. A lossy .webp is refused when it is read.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".webp")
# Folders that operating systems create: macOS archives, Synology thumbnails, the Windows recycle bin.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


# Folders of images and masks of a split, by the reader's name.
FOLDERS = {
    "CamVid": ("{split}", "{split}annot"),
    "Cityscapes": ("leftImg8bit/{split}", "gtFine/{split}"),
    "IDDLite": ("leftImg8bit/{split}", "gtFine/{split}"),
}


@dataclass
class FoundFiles:
    """Files of a folder, and those that were skipped.

    Attributes:
        folder: The folder.
        files: Name and path of each file, sorted by path. The name is the path within the folder, without suffix and ending.
        other: Number of files of other kinds, by suffix.
        ending: Files of the right kind with another ending.
        hidden: Number of hidden files, hidden folders and system folders.
    """

    folder: Path
    files: list[tuple[str, Path]] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    ending: list[Path] = field(default_factory=list)
    hidden: int = 0

    def skipped(self) -> str:
        """What was skipped and why, in words; empty if nothing was."""
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
        """The folder and what was skipped in it."""
        skipped = self.skipped()
        return f"{self.folder}, where these were skipped: {skipped}" if skipped else str(self.folder)


def find_files(
    who: str, folder: Path, ending: str = "", suffixes: Sequence[str] = IMAGE_SUFFIXES, *, leave: Path | None = None, unless: str = ""
) -> FoundFiles:
    """Image files in a folder and its subfolders.

    Linked folders are followed. Each real folder is read once, so that circular links end. Hidden files and folders are skipped.

    Args:
        who: The reader, for errors.
        folder: Where to look.
        ending: Ending of the files' stems.
        suffixes: Suffixes of images, in lower case.
        leave: A folder to skip, such as that of the masks within that of the images.
        unless: Skip stems with this ending, unless it is empty.

    Raises:
        DataError: two files have the same name, or a folder cannot be read.
        MissingDataError: an image is a broken link.
    """
    found = FoundFiles(folder)
    for file in _walk(who, folder, found, leave):
        suffix = file.suffix.lower()
        if suffix not in suffixes:
            found.other[suffix] += 1
        elif not file.stem.endswith(ending) or (unless and file.stem.endswith(unless)):
            found.ending.append(file)
        elif not file.exists():
            raise MissingDataError(f"{who}: a file is a broken link.", given=f"{file} -> {os.readlink(file)}", needed="the file")
        else:
            name = file.relative_to(folder).with_suffix("").as_posix()
            found.files.append((name.removesuffix(ending), file))
    _refuse_duplicates(who, found)
    return found


def _walk(who: str, folder: Path, found: FoundFiles, leave: Path | None) -> list[Path]:
    """All files below a folder, sorted by path. Real folders are read first, so that a file is named by its real path."""
    files: list[Path] = []
    seen = {os.path.realpath(leave)} if leave is not None else set()
    seen.discard(os.path.realpath(folder))
    linked = [folder]
    while linked:
        # Links to folders wait until all real folders were read.
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
                    f"{who}: a folder cannot be read.", given=f"{at} ({error.strerror})", needed="a readable folder"
                ) from error
            for entry in listed:
                if entry.name[0] == "." or entry.name in _SYSTEM_FOLDERS:
                    found.hidden += 1
                elif not entry.is_dir():
                    files.append(at / entry.name)
                elif entry.is_symlink():
                    linked.append(at / entry.name)
                else:
                    here.append(at / entry.name)
    return sorted(files)


def _refuse_duplicates(who: str, found: FoundFiles) -> None:
    seen: dict[str, Path] = {}
    for name, file in found.files:
        if name in seen:
            raise DataError(
                f"{who}: two files have the same name.",
                given=f"{seen[name]} and {file}",
                needed="one file for each name, whatever its suffix",
                advice="Move one of them out of the folder, or choose one kind with suffixes=.",
            )
        seen[name] = file


def folders_of(who: str, split: str) -> tuple[str, ...]:
    """The folders of a split below the root of a data set in ``FOLDERS``."""
    return tuple(folder.format(split=split) for folder in FOLDERS[who])


def find_root(who: str, root: str | Path, parts: Sequence[str]) -> Path:
    """``root`` as a path, if it holds the folders ``parts``.

    Raises:
        MissingDataError: it does not. The message lists what it holds instead, and suggests the right folder if that is near.
    """
    root = Path(root)
    missing = [part for part in parts if not os.path.isdir(root / part)]
    if missing:
        raise MissingDataError(
            f"{who}: {'a folder is' if len(missing) == 1 else 'folders are'} missing.",
            given=f"{root}, which {contents(root)}",
            needed=f"a folder that holds {' and '.join(parts)}",
            advice=_advice(root, parts),
        )
    return root


def contents(folder: Path) -> str:
    """What a folder holds, in words."""
    try:
        names = sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError:
        return "is not a readable folder"
    if not names:
        return "is empty"
    return f"holds {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _advice(root: Path, parts: Sequence[str]) -> str | None:
    """Suggests a folder up to two levels up, or one down, that holds all parts; or folders one down that hold one part each."""
    try:
        below = sorted(child for child in root.iterdir() if child.is_dir())
    except OSError:
        below = []
    above = list(root.absolute().parents)[:2]
    for folder in (*above, *below):
        if all(os.path.isdir(folder / part) for part in parts):
            return f"The data are in {folder}: pass that folder."
    holders = {part: folder for folder in reversed((root, *below)) for part in parts if os.path.isdir(folder / part)}
    if len(holders) < len(parts):
        return None
    return f"{', '.join(f'{part} is in {holders[part]}' for part in parts)}: move them into one folder."
