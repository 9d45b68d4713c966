"""New layouts: rare objects of one mask pasted into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feataug.core.checks import check_number, check_sequence
from feataug.core.identity import describe_masks
from feataug.errors import DataError
from feataug.masks.nesting import Nested, check_inner
from feataug.masks.sources import as_source, check_count


class LayoutComposer(Nested):
    """New layouts: objects of rare classes, cut out of one mask and pasted into another.

    Only labels are pasted, so no image has to match. An object stays near its height in the image, because that is where such
    objects occur. Its horizontal position is random, and half of the objects are mirrored.

    Args:
        masks: Where to paste: a mask source, or whatever ``DatasetMasks`` takes.
        donors: Where objects come from, such as ``ClassBalancedMasks``. Its masks must have the size of the others.
        classes: The rare classes.
        objects: Largest number of objects pasted into a mask; at least one is.
        min_pixels: Smaller pieces are not used.
        max_share: Pieces that cover a larger share of the mask are not used.
        shift: Largest vertical move of an object, as a share of the rows.

    Raises:
        DataError: no class is given.
        ConfigError: a number is out of range; or ``masks`` or ``donors`` is a sampler that learns, which the losses of composed
            masks would mislead.

    Source:
        Sec. 3.4 (additional masks); Ghiasi et al. (2021), copy-paste. Ours: in mask space.
    """

    def __init__(
        self,
        masks: Any,
        donors: Any,
        classes: Sequence[int],
        *,
        objects: int = 3,
        min_pixels: int = 24,
        max_share: float = 0.1,
        shift: float = 0.05,
    ) -> None:
        check_sequence("LayoutComposer", "classes", classes, "the rare classes, such as (6, 8, 9)")
        if not len(classes):
            raise DataError("LayoutComposer: no class to paste.", given="()", needed="the rare classes, such as (6, 8, 9)")
        for number in classes:
            plain = number.tolist() if hasattr(number, "tolist") else number  # an element of a tensor or an array
            check_number("LayoutComposer", "one of classes", plain, low=0, integer=True)
        check_number("LayoutComposer", "objects", objects, low=1, integer=True)
        check_number("LayoutComposer", "min_pixels", min_pixels, low=1, integer=True)
        check_number("LayoutComposer", "max_share", max_share, low=0, high=1, open_low=True)
        check_number("LayoutComposer", "shift", shift, low=0, high=1)
        self.masks, self.donors = as_source(masks), as_source(donors)
        check_inner("LayoutComposer", self.masks, self.donors)
        self.classes = tuple(int(number) for number in classes)
        self.objects, self.min_pixels, self.max_share, self.shift = objects, min_pixels, max_share, shift

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.masks}, {self.donors}, classes={self.classes}, objects={self.objects})"

    def inner(self) -> dict[str, Any]:
        """The sources of masks and of objects. If one source is both, it is listed once."""
        return {"masks": self.masks} | ({"donors": self.donors} if self.donors is not self.masks else {})

    def settings(self) -> dict[str, Any]:
        """Everything that decides which masks are drawn, for checkpoints and result files."""
        names = ("classes", "objects", "min_pixels", "max_share", "shift")
        return {name: getattr(self, name) for name in names} | {name: describe_masks(source) for name, source in self.inner().items()}

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` composed masks, ``(n, H, W)`` int64. If a donor holds no object, the mask stays as it is."""
        check_count("LayoutComposer", n)
        masks, donors = self.masks.draw(n, generator), self.donors.draw(n, generator)
        return torch.stack([self._compose(m, d, generator) for m, d in zip(masks, donors, strict=True)]) if n else masks

    def _compose(self, mask: Tensor, donor: Tensor, generator: torch.Generator) -> Tensor:
        labels = {number: components(donor == number) for number in self.classes if bool((donor == number).any())}
        largest = self.max_share * donor.numel()
        pieces = [
            (number, piece)
            for number, found in labels.items()
            for piece, size in enumerate(found.flatten().bincount().tolist())
            if piece and self.min_pixels <= size <= largest
        ]
        if not pieces:
            return mask
        mask = mask.clone()
        count = 1 + int(torch.randint(self.objects, (), generator=generator))
        for pick in torch.randperm(len(pieces), generator=generator)[:count].tolist():
            number, piece = pieces[pick]
            rows, columns = (labels[number] == piece).nonzero().unbind(1)
            draws = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            if draws[0] < 0.5:
                columns = columns.max() + columns.min() - columns
            height, width = mask.shape
            # Anywhere sideways, with at least half of the object inside.
            middle = float(columns.min() + columns.max()) / 2
            columns = columns + round(draws[1] * (width - 1) - middle)
            rows = rows + round((2 * draws[2] - 1) * self.shift * height)
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            mask[rows[inside], columns[inside]] = number
        return mask


def components(region: Tensor) -> Tensor:
    """Label the connected pieces (eight neighbours) of a boolean ``(H, W)`` region: 1, 2, ... in raster order, and 0 outside."""
    from scipy import ndimage  # not at the top: importing it costs a tenth of importing torch

    labels, _ = ndimage.label(region.numpy(), structure=np.ones((3, 3)))
    return torch.from_numpy(labels).long()
