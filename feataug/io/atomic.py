"""Atomic writes: after a kill or a power cut, the old file or the new one is there, never a part."""

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
from feataug.errors import CheckpointError


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Make the folder of ``path``, and turn errors of writing into a ``CheckpointError`` that names the file.

    Raises:
        CheckpointError: the disk is full, or the folder is missing, read-only or a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "feataug: a file cannot be written.",
            given=f"{path} ({error})",
            needed="a folder that may be written to, with room",
            advice="Files from before are untouched: fix this, and run the same command again.",
        ) from error


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON file, in the main process only. Its folder is made if it does not exist."""
    if not is_main():
        return path
    write_text(path, json.dumps(value, indent=1) + "\n")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Its folder is made if it does not exist."""
    with _atomic_path(path) as temporary:
        temporary.write_text(text)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically. ``remove_partial_files`` deletes what a kill leaves."""
    with _atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


@contextmanager
def _atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. At the end it replaces ``path``; after an error it is deleted.

    The content is synced before the rename, and the folder after it: a power cut leaves the old file or the new one.
    """
    temporary = path.with_suffix(".partial")
    with explain_write_errors(path):
        try:
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            # After a full disk, a partial file would take space from what follows.
            temporary.unlink(missing_ok=True)
            raise


def sync_file(path: Path) -> None:
    """Flush a file's content from the system's cache to the disk."""
    # Windows syncs only files that are open for writing.
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder, where the file system supports it. Windows and some network disks do not."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_partial_files(folder: Path) -> None:
    """Delete what a kill during a write left behind. safetensors writes to ``.tmp*`` names of its own."""
    for partial in (*folder.glob("*.partial"), *folder.glob(".tmp*")):
        partial.unlink(missing_ok=True)
