"""What every training loop shares: the output folder, its lock, the device."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feataug.core.distributed import is_main
from feataug.errors import CheckpointError, FeatAugWarning, TrainingError, message
from feataug.io.atomic import clear_torn, sync, write_text, writing
from feataug.training.checkpoint import DamagedError, checkpoints, load_checkpoint, save_checkpoint
from feataug.training.run_settings import check_settings

try:
    import fcntl
except ImportError:  # Windows has none; runs are not kept apart there
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """``stats.jsonl``, checkpoints and the settings of one run, written by the main process; does nothing where ``path`` is ``None``."""

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = Path(path) if path is not None else None
        self.settings = settings

    def resume(self) -> tuple[int, dict[str, Any]] | None:
        """The newest whole checkpoint's progress and state; lines of ``stats.jsonl`` from after it are dropped.

        Raises:
            CheckpointError: the checkpoint was written by a run with other settings; there are checkpoints, but none is whole.

        Warns:
            FeatAugWarning: a damaged checkpoint was passed over.
        """
        if self.path is None:
            return None
        clear_torn(self.path)
        found = checkpoints(self.path)
        for number, path in enumerate(found, start=1):
            try:
                progress, content = load_checkpoint(path)
            except DamagedError as error:
                if number == len(found):
                    raise
                warnings.warn(f"{error}\nIt is passed over for {found[number].name}.", FeatAugWarning, stacklevel=4)
                continue
            what = "feataug: the output folder holds a run with other settings."
            check_settings(what, self.settings, content["settings"], path)
            self._drop_after(progress)
            return progress, content["state"]
        self._drop_after(-1)
        return None

    def _drop_after(self, progress: int) -> None:
        """Drop the lines that will be written again, and one that a kill cut short."""
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
                # Lines from before a checkpoint are not written again.
                with writing(self._stats):
                    sync(self._stats)
            save_checkpoint(self.path, progress, {"settings": json.loads(json.dumps(self.settings)), "state": state})

    def log(self, progress: int, values: dict[str, Any]) -> None:
        """Append a line to ``stats.jsonl``."""
        if self.path is not None and is_main():
            with writing(self._stats), open(self._stats, "a") as file:
                file.write(json.dumps({"progress": progress} | values) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Every line of ``stats.jsonl``."""
        if self.path is None or not self._stats.exists():
            return []
        return [json.loads(line) for line in self._stats.read_text().splitlines()]

    @property
    def _stats(self) -> Path:
        assert self.path is not None
        return self.path / "stats.jsonl"


@contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Keep other runs out of a folder, by a lock of the main process on the folder itself, which ends with the process.

    Raises:
        CheckpointError: another run is in it.
    """
    if folder is None or fcntl is None or not is_main():
        yield
        return
    with writing(folder / "lock"):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                message(
                    "feataug: another run is using the output folder.",
                    given=str(folder),
                    needed="one run at a time",
                    advice="Wait for it, or use another folder.",
                )
            ) from None
        yield
    finally:
        os.close(handle)


def check_finite(name: str, value: float, progress: int) -> None:
    """Raise ``TrainingError`` if a loss is NaN or infinite."""
    if value != value or value in (float("inf"), float("-inf")):
        raise TrainingError(
            message(
                f"feataug: {name} is not finite.",
                given=f"{value} at {progress}",
                needed="a finite loss",
                advice="Lower lr, or train without mixed_precision. The last checkpoint is untouched.",
            )
        )


