"""What trainers read: loaders without end, from any batch on, each process its part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from feataug.core.checks import check_loader, check_pair
from feataug.core.distributed import rank_and_world
from feataug.errors import TrainingError, message


def endless(loader: Iterable[tuple[Tensor, Tensor]], start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, from the ``start``-th on; every pass over the loader begins with ``set_epoch``.

    With a loader from ``data.seeded_loader`` the batches are those that an undisturbed run would see, and processes share each. Any other
    loader is read from its beginning, and the batches before ``start`` are not skipped: its order is not ours to repeat.

    Raises:
        TrainingError: a pass over the loader gave nothing.
    """
    batches: Any = getattr(loader, "batch_sampler", None)
    steady = hasattr(batches, "share") and batches.count(rank_and_world()[1]) > 0
    epoch, skip = divmod(start, batches.count(rank_and_world()[1])) if steady else (0, 0)
    while True:
        # torch's DistributedSampler, too, shuffles anew only if it is told the epoch.
        sampler: Any
        for sampler in (batches, getattr(loader, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        if hasattr(batches, "share"):
            batches.first, batches.share = skip, rank_and_world()
        count = 0
        for batch in _watched(loader):
            count += 1
            yield check_pair("feataug", batch)
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
        yield from check_loader("feataug", loader)
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
        batches.share = rank_and_world()
    yield from check_loader("feataug", loader)


def bad_samples(loader: Any) -> dict[str, int]:
    """``bad_samples`` for a result, where the loader skips and counts them."""
    count = getattr(getattr(loader, "dataset", None), "bad_samples", None)
    return {} if count is None else {"bad_samples": count}
