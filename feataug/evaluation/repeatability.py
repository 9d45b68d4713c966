"""Check what a comparison of runs requires: different seeds, and the same batches for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feataug.core.checks import check_number, check_sequence
from feataug.errors import ConfigError, DataError
from feataug.training.batches import part_of


def check_seeds(who: str, loader: Any, seeds: Any, runs: str) -> None:
    """Raise ``ConfigError`` unless ``loader`` is a function of the seed, and ``seeds`` are different integers of at least 0.

    Args:
        who: The name of the calling function, for messages.
        loader: Its argument ``loader``.
        seeds: Its argument ``seeds``.
        runs: The runs that see the same batches, in words.
    """
    if not callable(loader):
        raise ConfigError(
            f"{who}: loader takes no seed.",
            given=type(loader).__name__,
            needed=f"a function of the seed that returns a loader, so that {runs} see the same batches",
            advice="loader=lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)",
        )
    needed = "one or more different integers"
    check_sequence(who, "seeds", seeds, needed)
    for seed in seeds:
        check_number(who, "one of seeds", seed, low=0, integer=True)
    if not len(seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{who}: seeds must differ.", given=repr(tuple(seeds)), needed=needed)


def check_repeats(loader: Callable[[int], Iterable[Any]], seed: int, who: str = "compare") -> None:
    """Read the first batch of a seed's loader twice and compare. Training itself reports a loader without batches.

    Args:
        loader: Makes the loader of real pairs for a seed, as for ``compare``.
        seed: The first seed of the comparison.
        who: The name of the calling function, for messages.

    Raises:
        DataError: the two batches differ.

    Source:
        Ours.
    """
    with preserved_rng():
        first = next(part_of(loader(seed)), None)
        # Move the global generators, as work between the arms does: a loader that uses them then draws other numbers.
        torch.rand(())
        np.random.rand()
        random.random()
        second = next(part_of(loader(seed)), None)
    different = _different(first, second)
    if different:
        raise DataError(
            f"{who}: the loader does not repeat itself, so the arms of a pair would see different real batches.",
            given=f"{different} of the first batch differ between two readings with seed {seed}",
            needed="equal batches for equal seeds",
            advice="feataug.data.seeded_loader(train_set, 16, seed=seed) seeds torch, numpy, random, and generators that transforms keep. A "
                "transform with another generator, such as OpenCV's or imgaug's, must be seeded separately.",
        )


def _different(first: Any, second: Any) -> str | None:
    """Name the parts in which two batches differ, or return ``None``."""
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
    return True  # training checks everything else


@contextmanager
def preserved_rng() -> Any:
    """Restore the global random generators afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
