"""New layouts: rare objects of one mask pasted into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from feataug.core.checks import check_number, check_sequence
from feataug.core.identity import describe_masks
from feataug.errors import DataError, message
from feataug.masks.nesting import Nested, check_inner
from feataug.masks.sources import as_source, check_count


class LayoutComposer(Nested):
    """New layouts: objects of rare classes, cut out of one mask and pasted into another.

    No image is needed, and nothing has to fit but the labels. An object stays near its height in the image, where such objects are;
    sideways it goes anywhere, and half of them are mirrored.

    Args:
        masks: Where to paste: a mask source, or whatever ``DatasetMasks`` takes.
        donors: Where objects come from, such as ``ClassBalancedMasks``; its masks have the size of the others.
        classes: The rare classes.
        objects: Objects in a mask: a number from 1 to this.
        min_pixels: Smaller pieces are no objects.
        max_share: Pieces that cover more of the mask are no objects.
        shift: How far an object may move up or down, as a share of the rows.

    Raises:
        DataError: no class is given.
        ConfigError: a number is out of range, or ``masks`` or ``donors`` is a sampler that learns: the losses are those of other masks.

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
            raise DataError(message("LayoutComposer: no class to paste.", given="()", needed="the rare classes, such as (6, 8, 9)"))
        for number in classes:
            plain = number.tolist() if hasattr(number, "tolist") else number  # of a tensor or an array
            check_number("LayoutComposer", "one of classes", plain, low=0, integer=True)
        check_number("LayoutComposer", "objects", objects, low=1, integer=True)
        check_number("LayoutComposer", "min_pixels", min_pixels, low=1, integer=True)
        check_number("LayoutComposer", "max_share", max_share, low=0, high=1, open_low=True)
        check_number("LayoutComposer", "shift", shift, low=0, high=1)
        self.masks, self.donors = as_source(masks), as_source(donors)
        check_inner("LayoutComposer", self.masks, self.donors)
        self.classes = tuple(int(number) for number in classes)
        self.objects, self.min_pixels, self.max_share, self.shift = objects, min_pixels, max_share, shift

    def inner(self) -> dict[str, Any]:
        """Where is pasted, and where the objects come from; a source that is both counts once."""
        return {"masks": self.masks} | ({"donors": self.donors} if self.donors is not self.masks else {})

    def settings(self) -> dict[str, Any]:
        """What decides which masks are drawn, for checkpoints and result files."""
        names = ("classes", "objects", "min_pixels", "max_share", "shift")
        return {name: getattr(self, name) for name in names} | {name: describe_masks(source) for name, source in self.inner().items()}

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` composed masks, ``(n, H, W)`` int64; where the donor holds no object the mask stays as it is."""
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
            # Anywhere sideways, as long as half of it is in the picture.
            middle = float(columns.min() + columns.max()) / 2
            columns = columns + round(draws[1] * (width - 1) - middle)
            rows = rows + round((2 * draws[2] - 1) * self.shift * height)
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            mask[rows[inside], columns[inside]] = number
        return mask


def components(region: Tensor) -> Tensor:
    """Number of the connected piece (eight neighbours) at each pixel of a boolean ``(H, W)`` region: 1, 2, ..., and 0 outside.

    Runs of a row are joined with those that they touch in the row above, so that the work grows with the runs, not with the pixels.
    """
    edges = torch.diff(F.pad(region.int(), (1, 1)), dim=1)
    row_of, starts = (x.tolist() for x in (edges == 1).nonzero().unbind(1))
    ends = (edges == -1).nonzero()[:, 1].tolist()
    parent = list(range(len(starts)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0
    for run, row in enumerate(row_of):
        # Ends are exclusive, and diagonal neighbours touch. Runs of the row above that end before this one begins are done with.
        while above < run and (row_of[above] < row - 1 or (row_of[above] == row - 1 and ends[above] < starts[run])):
            above += 1
        other = above
        while other < run and row_of[other] == row - 1 and starts[other] <= ends[run]:
            parent[root(run)] = root(other)
            other += 1
    numbers: dict[int, int] = {}
    of_run = torch.tensor([numbers.setdefault(root(run), len(numbers) + 1) for run in range(len(starts))], dtype=torch.long)
    labels = torch.zeros(region.shape, dtype=torch.long)
    # Pixels of the region come row by row, and so do the runs.
    labels[region] = of_run.repeat_interleave(torch.tensor(ends, dtype=torch.long) - torch.tensor(starts, dtype=torch.long))
    return labels
