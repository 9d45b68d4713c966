"""The protocol of mask sources, the masks of a data set, and mixtures of sources in fixed proportions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from feataug.core.checks import check_mask_form, check_number, check_sequence, describe, is_sequence
from feataug.core.identity import describe_callable, describe_dataset, describe_masks
from feataug.core.joint_transforms import transform_mask
from feataug.core.randomness import generators_in, seeded
from feataug.errors import ConfigError, DataError, DtypeError, ShapeError
from feataug.masks.nesting import Nested, learns


def check_count(who: str, n: Any) -> None:
    """Raise ``ConfigError`` unless ``n`` masks can be drawn."""
    check_number(f"{who}.draw", "n", n, low=0, high=2**31, integer=True)


def check_source(who: str, masks: Any) -> None:
    """Raise ``ConfigError`` unless ``masks`` is a mask source or can become one by ``as_source``."""
    if isinstance(masks, Mapping) or not (callable(getattr(masks, "draw", None)) or is_sequence(masks)):
        needed = "a mask source, an object with draw(n, generator) -> (n, H, W); or a data set, a sequence or a tensor of masks"
        raise ConfigError(f"{who}: masks cannot draw.", given=type(masks).__name__, needed=needed)


@runtime_checkable
class MaskSource(Protocol):
    """Anything that can draw masks.

    A source may also have ``bind(score)``: a ``FeatureMixer`` calls it with a function from masks ``(n, H, W)`` to the current
    decoder's losses ``(n,)``. docs/extend.md lists the other optional methods.
    """

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` masks, ``(n, H, W)`` int64. ``generator`` (on the CPU) is the only source of randomness."""
        ...


