"""Label maps in files: how they are decoded, and what the labels in them mean."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors

from feataug.errors import ConfigError, DataError, message

# PNG has no more than 16 bits a pixel.
_LABELS = 2**16
_UNKNOWN = -(2**63)


class LabelFiles(Dataset):
    """What readers of label maps share: ``mask(index)``, without any image.

    Args:
        mask_files: The label maps.
        classes: Names of the classes, in the order of their labels.
        palette: One RGB colour per class, for pictures; drawn from a default set if absent.
        ids: Class of each label in the files, as a sequence or a dict; ``ignore_index`` where a label means void. Any other label but
            ``void`` is an error. If absent, the labels are the classes.
        void: Label that the files use for void; it becomes ``ignore_index``.
        transforms: Kept for the reader's items.
        ignore_index: Label of void in the masks that come out.

    Raises:
        ConfigError: ``ids`` is no such table.
        DataError: when a mask is read, it cannot be decoded, has several channels, or a label that is no class.

    Source:
        ours.
    """

    # Of the data, for model cards; only where it is certain.
    license: str | None = None

    def __init__(
        self,
        mask_files: Sequence[Path],
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]] | None = None,
        *,
        ids: Mapping[int, int] | Sequence[int] | None = None,
        void: int = 255,
        transforms: Callable[..., Any] | None = None,
        ignore_index: int = 255,
    ) -> None:
        self.mask_files = list(mask_files)
        self.classes = tuple(classes)
        self.palette = tuple(palette) if palette is not None else default_palette(len(self.classes))
        self.void = void
        self.transforms = transforms
        self.ignore_index = ignore_index
        known = _pairs(type(self).__name__, ids, self.num_classes, ignore_index)
        self._labels = [label for label in sorted(known) if label != void]
        if ids is None:
            known = {ignore_index: ignore_index} | known | {void: ignore_index}
        else:
            known = {void: ignore_index} | known
        # The last place stands for all labels beyond.
        self._table = np.full(_LABELS + 1, _UNKNOWN, np.int64)
        for label, number in known.items():
            if 0 <= label < _LABELS:
                self._table[label] = number

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.mask_files)

    def mask(self, index: int) -> tv_tensors.Mask:
        """The mask alone, int64 ``(H, W)``, without transforms."""
        file = self.mask_files[index]
        pixels = decode(type(self).__name__, file, color=False)
        if pixels.ndim != 2:
            raise DataError(
                message(
                    f"{type(self).__name__}: a mask has {pixels.shape[2]} channels.",
                    given=f"{file}, {(pixels.shape[2], *pixels.shape[:2])}",
                    needed="one channel with the class of every pixel",
                    advice="Colour-coded masks have to be turned into label maps first.",
                )
            )
        wide = pixels.dtype.itemsize > 1
        advice = "The file has 16 bits a pixel, as instance ids have: labels of classes are in another file." if wide else None
        labels: np.ndarray = pixels.astype(np.int64 if wide else np.uint8, copy=False)
        mask = self._table[np.where((labels >= 0) & (labels < _LABELS), labels, _LABELS) if wide else labels]
        wrong = mask == _UNKNOWN
        if wrong.any():
            raise DataError(
                message(
                    f"{type(self).__name__}: a mask holds labels that are no class.",
                    given=f"{np.unique(pixels[wrong])[:8].tolist()} in {file}",
                    needed=f"{_runs(self._labels)}, or {self.void} for void",
                    advice=advice,
                )
            )
        return tv_tensors.Mask(torch.from_numpy(mask))


def decode(who: str, file: Path, color: bool) -> np.ndarray:
    """Pixels ``(H, W)`` or ``(H, W, channels)``; a palette image gives its indices, which is how many label maps are stored."""
    try:
        with Image.open(file) as picture:
            return np.array(picture.convert("RGB") if color else picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(message(f"{who}: a file cannot be decoded.", given=f"{file} ({error})", needed="a PNG or JPEG")) from error


def decode_image(who: str, file: Path) -> tv_tensors.Image:
    """An image, uint8 ``(3, H, W)``."""
    return tv_tensors.Image(torch.from_numpy(decode(who, file, color=True).transpose(2, 0, 1).copy()))


def _pairs(who: str, ids: Any, num_classes: int, ignore_index: int) -> dict[int, int]:
    """``ids`` as a dict of ints; of the classes to themselves if it is absent."""
    if ids is None:
        return {number: number for number in range(num_classes)}
    given = repr(ids)[:100]
    try:
        # A tensor's or an array's items are no ints, but have an index.
        items: Iterable[Any] = ids.items() if isinstance(ids, Mapping) else enumerate(ids)
        pairs = {operator.index(label): operator.index(number) for label, number in items}
        wrong = {k: v for k, v in pairs.items() if not 0 <= k < _LABELS or not (0 <= v < num_classes or v == ignore_index)}
        if wrong:
            given = ", ".join(f"{label}: {number}" for label, number in list(wrong.items())[:5])
    except TypeError:
        pairs, wrong = {}, {}
    if wrong or not pairs:
        raise ConfigError(
            message(
                f"{who}: ids is no table of labels and classes.",
                given=given,
                needed=f"{{label in the files: class, 0 .. {num_classes - 1}, or {ignore_index} for void}}, or the classes of labels 0, 1, 2, ...",
                advice="A label of -1 is 255 in an 8-bit file." if any(label < 0 for label in wrong) else None,
            )
        )
    return pairs


def _runs(labels: Sequence[int]) -> str:
    """Numbers in ascending order, with neighbours as ``first .. last``."""
    edges = [0, *(place for place, (a, b) in enumerate(pairwise(labels), start=1) if b > a + 1), len(labels)]
    runs = [labels[first:last] for first, last in pairwise(edges)]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} .. {run[-1]}" for run in runs if len(run))


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that neighbours in label order do not share (the bit-interleaved map of PASCAL VOC).

    Raises:
        ConfigError: ``num_classes`` is not positive.
    """
    if num_classes < 1:
        raise ConfigError(message("default_palette: num_classes is out of range.", given=repr(num_classes), needed="at least 1"))
    colours = torch.zeros(num_classes, 3, dtype=torch.long)
    labels = torch.arange(1, num_classes + 1)
    for bit in range(7, -1, -1):
        for channel in range(3):
            colours[:, channel] |= (labels >> channel & 1) << bit
        labels = labels >> 3
    return tuple((int(r), int(g), int(b)) for r, g, b in colours)
