"""Where the files of a data set lie, and what to say when they do not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from feataug.errors import MissingDataError, message

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def files_in(folder: Path, ending: str = "", suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[tuple[str, Path]]:
    """Image files in the order of their names, with their paths within ``folder``, less suffix and ending; hidden ones are passed over."""
    return [
        (str(file.relative_to(folder).with_suffix("")).removesuffix(ending), file)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in suffixes and file.stem.endswith(ending) and file.name[0] != "." and file.is_file()
    ]


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
                given=f"{root}, which {_contents(root)}",
                needed=f"a folder that holds {' and '.join(parts)}",
                advice=_advice(root, parts),
            )
        )
    return root


def _contents(folder: Path) -> str:
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
