"""Counts the classes in a sample of masks: a quick check that the labels mean what the user expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LabelCounts:
    """Pixels by class in some masks of a data set.

    Attributes:
        classes: Pixels of each class.
        void: Pixels of void.
        masks: Number of masks that were read.
        of: Number of masks in the data set.
    """

    classes: tuple[int, ...]
    void: int
    masks: int
    of: int

    @property
    def absent(self) -> tuple[int, ...]:
        """Classes without a pixel in these masks."""
        return tuple(number for number, count in enumerate(self.classes) if not count)

    @property
    def complete(self) -> bool:
        """Whether all masks were read."""
        return self.masks == self.of


def count_labels(reader: Any, limit: int) -> LabelCounts:
    """Count the labels of up to ``limit`` evenly spaced masks of a reader."""
    chosen = evenly_spaced(reader, limit)
    counts, void = np.zeros(reader.num_classes, np.int64), 0
    for index in chosen:
        mask = reader.mask(index).numpy()
        known = mask[mask != reader.ignore_index]
        counts += np.bincount(known, minlength=reader.num_classes)
        void += mask.size - known.size
    return LabelCounts(tuple(counts.tolist()), void, len(chosen), len(reader))


def evenly_spaced(reader: Any, limit: int) -> list[int]:
    """The numbers of up to ``limit`` samples, evenly spaced over a reader."""
    return np.linspace(0, len(reader) - 1, min(limit, len(reader))).round().astype(int).tolist()
