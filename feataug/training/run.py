"""What every training loop shares: the output folder, the endless loader, the device."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from feataug.errors import CheckpointError, ConfigError, FeatAugWarning, TrainingError, message
from feataug.files import clear_torn, writing
from feataug.processes import place, total
from feataug.training.checkpoint import DamagedError, checkpoints, load_checkpoint, save_checkpoint

try:
    import fcntl
except ImportError:  # Windows has none; runs are not kept apart there
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """``stats.jsonl``, checkpoints and the settings of one run; does nothing where ``path`` is ``None``."""

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
        self._stats.write_text("".join(kept))

    def save(self, progress: int, state: dict[str, Any]) -> None:
        """Write a checkpoint."""
        if self.path is not None:
            save_checkpoint(self.path, progress, {"settings": json.loads(json.dumps(self.settings)), "state": state})

    def log(self, progress: int, values: dict[str, Any]) -> None:
        """Append a line to ``stats.jsonl``."""
        if self.path is not None:
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
    """Keep other runs out of a folder, by a lock on the folder itself that ends with the process.

    Raises:
        CheckpointError: another run is in it.
    """
    if folder is None or fcntl is None:
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


class StopRequest:
    """Ctrl-C or SIGTERM, noted while a step is under way and obeyed after it, in all processes after the same one."""

    def __init__(self) -> None:
        self.signum = 0
        self._at_once = False

    def note(self, signum: int, frame: Any) -> None:
        """The handler: the second Ctrl-C does not wait."""
        again, self.signum = self.signum == signum, signum
        if self._at_once or again:
            self.obey()

    def agree(self, device: torch.device) -> None:
        """Make a signal to one process one to all: they have to stop after the same step, or some would wait for the others for ever."""
        if place()[1] > 1:
            asked = torch.tensor(
                [self.signum == number for number in (signal.SIGINT, signal.SIGTERM)], dtype=torch.int32, device=device
            )
            interrupted, terminated = total(asked).tolist()
            self.signum = signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0

    def obey(self) -> None:
        """Leave, if that was asked for: ``KeyboardInterrupt`` for Ctrl-C, ``SystemExit(143)`` for SIGTERM."""
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signum:
            raise SystemExit(128 + self.signum)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Obey without waiting: around what is long and changes nothing, such as an evaluation. One process of several waits."""
        if place()[1] > 1:
            yield
            return
        self._at_once = True
        try:
            self.obey()
            yield
        finally:
            self._at_once = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of breaking off in the middle of a step; in the main thread only, where signals arrive."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, request.note)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def bad_samples(loader: Any) -> dict[str, int]:
    """``bad_samples`` for a result, where the loader skips and counts them."""
    count = getattr(getattr(loader, "dataset", None), "bad_samples", None)
    return {} if count is None else {"bad_samples": count}


def check_settings(what: str, settings: dict[str, Any], stored: dict[str, Any], path: Path, advice: str = "") -> None:
    """Raise ``CheckpointError``, headed by ``what``, unless the settings are those that ``path`` was written with."""
    plain = json.loads(json.dumps(settings))
    if stored == plain:
        return
    changed = sorted(key for key in plain if stored.get(key) != plain[key])
    raise CheckpointError(
        message(
            what,
            given=", ".join(f"{key}={settings[key]!r}" for key in changed),
            needed=", ".join(f"{key}={stored.get(key)!r}" for key in changed) + f", as in {path}",
            advice=advice or "Use another output folder, or delete this one to start again.",
        )
    )


def make_accelerator(
    device: str | None, mixed_precision: str, trackers: tuple[str, ...] = (), folder: Path | None = None
) -> Accelerator:
    """An accelerator on ``"cpu"``, or on whatever accelerate finds (``None`` or ``"auto"``, ``"cuda"``).

    Raises:
        TrainingError: CUDA was asked for and is not there.
        ConfigError: accelerate already runs in this process with another precision or device.
    """
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(
            message("feataug: no CUDA device was found.", given=f"device={device!r}", needed='device="cpu" or "auto"')
        )
    try:
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(folder) if folder else None),
        )
    except ValueError as error:
        # accelerate keeps one state for the whole process.
        raise ConfigError(
            message(
                "feataug: accelerate refuses these settings.",
                given=f"mixed_precision={mixed_precision!r}, device={device!r} ({error})",
                needed="one precision and one device in a process",
                advice="Use the same mixed_precision for generator and finetuning, or train them in two processes.",
            )
        ) from error
    if trackers:
        accelerator.init_trackers("feataug")
    return accelerator


def endless(loader: Iterable[tuple[Tensor, Tensor]], start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, from the ``start``-th on; every pass over the loader begins with ``set_epoch``.

    With a loader from ``data.seeded_loader`` the batches are those that an undisturbed run would see, and processes share each. Any other
    loader is read from its beginning, and the batches before ``start`` are not skipped: its order is not ours to repeat.

    Raises:
        TrainingError: a pass over the loader gave nothing.
    """
    batches: Any = getattr(loader, "batch_sampler", None)
    steady = hasattr(batches, "share") and batches.count(place()[1]) > 0
    epoch, skip = divmod(start, batches.count(place()[1])) if steady else (0, 0)
    while True:
        # torch's DistributedSampler, too, shuffles anew only if it is told the epoch.
        sampler: Any
        for sampler in (batches, getattr(loader, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        if hasattr(batches, "share"):
            batches.first, batches.share = skip, place()
        count = 0
        for batch in _watched(loader):
            count += 1
            yield batch
        if not count:
            raise TrainingError(
                message(
                    "feataug: the loader yields no batch.",
                    given=f"{type(loader).__name__} after {epoch} passes",
                    needed="an iterable of (images, masks) that can be read again and again",
                    advice="Is the data set empty, or smaller than a batch while drop_last is set? Pass a DataLoader, no iterator.",
                )
            )
        epoch, skip = epoch + 1, 0


def _watched(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches; the loss of a worker process in our words."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            message(
                "feataug: a process that loads data has died.",
                given=str(error),
                needed="living workers",
                advice="Was memory short? The last checkpoint is untouched: the same command goes on from it, with fewer workers if need be.",
            )
        ) from error


def shared(loader: Any, accelerator: Accelerator) -> Any:
    """The loader, of which each process reads its part.

    Loaders from ``data.seeded_loader`` share by themselves (``endless``), and those with a ``DistributedSampler`` as they are; other
    ``DataLoader`` are cut up by accelerate. Any other iterable is taken as one that knows what it does.
    """
    if accelerator.num_processes == 1 or not isinstance(loader, DataLoader):
        return loader
    if hasattr(loader.batch_sampler, "share") or isinstance(loader.sampler, DistributedSampler):
        return loader
    return accelerator.prepare_data_loader(loader, device_placement=False)


def part_of(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over this process's part of a loader from ``data.seeded_loader``; others are read whole, by all processes alike."""
    batches: Any = getattr(loader, "batch_sampler", None)
    if hasattr(batches, "share"):
        batches.share = place()
    yield from loader


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
