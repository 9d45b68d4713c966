"""What trainers read: an endless stream of batches that can start anywhere, of which each process gets its part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from feataug.core.checks import check_loader, check_pair
from feataug.core.distributed import rank_and_world
from feataug.errors import TrainingError


def endless(loader: Iterable[tuple[Tensor, Tensor]], start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end, beginning with batch number ``start``.

    With a loader from ``data.seeded_loader`` these are the batches that an uninterrupted run would see, and each process reads its
    share. Any other loader is read from its beginning: its order cannot be reproduced, so nothing is skipped.

    Raises:
        TrainingError: a pass over the loader yields nothing.
    """
    batches: Any = getattr(loader, "batch_sampler", None)
    rank, world_size = rank_and_world()
    length = batches.count(world_size) if _can_start(batches) else 0
    epoch, skip = divmod(start, length) if length else (0, 0)
    while True:
        if _can_start(batches):
            batches.start(epoch, skip, rank, world_size)
        else:
            sampler: Any
            for sampler in (batches, getattr(loader, "sampler", None)):
                # Without it, torch's DistributedSampler repeats the same order in every epoch.
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(epoch)
        count = 0
        for batch in _watched(loader):
            count += 1
            yield check_pair("feataug", batch)
        if not count:
            raise TrainingError(
                "feataug: the loader yields no batch.",
                given=f"{type(loader).__name__} after {epoch} passes",
                needed="an iterable of (images, masks) that can be read again and again",
                advice="Is the data set empty, or smaller than a batch while drop_last is set? Pass a DataLoader, not an iterator.",
            )
        epoch, skip = epoch + 1, 0


def shared(loader: Any, accelerator: Accelerator) -> Any:
    """The loader in a form of which each process reads its own part.

    Loaders from ``data.seeded_loader`` are divided by ``endless``, and those with a ``DistributedSampler`` divide themselves.
    Accelerate divides any other ``DataLoader``. Other iterables are left alone.
    """
    if accelerator.num_processes == 1 or not isinstance(loader, DataLoader):
        return loader
    if _can_start(loader.batch_sampler) or isinstance(loader.sampler, DistributedSampler):
        return loader
    return accelerator.prepare_data_loader(loader, device_placement=False)


def part_of(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over this process's part of a loader from ``data.seeded_loader``. Of any other loader, every process reads all."""
    batches: Any = getattr(loader, "batch_sampler", None)
    if _can_start(batches):
        batches.start(0, 0, *rank_and_world())
    yield from check_loader("feataug", loader)


def ask_for_first_epoch(loader: Any) -> None:
    """Make the next pass over a loader one of its first epoch, where its batch sampler has epochs."""
    batches: Any = getattr(loader, "batch_sampler", None)
    if callable(getattr(batches, "measure", None)):
        batches.measure()
    elif hasattr(batches, "set_epoch"):
        batches.set_epoch(0)


def bad_samples(loader: Any) -> dict[str, int]:
    """The entry ``bad_samples`` of a result, if the loader skips and counts unreadable samples."""
    count = getattr(getattr(loader, "dataset", None), "bad_samples", None)
    return {} if count is None else {"bad_samples": count}


def _can_start(batches: Any) -> bool:
    """Whether a batch sampler can start a pass in the middle, as ``data.loader.SeededBatches`` can."""
    return callable(getattr(batches, "start", None))


def _watched(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches. If a worker process dies, the error says how to go on."""
    try:
        yield from check_loader("feataug", loader)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "feataug: a process that loads data has died.",
            given=str(error),
            needed="living workers",
            advice="Was memory short? The last checkpoint is intact: the same command resumes from it, with fewer workers if need be.",
        ) from error
