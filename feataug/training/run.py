"""What every training loop shares: the output folder, its lock, the device."""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from feataug.errors import CheckpointError, ConfigError, FeatAugWarning, TrainingError, message
from feataug.files import clear_torn, sync, write_text, writing
from feataug.processes import is_main
from feataug.training.checkpoint import DamagedError, checkpoints, load_checkpoint, save_checkpoint
from feataug.training.settings import check_settings

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


def make_accelerator(
    device: str | torch.device | None, mixed_precision: str, trackers: tuple[str, ...] = (), folder: Path | None = None
) -> Accelerator:
    """An accelerator on a device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, a ``torch.device``, or what accelerate finds (``"auto"``, ``None``).

    A numbered GPU becomes this process's current CUDA device.

    Raises:
        TrainingError: that CUDA device is not there.
        ConfigError: the device has another name; accelerate already runs in this process with another precision or device.
    """
    wanted = _device(device)
    if wanted is not None and wanted.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError(
                message("feataug: no CUDA device was found.", given=f"device={_said(device)}", needed='device="cpu" or "auto"')
            )
        if wanted.index is not None:
            if wanted.index >= torch.cuda.device_count():
                raise TrainingError(
                    message(
                        "feataug: there is no such CUDA device.",
                        given=f"device={_said(device)}",
                        needed=", ".join(f'"cuda:{number}"' for number in range(torch.cuda.device_count())),
                    )
                )
            # accelerate takes the current one.
            torch.cuda.set_device(wanted.index)
    try:
        accelerator = Accelerator(
            cpu=wanted is not None and wanted.type == "cpu",
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(folder) if folder else None),
        )
    except ValueError as error:
        # accelerate keeps one state for the whole process.
        raise ConfigError(
            message(
                "feataug: accelerate refuses these settings.",
                given=f"mixed_precision={mixed_precision!r}, device={_said(device)} ({error})",
                needed="one precision and one device in a process",
                advice="Use the same mixed_precision for generator and finetuning, or train them in two processes.",
            )
        ) from error
    taken = accelerator.device
    if wanted is not None and (taken.type != wanted.type or (None not in (taken.index, wanted.index) and taken.index != wanted.index)):
        raise ConfigError(
            message(
                "feataug: accelerate runs on another device in this process.",
                given=f"device={_said(device)}",
                needed=f'device="{taken}" or "auto"',
                advice="Was another device used before, or does a launcher give each process its own? Use one device in a process.",
            )
        )
    if trackers:
        accelerator.init_trackers("feataug")
    return accelerator


def _device(device: Any) -> torch.device | None:
    """The device that was asked for; ``None`` where accelerate is to choose."""
    if device is None or device == "auto":
        return None
    if isinstance(device, torch.device) or (isinstance(device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", device)):
        found = torch.device(device)
        if found.type in ("cpu", "cuda"):
            return found
    raise ConfigError(
        message(
            "feataug: no such device.",
            given=f"device={_said(device)}",
            needed='"auto", "cpu", "cuda", "cuda:1", or a torch.device of these',
        )
    )


def _said(device: Any) -> str:
    return repr(str(device)) if isinstance(device, (str, torch.device)) else repr(device)


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


def keep_freed_memory() -> bool:
    """Let glibc keep the memory that tensors free, for the next tensors; true where that was possible (Linux with glibc).

    By default every large tensor is mapped anew, and the kernel clears its pages anew, which can take longer than computing what goes
    into them (``benchmarks/freed_memory.py``). It holds for the whole process, so programs call it (our commands and studies do),
    never the library by itself.

    Source:
        ours.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names and numbers of malloc.h
    return all(mallopt(*x) for x in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20)))
