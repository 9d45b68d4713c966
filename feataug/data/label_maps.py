"""Label maps in files, and the classes of their labels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from feataug.core.checks import check_number, check_void
from feataug.data.decoding import decode_labels
from feataug.data.label_colors import ColorTable, Palettes
from feataug.data.label_counts import LabelCounts, count_labels
from feataug.errors import ConfigError, DataError

# PNG has at most 16 bits a pixel.
_LABELS = 2**16
_UNKNOWN = -(2**63)


class LabelFiles(Dataset):
    """Base of all readers of label maps: ``mask(index)``, without an image.

    Args:
        mask_files: The label maps.
        transforms: Stored for the reader's items.
        classes, palette, ids, colors, void, ignore_index: As for ``MaskedImages``.

    Raises:
        ConfigError: ``ids`` or ``colors`` is not such a table, or a label is both void and a class.
        DataError: a mask that is read cannot be decoded, has several channels, a label or colour without a class, or a palette that
            differs from those of earlier masks.

    Source:
        ours.
    """

    # Licence of the data, for model cards; only if it is certain.
    license: str | None = None
    # Whether the data set's publisher says what its labels mean, so that no argument of the user can change it.
    official: bool = False

    def __init__(
        self,
        mask_files: Sequence[Path],
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]] | None = None,
        *,
        ids: Mapping[int, int] | Sequence[int] | None = None,
        colors: Any = None,
        void: int | tuple[int, int, int] = 255,
        transforms: Callable[..., Any] | None = None,
        ignore_index: int = 255,
    ) -> None:
        who = type(self).__name__
        self.mask_files = list(mask_files)
        self.classes = tuple(classes)
        check_void(who, self.num_classes, ignore_index)
        self.void = void
        self.transforms = transforms
        self.ignore_index = ignore_index
        self.colors = None
        if colors is not None:
            if ids is not None:
                raise ConfigError(f"{who}: ids and colors exclude each other.", given="ids and colors", needed="one of the two")
            self.colors = ColorTable(who, colors, self.classes, void, ignore_index)
            palette = self.colors.palette if palette is None else palette
        else:
            self._table, self._labels = _lookup(who, ids, void, self.num_classes, ignore_index)
        self.palette = tuple(palette) if palette is not None else default_palette(len(self.classes))
        # Whether the user did not say if label 255 is void or a class.
        self.void_is_assumed = ids is None and colors is None
        self._palettes, self._first_compared = Palettes(), False
        self._counts: dict[int, LabelCounts] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes, without void."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.mask_files)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} masks, {self.num_classes} classes)"

    def mask(self, index: int) -> tv_tensors.Mask:
        """The mask, int64 ``(H, W)``, without transforms."""
        who, file = type(self).__name__, self.mask_files[index]
        found = decode_labels(who, file)
        if self.colors is not None:
            return tv_tensors.Mask(torch.from_numpy(self.colors.classes_of(found, file)))
        pixels = found.pixels
        if pixels.ndim != 2:
            raise DataError(
                f"{who}: a mask has {pixels.shape[2]} channels.",
                given=f"{file}, {(pixels.shape[2], *pixels.shape[:2])}",
                needed="one channel with the class of every pixel",
                advice="If colours stand for classes, pass colors=: a colour for each class, such as [(0, 0, 0), (255, 0, 0)].",
            )
        self._compare_palettes(who, found, file)
        wide = pixels.dtype.itemsize > 1
        advice = None
        if wide:
            advice = "The file has 16 bits a pixel, as instance ids have: labels of classes are in another file."
        elif self.void_is_assumed and not self.official:
            advice = "If it is void, pass void=; if labels in the files are other numbers than the classes, pass ids=."
        labels: np.ndarray = pixels.astype(np.int64 if wide else np.uint8, copy=False)
        mask = self._table[np.where((labels >= 0) & (labels < _LABELS), labels, _LABELS) if wide else labels]
        wrong = mask == _UNKNOWN
        if wrong.any():
            raise DataError(
                f"{who}: a mask holds labels that are no class.",
                given=f"{np.unique(pixels[wrong])[:8].tolist()} in {file}",
                needed=f"{_runs(self._labels)}, or {self.void} for void",
                advice=advice,
            )
        return tv_tensors.Mask(torch.from_numpy(mask))

    def label_counts(self, limit: int = 64) -> LabelCounts:
        """Pixels of each class and of void in up to ``limit`` evenly spaced masks. The counts are cached.

        Raises:
            ConfigError: ``limit`` is out of range.
            DataError: a mask cannot be read.
        """
        check_number(f"{type(self).__name__}.label_counts", "limit", limit, low=1, integer=True)
        limit = min(limit, len(self))
        if limit not in self._counts:
            self._counts[limit] = count_labels(self, limit)
        return self._counts[limit]

    def _compare_palettes(self, who: str, found: Any, file: Path) -> None:
        if found.palette is None:
            return
        if not self._first_compared and file != self.mask_files[0]:
            # Compare with the first file, whatever the order of reading, and in every worker.
            with suppress(DataError):  # raised when that file itself is read
                self._palettes.check(who, decode_labels(who, self.mask_files[0]), self.mask_files[0])
        self._first_compared = True
        self._palettes.check(who, found, file)


def _lookup(who: str, ids: Any, void: Any, num_classes: int, ignore_index: int) -> tuple[np.ndarray, list[int]]:
    """Table of the class of each label, and the labels that are classes. The last entry stands for all larger labels."""
    try:
        void = operator.index(void)  # also takes numpy's integers
    except TypeError:
        raise ConfigError(f"{who}: void is not a label.", given=repr(void), needed="an integer, or colors=") from None
    known = _pairs(who, ids, num_classes, ignore_index)
    labels = [label for label in sorted(known) if label != void]
    if ids is None:
        if void == 255 < num_classes:
            raise ConfigError(
                f"{who}: label 255 is void and a class.",
                given=f"{num_classes} classes, void=255",
                needed="another label for void",
                advice="If the files have no label for void, pass void=65535.",
            )
        known = {ignore_index: ignore_index} | known | {void: ignore_index}
    else:
        known = {void: ignore_index} | known
    table = np.full(_LABELS + 1, _UNKNOWN, np.int64)
    for label, number in known.items():
        if 0 <= label < _LABELS:
            table[label] = number
    return table, labels


def _pairs(who: str, ids: Any, num_classes: int, ignore_index: int) -> dict[int, int]:
    """``ids`` as a dict of ints; by default each class maps to itself."""
    if ids is None:
        return {number: number for number in range(num_classes)}
    given = repr(ids)[:100]
    try:
        # Items of tensors and arrays are not ints, but have an index.
        items: Iterable[Any] = ids.items() if isinstance(ids, Mapping) else enumerate(ids)
        pairs = {operator.index(label): operator.index(number) for label, number in items}
        wrong = {k: v for k, v in pairs.items() if not 0 <= k < _LABELS or not (0 <= v < num_classes or v == ignore_index)}
        if wrong:
            given = ", ".join(f"{label}: {number}" for label, number in list(wrong.items())[:5])
    except TypeError:
        pairs, wrong = {}, {}
    if wrong or not pairs:
        raise ConfigError(
            f"{who}: ids is not a table of labels and classes.",
            given=given,
            needed=f"{{label in the files: class, 0 .. {num_classes - 1}, or {ignore_index} for void}}, or the classes of labels 0, 1, 2, ...",
            advice="A label of -1 is 255 in an 8-bit file." if any(label < 0 for label in wrong) else None,
        )
    return pairs


def _runs(labels: Sequence[int]) -> str:
    """Ascending numbers as text, with consecutive ones as ``first .. last``."""
    edges = [0, *(place for place, (a, b) in enumerate(pairwise(labels), start=1) if b > a + 1), len(labels)]
    runs = [labels[first:last] for first, last in pairwise(edges)]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} .. {run[-1]}" for run in runs if len(run))


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """The bit-interleaved palette of PASCAL VOC, which gives successive labels different colours.

    Raises:
        ConfigError: ``num_classes`` is not positive.
    """
    if num_classes < 1:
        raise ConfigError("default_palette: num_classes is out of range.", given=repr(num_classes), needed="at least 1")
    colours = torch.zeros(num_classes, 3, dtype=torch.long)
    labels = torch.arange(1, num_classes + 1)
    for bit in range(7, -1, -1):
        for channel in range(3):
            colours[:, channel] |= (labels >> channel & 1) << bit
        labels = labels >> 3
    return tuple((int(r), int(g), int(b)) for r, g, b in colours)
