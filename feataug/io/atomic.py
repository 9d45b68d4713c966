"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from feataug.core.distributed import is_main
from feataug.errors import CheckpointError, message


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Word what goes wrong while ``path`` is written.

    Raises:
        CheckpointError: the disk is full, the folder may not be written to, or is none.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            message(
                "feataug: a file cannot be written.",
                given=f"{path} ({error})",
                needed="a folder that may be written to, with room",
                advice="What was written before is untouched: mend this, and give the same command again.",
            )
        ) from error


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON file, by the main process alone; its folder is made where it is missing."""
    if not is_main():
        return path
    write_text(path, json.dumps(value, indent=1) + "\n")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole: under another name, synced, then renamed; its folder is made where it is missing."""
    with _replaced(path) as temporary:
        temporary.write_text(text)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file in the same way; what a kill leaves has a name that ``clear_torn`` knows."""
    with _replaced(path) as temporary:
        save_file(tensors, temporary, metadata)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A name to write to within; in the end the file takes the place of ``path``, or is deleted if that failed."""
    temporary = path.with_suffix(".partial")
    with writing(path):
        try:
            yield temporary
            _rename(temporary, path)
        except BaseException:
            # A full disk has no room for half a file.
            temporary.unlink(missing_ok=True)
            raise


def sync(path: Path) -> None:
    """Bring a file's content from the system's memory to the disk."""
    # Windows syncs only what is open for writing.
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_names(folder: Path) -> None:
    """The same for the names in a folder, where the file system can: Windows and some network disks keep them by themselves."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(temporary: Path, path: Path) -> None:
    """Sync the content, then give it its name, then sync the name: after a power cut the old file is there or the new one."""
    sync(temporary)
    os.replace(temporary, path)
    _sync_names(path.parent)


def clear_torn(folder: Path) -> None:
    """Delete what a kill in the middle of writing left behind; safetensors writes to ``.tmp`` names of its own."""
    for torn in (*folder.glob("*.partial"), *folder.glob(".tmp*")):
        torn.unlink(missing_ok=True)
