"""The output folder of a training run: its checkpoints, its ``stats.jsonl`` and its lock."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from feataug.core.distributed import is_main
from feataug.errors import CheckpointError, FeatAugWarning, TrainingError
from feataug.io.atomic import explain_write_errors, remove_partial_files, sync_file, write_text
from feataug.training.checkpoint import DamagedError, checkpoints, load_checkpoint, save_checkpoint
from feataug.training.run_settings import check_settings


class RunFolder:
    """The checkpoints, ``stats.jsonl`` and settings of one run.

    Only the main process writes. Without a folder (``path=None``) every method does nothing.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = Path(path) if path is not None else None
        self.settings = settings

    def resume(self) -> tuple[int, dict[str, Any]] | None:
        """Return the progress and the state of the newest intact checkpoint.

        Lines of ``stats.jsonl`` that were written after this checkpoint are removed.

        Raises:
            CheckpointError: the checkpoint was written by a run with other settings, or all checkpoints are damaged.

        Warns:
            FeatAugWarning: a damaged checkpoint was skipped.
        """
        if self.path is None:
            return None
        remove_partial_files(self.path)
        found = checkpoints(self.path)
        for number, path in enumerate(found, start=1):
            try:
                progress, content = load_checkpoint(path)
            except DamagedError as error:
                if number == len(found):
                    raise
                warnings.warn(f"{error}\nThe run continues from {found[number].name} instead.", FeatAugWarning, stacklevel=4)
                continue
            check_settings("feataug: the output folder holds a run with other settings.", self.settings, content["settings"], path)
            self._truncate_stats(progress)
            return progress, content["state"]
        self._truncate_stats(-1)
        return None

    def _truncate_stats(self, progress: int) -> None:
        """Remove the lines that the resumed run writes again, and a last line that a kill cut short."""
        if not self._stats.exists():
            return
        kept = []
        for line in self._stats.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["progress"] <= progress:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break
        write_text(self._stats, "".join(kept))

    def save(self, progress: int, state: dict[str, Any]) -> None:
        """Write a checkpoint."""
        if self.path is not None and is_main():
            if self._stats.exists():
                # A resumed run does not write the lines from before the checkpoint again: they must be on disk first.
                with explain_write_errors(self._stats):
                    sync_file(self._stats)
            save_checkpoint(self.path, progress, {"settings": json.loads(json.dumps(self.settings)), "state": state})

    def log(self, progress: int, values: dict[str, Any]) -> None:
        """Append a line to ``stats.jsonl``."""
        if self.path is not None and is_main():
            with explain_write_errors(self._stats), open(self._stats, "a") as file:
                file.write(json.dumps({"progress": progress} | values) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Return all lines of ``stats.jsonl``."""
        if self.path is None or not self._stats.exists():
            return []
        return [json.loads(line) for line in self._stats.read_text().splitlines()]

    @property
    def _stats(self) -> Path:
        assert self.path is not None
        return self.path / "stats.jsonl"


@contextmanager
def folder_lock(folder: Path | None) -> Iterator[None]:
    """Let one run at a time use a folder. The main process holds the lock; the system releases it when the process ends.

    The file ``.lock`` stays in the folder. It does not mean that a run is active: only the system's lock on it counts.

    Raises:
        CheckpointError: another run is using the folder, or the lock file cannot be written.
    """
    if folder is None or not is_main():
        yield
        return
    lock = FileLock(folder / ".lock")
    with explain_write_errors(folder / ".lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(
                "feataug: another run is using the output folder.",
                given=str(folder),
                needed="one run at a time",
                advice="Wait for it, or use another folder.",
            ) from None
    try:
        yield
    finally:
        lock.release()


def check_finite(name: str, value: float, progress: int) -> None:
    """Raise ``TrainingError`` if a loss is NaN or infinite."""
    if not math.isfinite(value):
        raise TrainingError(
            f"feataug: {name} is not finite.",
            given=f"{value} at {progress}",
            needed="a finite loss",
            advice="Lower lr, or train without mixed_precision. The last checkpoint is untouched.",
        )
