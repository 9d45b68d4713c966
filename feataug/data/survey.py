"""What a reader sees of a data set: sizes, labels, classes without pixels, files that cannot be read, files that are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from feataug.data.dataset_root import find_files
from feataug.data.label_counts import evenly_spaced
from feataug.errors import FeatAugError

# Errors of single files that are kept in full; the rest are counted.
SHOWN = 5


@dataclass
class Survey:
    """What was found in the samples of one split.

    Attributes:
        images: Number of samples in the split.
        read: Number of samples that were read; ``wrong`` of them could not be.
        sizes: Number of samples by rows and columns.
        pixels: Pixels of each class, and of void in the end.
        samples: Number of samples in which each class, and void in the end, occurs.
        wrong: Number of samples that could not be read.
        errors: The first errors, in full.
        passed_over: For each folder, what lies there and does not belong to the split, in words.
    """

    images: int
    read: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    samples: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    passed_over: dict[Path, str] = field(default_factory=dict)

    @property
    def absent(self) -> list[int]:
        """Classes without a pixel in the samples that were read."""
        return np.flatnonzero(self.pixels[:-1] == 0).tolist()

    @property
    def complete(self) -> bool:
        """Whether all samples were read."""
        return self.read == self.images


def survey(reader: Any, limit: int | None = None) -> Iterator[Survey]:
    """Read samples of a data set as training reads them, with the checks of each pair.

    Args:
        reader: A reader of this package without transforms, such as ``MaskedImages``.
        limit: The most samples to read, evenly spaced; all of them if ``None``.

    Yields:
        What was found so far, after each sample: always the same object.
    """
    classes = len(reader.classes)
    found = Survey(len(reader), pixels=np.zeros(classes + 1, np.int64), samples=np.zeros(classes + 1, np.int64))
    found.passed_over = passed_over(reader)
    for index in evenly_spaced(reader, len(reader) if limit is None else limit):
        try:
            _, mask = reader[index]
        except FeatAugError as error:
            found.wrong += 1
            if len(found.errors) < SHOWN:
                found.errors.append(str(error))
        else:
            labels = np.asarray(mask)
            found.sizes[labels.shape[0], labels.shape[1]] += 1
            counts = np.bincount(np.where(labels == reader.ignore_index, classes, labels).ravel(), minlength=classes + 1)
            found.pixels += counts
            found.samples += counts > 0
        found.read += 1
        yield found


def passed_over(reader: Any) -> dict[Path, str]:
    """What lies in the folders of a reader's files, and is not read; nothing for readers without files."""
    lists = [files for name in ("image_files", "mask_files") if (files := getattr(reader, name, None))]
    used = {os.path.realpath(file) for files in lists for file in files}
    found: dict[Path, str] = {}
    for files in lists:
        folder = Path(os.path.commonpath([file.parent for file in files]))
        if folder in found:
            continue
        suffixes = sorted({file.suffix.lower() for other in lists for file in other})
        try:
            there = find_files(type(reader).__name__, folder, suffixes=suffixes)
        except FeatAugError as error:
            found[folder] = str(error).splitlines()[0]
            continue
        extra = [file for _, file in there.files if os.path.realpath(file) not in used]
        parts = [f"{len(extra)} images or masks without a partner or of another split, such as {extra[0].name}"] if extra else []
        if text := "; ".join([*parts, *filter(None, [there.skipped()])]):
            found[folder] = text
    return found
