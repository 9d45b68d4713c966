"""Check that labels are not mistaken for void, before hours of training and before meaningless figures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from feataug.errors import DataError, FeatAugWarning

# Masks that are read first; sets up to this size are read whole before training; masks that are read if the first ones look wrong.
_FIRST, _WHOLE, _MOST = 16, 64, 256


def check_labels(who: str, *sources: Any, training: bool = False) -> None:
    """Read some masks of each source that is based on a reader of ``feataug.data``; other sources are ignored.

    Args:
        who: Name of the caller, for messages.
        sources: Loaders, data sets and mask sources.
        training: Whether to warn about classes that occur in no mask, if the set is small enough to read all of it.

    Raises:
        DataError: the masks hold one class and the default label of void only, as binary masks of 0 and 255 do.
    """
    for source in sources:
        reader = _reader(source)
        if reader is None or reader.num_classes < 2:
            continue
        try:
            counts = reader.label_counts(_WHOLE if training and len(reader) <= _WHOLE else _FIRST)
            if reader.void_is_assumed and one_class(counts.classes, counts.void):
                counts = reader.label_counts(_MOST)
        except (DataError, OSError):
            continue  # reading that mask later raises or skips it
        names = reader.classes
        if reader.void_is_assumed and one_class(counts.classes, counts.void):
            raise _binary(who, reader, counts)
        if training and counts.complete and counts.absent:
            warnings.warn(
                f"{who}: no mask holds these classes: {listed([names[k] for k in counts.absent])} (all {counts.masks} masks were read). They "
                "cannot be learned from these masks.",
                FeatAugWarning,
                stacklevel=3,
            )


class FirstLabels:
    """Checks the masks of a training's first batches, from any source, until two classes have occurred.

    Args:
        who: Name of the caller, for messages.
        ignore_index: Label of void.
        batches: Number of batches after which one class and void only is an error.
    """

    def __init__(self, who: str, ignore_index: int, batches: int = _FIRST) -> None:
        self.who, self.ignore_index, self.left = who, ignore_index, batches
        self._pixels: dict[int, int] = {}

    def look(self, masks: Tensor, num_classes: int | None = None) -> None:
        """Count a batch's labels.

        Args:
            masks: ``(B, H, W)``, preferably on the CPU, because a GPU would have to be waited for.
            num_classes: Number of classes; ``None`` if it is unknown.

        Raises:
            DataError: this was the last of the batches, and all of them held one class and void only.
        """
        if self.left <= 0:
            return
        self.left -= 1
        for label, count in zip(*(x.tolist() for x in masks.unique(return_counts=True)), strict=True):
            self._pixels[label] = self._pixels.get(label, 0) + count
        held = sorted(label for label in self._pixels if label != self.ignore_index)
        if len(held) > 1 or num_classes == 1:
            self.left = 0
        elif not self.left and len(held) == 1 and self.ignore_index in self._pixels:
            classes = [0] * max(2, num_classes or 0, held[0] + 1)
            classes[held[0]] = self._pixels[held[0]]
            refuse_one_class(self.who, classes, self._pixels[self.ignore_index], self.ignore_index, "so that nothing can be learned")


def one_class(classes: Sequence[int], void: int) -> bool:
    """Whether all pixels belong to one class or to void, although there are more classes."""
    return len(classes) > 1 and void > 0 and sum(count > 0 for count in classes) == 1


def refuse_one_class(
    who: str, classes: Sequence[int], void: int, ignore_index: int, effect: str = "so that the measures say nothing"
) -> None:
    """Raise ``DataError`` if all masks that were used hold one class and void only."""
    if not one_class(classes, void):
        return
    held = next(number for number, count in enumerate(classes) if count)
    raise DataError(
        f"{who}: the masks hold one class and void only, {effect}.",
        given=f"{classes[held]} pixels of class {held}, {void} of void ({ignore_index}), none of the other {len(classes) - 1}",
        needed="pixels of two classes or more",
        advice=f"If {ignore_index} is a class in the files, say so: the readers take ids={{0: 0, 255: 1}}. To measure "
        "such a set all the same, use feataug.SegmentationMetrics.",
    )


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names separated by commas; those beyond ``most`` are counted."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _reader(source: Any) -> Any:
    """The reader that a loader, a subset or a mask source is based on."""
    for _ in range(6):
        if callable(getattr(source, "label_counts", None)):
            return source
        source = next((inner for name in ("dataset", "source") if (inner := getattr(source, name, None)) is not None), None)
    return None


def _binary(who: str, reader: Any, counts: Any) -> DataError:
    names, held = reader.classes, next(number for number, count in enumerate(counts.classes) if count)
    other = next(number for number in counts.absent)
    plain = ", ".join(f"{number}: {number}" for number in range(len(names)))
    asked = f"ids={{{held}: {held}, {reader.void}: {other}}}"
    return DataError(
        f"{who}: the masks hold one class and void only.",
        given=f'label {held} ("{names[held]}") and label {reader.void}, which was taken for void, in '
        f"{counts.masks} of {counts.of} masks; no pixel of {listed([names[k] for k in counts.absent])}",
        needed="pixels of two classes or more",
        advice=f'If {reader.void} stands for "{names[other]}", pass {asked} to {type(reader).__name__} (--ids {held}={held} '
        f"{reader.void}={other}).\nIf it is void, say so: ids={{{plain}, {reader.void}: {reader.ignore_index}}}."
        if len(names) <= 8
        else f"If {reader.void} is a class, pass ids= to {type(reader).__name__}: the class of each label in the files.",
    )
