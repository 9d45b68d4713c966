"""Masks drawn evenly by class instead of evenly by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_masks, check_number
from feataug.core.identity import describe_masks
from feataug.errors import DataError
from feataug.masks.sources import DatasetMasks, check_count


class ClassBalancedMasks:
    """Draws a class, each with the same probability, and then a mask that holds it.

    Args:
        dataset: As for ``DatasetMasks``. Every mask is read once, without transforms, to see which classes it holds.
        num_classes: Number of classes ``K``.
        transforms: As for ``DatasetMasks``. A random crop that misses the class is drawn again, up to ``tries`` times in all.
        min_pixels: A mask holds a class if at least this many pixels have it.
        tries: Largest number of crops of one mask.
        ignore_index: Label of void.

    Raises:
        DataError: no mask holds any class.
        LabelError: a mask holds a value that is neither a class nor ``ignore_index``.

    Source:
        Class-uniform sampling, Zhu et al. (2019), Sec. 3.3, for masks.
    """

    def __init__(
        self,
        dataset: Any,
        num_classes: int,
        transforms: Callable[[Tensor], Tensor] | None = None,
        *,
        min_pixels: int = 16,
        tries: int = 4,
        ignore_index: int = 255,
    ) -> None:
        check_number("ClassBalancedMasks", "num_classes", num_classes, low=1, integer=True)
        check_number("ClassBalancedMasks", "min_pixels", min_pixels, low=1, integer=True)
        check_number("ClassBalancedMasks", "tries", tries, low=1, high=1000, integer=True)
        self.masks = DatasetMasks(dataset, transforms)
        self.num_classes, self.min_pixels, self.tries = num_classes, min_pixels, tries
        # As stored: the data set's own transforms would crop at random.
        plain = DatasetMasks(dataset, torch.as_tensor)
        held: list[list[int]] = [[] for _ in range(num_classes)]
        for index in range(len(plain)):
            (mask,) = check_masks("ClassBalancedMasks", plain.item(index, 0)[None], num_classes, ignore_index)
            counts = torch.bincount(mask[mask != ignore_index], minlength=num_classes)
            for number in (counts >= min_pixels).nonzero().flatten().tolist():
                held[number].append(index)
        self.held = {number: indices for number, indices in enumerate(held) if indices}
        if not self.held:
            raise DataError(
                "ClassBalancedMasks: no mask holds a class.",
                given=f"{len(plain)} masks",
                needed=f"{min_pixels} pixels of one class",
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.masks}, {len(self.held)} classes)"

    def settings(self) -> dict[str, Any]:
        """Everything that decides which masks are drawn, for checkpoints and result files."""
        numbers = {"min_pixels": self.min_pixels, "tries": self.tries, "num_classes": self.num_classes}
        return numbers | {"masks": describe_masks(self.masks)}

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` masks, ``(n, H, W)`` int64."""
        check_count("ClassBalancedMasks", n)
        if not n:
            return self.masks.draw(0, generator)
        classes = list(self.held)
        masks = []
        with torch.random.fork_rng(devices=[]):
            for pick in torch.randint(len(classes), (n,), generator=generator).tolist():
                indices = self.held[classes[pick]]
                index = indices[int(torch.randint(len(indices), (), generator=generator))]
                # All seeds are drawn, used or not, so that the masks do not change how many random numbers a draw takes.
                for seed in torch.randint(2**62, (self.tries,), generator=generator).tolist():
                    mask = self.masks.item(index, seed)
                    if int((mask == classes[pick]).sum()) >= self.min_pixels:
                        break
                masks.append(mask)
        return self.masks.stack(masks)
