"""A loader that draws everything from one seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from feataug.core.checks import check_number, describe, is_sequence
from feataug.core.randomness import generators_in, seeded
from feataug.core.rng import derive_seed, generator_for
from feataug.errors import ConfigError, DataError, FeatAugWarning, ShapeError, message


class SeededBatches(Sampler):
    """Batches of ``(epoch, index)`` keys. The seed and the epoch alone decide the order and, by the keys, the transforms.

    Attributes:
        epoch: The epoch of the next pass of a plain ``for`` loop. With ``shuffle`` every such pass moves it on, as users of a ``DataLoader``
            expect: new order, new crops. Passes that trainers and measures ask for leave it alone.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, shuffle: bool, drop_last: bool) -> None:
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch = 0
        # Epoch, skip, rank and world size of a pass that was asked for.
        self._asked: tuple[int, int, int, int] | None = None

    @property
    def sampler(self) -> SeededBatches:
        """Itself: Lightning and accelerate call ``loader.batch_sampler.sampler.set_epoch`` before each epoch, also when they resume."""
        return self

    def start(self, epoch: int, skip: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Set up the next pass alone.

        Args:
            epoch: Selects the order and the transforms.
            skip: The pass leaves out this many batches, as a trainer needs that resumes in the middle of an epoch.
            rank: The process that reads the pass.
            world_size: Number of processes that share the pass.
        """
        self._asked = (epoch, skip, rank, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Select the order of the next pass, as with torch's ``DistributedSampler``; later passes go on from there."""
        self.start(epoch)
        self.epoch = epoch + 1 if self.shuffle else epoch

    def measure(self) -> None:
        """Make the next pass one of epoch 0, unless another was asked for: what is measured must not depend on what was read before."""
        self._asked = self._asked or (0, 0, 0, 1)

    def __len__(self) -> int:
        return self.count()

    def count(self, world_size: int = 1) -> int:
        """Batches in a pass if each of ``world_size`` processes reads ``batch_size`` samples at a time."""
        samples = self.batch_size * world_size
        return self.num_items // samples if self.drop_last else -(-self.num_items // samples)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self._asked is None:
            self.set_epoch(self.epoch)
            assert self._asked is not None
        epoch, skip, rank, world_size = self._asked
        self._asked = None
        order = torch.arange(self.num_items)
        if self.shuffle:
            order = torch.randperm(self.num_items, generator=generator_for(self.seed, "order", epoch))
        samples = self.batch_size * world_size
        for batch in range(skip, self.count(world_size)):
            # Strided, as in distributed.local_slice.
            chosen = order[batch * samples : (batch + 1) * samples][rank::world_size]
            if len(chosen):
                yield [(epoch, int(index)) for index in chosen]


class _SeededItems(Dataset):
    """Items by ``(epoch, index)``, which seed every generator that transforms may draw from. An index alone means epoch 0."""

    def __init__(self, dataset: Any, seed: int, skip: bool) -> None:
        self.dataset, self.seed = dataset, seed
        # In shared memory, because worker processes count as well.
        self.skipped = torch.zeros((), dtype=torch.long).share_memory_() if skip else None

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def bad_samples(self) -> int | None:
        """Number of unreadable samples that were replaced by another; ``None`` if they are errors."""
        return int(self.skipped) if self.skipped is not None else None

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.skipped is None:
            return self._item(epoch, index)
        first: Exception | None = None
        for step in range(len(self.dataset)):
            try:
                return self._item(epoch, (index + step) % len(self.dataset))
            except (DataError, OSError) as error:
                first = first or error
                self.skipped += 1
                warnings.warn(f"seeded_loader: skipped a sample: {error}", FeatAugWarning, stacklevel=2)
        assert first is not None
        raise first

    def _item(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        with seeded(derive_seed(self.seed, "item", epoch, index), generators_in(self.dataset)):
            item = self.dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError("seeded_loader: an item of the data set is not a pair.", given=describe(item), needed="(image, mask)")
        image, mask = item
        return image, mask


def _collate(items: list[tuple[Tensor, Tensor]]) -> Any:
    """Torch's default batch, with an error that names the sizes."""
    try:
        return default_collate(items)
    except (RuntimeError, TypeError) as error:
        shapes = sorted({_shapes(item) for item in items})
        raise (ShapeError if len(shapes) > 1 else DataError)(
            message(
                "seeded_loader: the items of a batch differ." if len(shapes) > 1 else "seeded_loader: the items cannot be batched.",
                given=", ".join(shapes[:4]),
                needed="images of one size, and masks of one size",
                advice="Give the data set transforms that make all sizes equal, such as eval_transforms((512, 512)), or use batch_size=1.",
            )
        ) from error


def _shapes(item: Any) -> str:
    parts = item if isinstance(item, (tuple, list)) else (item,)
    return " and ".join(str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in parts)


def seeded_loader(
    dataset: Any,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    num_workers: int = 0,
    on_bad_sample: Literal["raise", "skip"] = "raise",
) -> DataLoader:
    """A ``DataLoader`` whose batches depend only on the seed and the epoch, not on earlier random numbers or the number of workers.

    Args:
        dataset: Items ``(image, mask)``, after transforms, all of one size. For each item the global generators of torch (CPU),
            numpy and ``random`` are seeded, and also generators that the data set and its transforms own, such as albumentations'.
            All are restored afterwards. Transforms that draw from other generators, such as OpenCV's, are not reproducible.
        batch_size: Samples in a batch of each process. Several processes together read the batches that one process with the total
            size would read. With ``shuffle``, an incomplete last batch is dropped.
        seed: Seeds the order and every random transform.
        shuffle: False for evaluation: items in their order, including the last batch, and the same in every pass. With ``shuffle`` each
            pass of a ``for`` loop is the next epoch, with another order and other transforms; ``loader.batch_sampler.set_epoch(epoch)``
            selects one, as in a loop that resumes. Trainers and measures of feataug ask for their epochs themselves.
        num_workers: As in ``DataLoader``.
        on_bad_sample: For a sample that cannot be read, ``"raise"`` its error, or ``"skip"``: warn and take the next one.
            ``loader.dataset.bad_samples`` counts them, and trainers add the count to their results.

    Raises:
        ConfigError: a number is out of range, or ``on_bad_sample`` is unknown.
        ShapeError: while loading, the images of a batch differ in size.
        DataError: ``dataset`` is not a data set; or, while loading, items cannot be batched.

    Source:
        Ours. Order and noise depend on ``(seed, epoch, index)``, so that paired runs see the same data.
    """
    check_number("seeded_loader", "batch_size", batch_size, low=1, integer=True)
    check_number("seeded_loader", "seed", seed, integer=True)
    if not is_sequence(dataset) or not len(dataset):
        raise DataError(
            "seeded_loader: this is not a data set.", given=describe(dataset), needed="items (image, mask), at least one"
        )
    batches = SeededBatches(len(dataset), min(batch_size, len(dataset)), seed, shuffle, drop_last=shuffle)
    if not isinstance(on_bad_sample, str) or on_bad_sample not in ("raise", "skip"):
        raise ConfigError("seeded_loader: unknown on_bad_sample.", given=repr(on_bad_sample), needed="'raise' or 'skip'")
    items = _SeededItems(dataset, seed, on_bad_sample == "skip")
    return DataLoader(
        items,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_collate,
        persistent_workers=num_workers > 0,
        # In every pass DataLoader draws a seed for its workers, by default from the global generator.
        generator=generator_for(seed, "workers"),
    )