class DatasetMasks:
    """Masks drawn evenly from a data set.

    Args:
        dataset: A tensor ``(N, H, W)``, a sequence of masks ``(H, W)``, or a data set of ``(image, mask)``. If the data set has a
            method ``mask(index)``, as ours have, no image is read.
        transforms: Applied to each mask, such as the random crop of training. The default is the data set's own ``transforms``, if
            it has both these and ``mask(index)``. They are called with the mask alone; transforms that require ``(image, mask)``,
            or ``image=`` and ``mask=`` as albumentations do, also get a black image. All generators that they may draw from (see
            ``data.seeded_loader``) are seeded for each mask and restored afterwards.

    Raises:
        DataError: the data set is empty.

    Source:
        Sec. 3: masks from the training set.
    """

    def __init__(self, dataset: Any, transforms: Callable[..., Any] | None = None) -> None:
        if not is_sequence(dataset):
            raise DataError(
                "DatasetMasks: this is not a data set.",
                given=describe(dataset),
                needed="a tensor (N, H, W), a sequence of masks, or a data set with a length and items",
            )
        if isinstance(dataset, Tensor) and (dataset.ndim != 3 or len(dataset)):
            check_mask_form("DatasetMasks", dataset)
        if len(dataset) == 0:
            raise DataError("DatasetMasks: the data set is empty.", given=type(dataset).__name__, needed="at least one mask")
        self.dataset = dataset
        self.transforms = transforms
        self._mask = getattr(dataset, "mask", None)
        if transforms is None and callable(self._mask):
            self.transforms = getattr(dataset, "transforms", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} masks of {type(self.dataset).__name__})"

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` masks with replacement, ``(n, H, W)`` int64.

        Raises:
            ShapeError: the masks differ in size.
            DtypeError: an item is not an integer mask ``(H, W)``.
        """
        check_count("DatasetMasks", n)
        indices = torch.randint(len(self.dataset), (n,), generator=generator).tolist()
        if isinstance(self.dataset, Tensor) and self.transforms is None:
            return self.dataset[indices].long()
        seeds = torch.randint(2**62, (n,), generator=generator).tolist()
        masks = [self.item(index, seed) for index, seed in zip(indices, seeds, strict=True)]
        return self.stack(masks) if masks else torch.zeros(0, *self.item(0, 0).shape, dtype=torch.long)

    @staticmethod
    def stack(masks: Sequence[Tensor]) -> Tensor:
        """Stack masks of one size to ``(n, H, W)``.

        Raises:
            ShapeError: the masks differ in size.
        """
        sizes = {tuple(mask.shape) for mask in masks}
        if len(sizes) > 1:
            raise ShapeError(
                "DatasetMasks: the masks differ in size.",
                given=", ".join(map(str, sorted(sizes)[:4])),
                needed="one size",
                advice="Pass transforms= that crop or resize the masks to the size of the training images.",
            )
        return torch.stack(list(masks))

    def item(self, index: int, seed: int) -> Tensor:
        """One mask ``(H, W)``, transformed; ``seed`` seeds the random transforms.

        Raises:
            DtypeError, ShapeError: the item is not a mask.
        """
        with seeded(seed, generators_in(self.dataset, self.transforms)):
            mask = self._mask(index) if callable(self._mask) else self.dataset[index]
            if isinstance(mask, (tuple, list)) and len(mask) == 2:
                mask = mask[1]
            if self.transforms is not None:
                if type(mask) is Tensor:
                    # torchvision's transforms treat a plain tensor as an image.
                    from torchvision import tv_tensors  # not at the top: importing it costs a tenth of importing torch

                    mask = tv_tensors.Mask(mask)
                mask = transform_mask("DatasetMasks", self.transforms, mask)
        try:
            mask = torch.as_tensor(mask)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DtypeError("DatasetMasks: an item is not a mask.", given=describe(mask), needed="(H, W) integers") from error
        if mask.ndim == 2:
            check_mask_form("DatasetMasks", mask[None])
        else:
            raise ShapeError("DatasetMasks: an item is not a mask.", given=describe(mask), needed="(H, W) integers")
        return mask.long()

    def settings(self) -> dict[str, Any]:
        """Everything that decides which masks are drawn, for checkpoints and result files."""
        return {"dataset": describe_dataset(self.dataset), "transforms": describe_callable(self.transforms)}


class MaskMixture(Nested):
    """Draws from several sources in fixed proportions.

    Args:
        sources: Mask sources, or whatever ``DatasetMasks`` takes.
        weights: One for each source: ``(3, 1)`` for three masks of the first to one of the second.

    A share that is not a whole number is rounded at random, so that its mean over draws is exact. Samplers work in a mixture, or in
    a mixture of mixtures, as they do alone: they get the ``FeatureMixer``'s score and the losses of the masks that they drew, and
    their states are saved.

    Raises:
        ConfigError: the numbers of sources and weights differ, or a weight is not positive.

    Source:
        Sec. 4.5 (training masks to additional masks 3 : 1 in each sampled batch).
    """

    def __init__(self, sources: Sequence[Any], weights: Sequence[float]) -> None:
        check_sequence("MaskMixture", "sources", sources, "mask sources, such as [masks, others]")
        check_sequence("MaskMixture", "weights", weights, "one number for each source, such as (3, 1)")
        if len(sources) != len(weights) or not len(sources):
            raise ConfigError(
                "MaskMixture: one weight is needed for each source.",
                given=f"{len(sources)} sources, {len(weights)} weights",
                needed="one weight per source, at least one source",
            )
        for number, weight in enumerate(weights):
            check_number("MaskMixture", f"weights[{number}]", weight, low=0, open_low=True)
        self.sources = [as_source(source) for source in sources]
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self._last: tuple[Tensor, Tensor, list[tuple[Any, Tensor]]] | None = None

    def __repr__(self) -> str:
        weights = ", ".join(f"{weight:g}" for weight in self.weights.tolist())
        return f"{type(self).__name__}({self.sources}, weights=({weights}))"

    @property
    def learn(self) -> bool:
        """Whether a source takes the losses of its masks."""
        return any(learns(source) for source in self.sources)

    def inner(self) -> dict[str, Any]:
        """The sources, by their positions."""
        return {str(number): source for number, source in enumerate(self.sources)}

    def settings(self) -> dict[str, Any]:
        """Everything that decides which masks are drawn, for checkpoints and result files."""
        return {"weights": self.weights.tolist(), "sources": [describe_masks(source) for source in self.sources]}

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` masks in random order, ``(n, H, W)`` int64.

        Raises:
            ShapeError: the sources' masks differ in size.
        """
        check_count("MaskMixture", n)
        edges = (self.weights.cumsum(0) / self.weights.sum()) * n
        # Systematic sampling: of points one apart, shifted at random, each share gets its length, rounded down or up.
        points = torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(n)
        chosen = torch.searchsorted(edges, points, right=True).clamp(max=len(self.sources) - 1)
        counts = torch.bincount(chosen, minlength=len(self.sources)).tolist()
        pairs = [(s, s.draw(count, generator)) for s, count in zip(self.sources, counts, strict=True) if count]
        drawn = [masks for _, masks in pairs]
        if len({tuple(masks.shape[1:]) for masks in drawn}) > 1:
            raise ShapeError(
                "MaskMixture: the sources' masks differ in size.",
                given=", ".join(str(tuple(masks.shape[1:])) for masks in drawn),
                needed="one size",
                advice="Crop them alike: DatasetMasks(masks, transforms=train_transforms((512, 512))).",
            )
        # If no masks are drawn, the first source still knows the size.
        masks = torch.cat(drawn or [self.sources[0].draw(0, generator)])
        order = torch.randperm(n, generator=generator)
        masks = masks[order]
        self._last = (masks, order, pairs) if self.learn else None
        return masks

    def observe(self, masks: Tensor, losses: Tensor) -> None:
        """Pass the losses on to the sources that drew the masks and learn from them; a ``FeatureMixer`` calls it from ``loss``.

        Args:
            masks: The tensor that the last ``draw`` returned. Any other tensor is ignored, since its masks cannot be traced to
                sources.
            losses: One for each mask, on any device.
        """
        if self._last is None or masks is not self._last[0]:
            return
        (_, order, pairs), self._last = self._last, None
        by_source = torch.empty_like(losses)
        by_source[order.to(losses.device)] = losses
        for (source, own_masks), own_losses in zip(pairs, by_source.split([len(own) for _, own in pairs]), strict=True):
            if learns(source):
                source.observe(own_masks, own_losses)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state)
        self._last = None


def as_source(masks: Any) -> MaskSource:
    """``masks`` itself if it has ``draw``, else ``DatasetMasks(masks)``."""
    return masks if isinstance(masks, MaskSource) else DatasetMasks(masks)
