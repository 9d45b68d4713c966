"""Whether a loader keeps the promise that a comparison rests on: the same batches for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feataug.errors import DataError, message
from feataug.training.batches import part_of


def check_repeats(loader: Callable[[int], Iterable[Any]], seed: int, who: str = "compare") -> None:
    """Read the first batch of a seed's loader twice; a loader without batches is left to the training.

    Args:
        loader: A seed to the loader of real pairs, as ``compare`` takes it.
        seed: The first seed of the comparison.
        who: The function that asks, for messages.

    Raises:
        DataError: the two batches differ.

    Source:
        ours.
    """
    with put_back():
        first = next(part_of(loader(seed)), None)
        # As other work between the arms leaves them: a loader that draws from the global generators now draws other numbers.
        torch.rand(()), np.random.rand(), random.random()
        second = next(part_of(loader(seed)), None)
    different = _different(first, second)
    if different:
        raise DataError(
            message(
                f"{who}: the loader does not repeat itself, so that the arms of a pair would see different real batches.",
                given=f"{different} of the first batch differ between two readings with seed {seed}",
                needed="equal batches for equal seeds",
                advice="feataug.data.seeded_loader(train_set, 16, seed=seed) seeds torch, numpy, random, and generators that transforms keep. A "
                "transform that draws from elsewhere, such as OpenCV's or imgaug's generator, has to be seeded by itself.",
            )
        )


def _different(first: Any, second: Any) -> str | None:
    """Which parts of two batches differ, in words; ``None`` if none do."""
    if not isinstance(first, (tuple, list)) or not isinstance(second, (tuple, list)):
        return None
    if len(first) != len(second):
        return "the lengths"
    names = ("images", "masks") if len(first) == 2 else tuple(f"parts {number}" for number in range(len(first)))
    wrong = [name for name, a, b in zip(names, first, second, strict=True) if not _equal(a, b)]
    return " and ".join(wrong) or None


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        return bool(((first == second) | ((first != first) & (second != second))).all())
    return True  # anything else is for the training to judge


@contextmanager
def put_back() -> Any:
    """Leave the global generators as they were."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
