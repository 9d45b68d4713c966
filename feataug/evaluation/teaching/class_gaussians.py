"""Class Gaussians: features drawn from label masks without a network, a baseline for every generator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from feataug.core.checks import check_batch, check_features, check_loader, check_masks, check_number
from feataug.core.devices import device_of
from feataug.core.modes import eval_mode
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.cut import Cut
from feataug.errors import DataError
from feataug.generation.layers.class_shares import class_shares

# The weight of the overall mean in a class's mean, in cells.
_PRIOR = 1.0


class ClassGaussians(nn.Module):
    """Draw the feature of each cell from a normal distribution that depends only on the classes in the cell.

    The mean of a cell is the sum of the class means, weighted by the classes' shares of the cell's pixels (void counts as one more class).
    The covariance is the full matrix of the class with the largest share, shrunk towards the pooled covariance of all classes. Noise is
    independent between cells and between levels, so a sample has no texture and no larger structure. Class and register tokens have no
    position in the image: each token has its own mean and covariance, whatever the mask.

    It is a source for ``teaching_score``: ``source(masks, real, rng)``. ``fit`` makes one.

    Args:
        spec: The spec of the cut.
        num_classes: The number of classes ``K``.
        ignore_index: The label of void.
        spread: The factor of the noise. 1 draws from the fitted distribution; 0 gives the class means.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Ours, as the simplest generative model with within-class variety (the class-conditional densities of quadratic discriminant
        analysis).
    """

    def __init__(self, spec: FeatureSpec, num_classes: int, *, ignore_index: int = 255, spread: float = 1.0) -> None:
        super().__init__()
        check_number("ClassGaussians", "num_classes", num_classes, low=1, integer=True)
        check_number("ClassGaussians", "spread", spread, low=0)
        self.spec, self.num_classes, self.ignore_index, self.spread = spec, num_classes, ignore_index, spread
        for number, level in enumerate(spec):
            groups = level.tokens or num_classes + 1
            self.register_buffer(f"mean_{number}", torch.zeros(groups, level.channels))
            self.register_buffer(f"root_{number}", torch.zeros(groups, level.channels, level.channels))

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        cut: Cut,
        loader: Iterable[tuple[Tensor, Tensor]],
        num_classes: int,
        *,
        ignore_index: int = 255,
        spread: float = 1.0,
        device: torch.device | str | None = None,
    ) -> Self:
        """Fit the distributions to the features of real images, in one pass.

        The means come from a linear regression of the features on the class shares: if each cell holds one class, they are the means over
        its cells. A prior worth one cell pulls a class towards the overall mean. Its covariance is that of the residuals of the cells
        where it has the largest share, ``(n cov + C pooled) / (n + C)`` with ``n`` such cells and ``C`` channels. Scaling a channel
        scales the result alike. Sums are float64: ``8 (K + 1) C^2`` bytes for each level.

        Args:
            cut: A cut of the trained model; it encodes in eval mode.
            loader: Yields ``(images, masks)``.
            num_classes: The number of classes ``K``.
            ignore_index: The label of void.
            spread: The factor of the noise.
            device: The device for images and masks; the model's by default.

        Raises:
            DataError: the loader yields nothing.
            ShapeError, DtypeError, LabelError: a batch is no pair of images and masks.
        """
        made = cls(cut.spec, num_classes, ignore_index=ignore_index, spread=spread)
        device = device_of(cut.model) if device is None else device
        sums = [_Moments(level.tokens or num_classes + 1, level.channels) for level in cut.spec]
        empty = True
        with eval_mode(cut.model):
            for batch in check_loader("ClassGaussians", loader):
                images, masks = check_batch("ClassGaussians", batch, cut.model)
                masks = check_masks("ClassGaussians", masks.to(device), num_classes, ignore_index)
                features = cut.encode(images.to(device, memory_format=torch.channels_last))
                for level, found, values in zip(cut.spec, sums, features, strict=True):
                    found.add(_cells(values), made._shares(level, masks, values))
                empty = False
        if empty:
            raise DataError(
                "ClassGaussians: the loader yields nothing.",
                given=type(loader).__name__,
                needed="labelled images, whose features the distributions are fitted to",
            )
        for number, found in enumerate(sums):
            mean, root = found.normal()
            getattr(made, f"mean_{number}").copy_(mean)
            getattr(made, f"root_{number}").copy_(root)
        return made.to(device)

    @torch.no_grad()
    def forward(self, masks: Tensor, real: Sequence[Tensor], rng: torch.Generator) -> tuple[Tensor, ...]:
        """Draw features for masks.

        Args:
            masks: ``(B, H, W)`` int64 at image resolution, classes or ``ignore_index``.
            real: Features of the masks' images. Only their sizes are used.
            rng: The CPU generator that draws the noise.

        Returns:
            One ``(B, channels, h, w)`` tensor for each level, in the encoder's units.

        Raises:
            ShapeError: the features do not fit the spec.
        """
        features = []
        for number, (level, like) in enumerate(zip(self.spec, check_features("ClassGaussians", real, self.spec), strict=True)):
            mean, root = getattr(self, f"mean_{number}"), getattr(self, f"root_{number}")
            shares = self._shares(level, masks, like).to(mean)
            values = shares @ mean
            # Always drawn, so that the next level's noise does not depend on ``spread``.
            noise = torch.randn(len(values), level.channels, generator=rng).to(mean)
            largest = shares.argmax(1)
            for group in largest.unique().tolist():
                cells = largest == group
                values[cells] += self.spread * noise[cells] @ root[group].T
            height, width = like.shape[-2:]
            features.append(rearrange(values, "(b h w) c -> b c h w", h=height, w=width).to(like))
        return tuple(features)

    def settings(self) -> dict[str, Any]:
        """Identify this source, besides the data that it was fitted to."""
        return {"spread": self.spread}

    def _shares(self, level: LevelSpec, masks: Tensor, features: Tensor) -> Tensor:
        """Return the groups' shares of each cell, row by row, ``(B * h * w, groups)``. Each token is a group of its own."""
        if level.tokens:
            return torch.eye(level.tokens, device=masks.device).repeat(len(masks), 1)
        return _cells(_fit_size(class_shares(masks, self.num_classes, level.reduction), features))


class _Moments:
    """Sums of features and shares over cells, by each cell's largest group."""

    def __init__(self, groups: int, channels: int) -> None:
        self.count = torch.zeros(groups, dtype=torch.float64)
        self.squares = torch.zeros(groups, channels, channels, dtype=torch.float64)
        self.products = torch.zeros(groups, groups, channels, dtype=torch.float64)
        self.shares = torch.zeros(groups, groups, groups, dtype=torch.float64)
        self.shift: Tensor | None = None

    def add(self, values: Tensor, shares: Tensor) -> None:
        """Add cells with values ``(N, C)`` and shares ``(N, groups)``."""
        values, shares = values.double(), shares.double()
        if self.shift is None:
            # Centred values keep the precision of their squares where means are large.
            self.shift = values.mean(0)
        values = values - self.shift
        largest = shares.argmax(1)
        for group in largest.unique().tolist():
            x, s = values[largest == group], shares[largest == group]
            self.count[group] += len(x)
            self.squares[group] += (x.T @ x).cpu()
            self.products[group] += (s.T @ x).cpu()
            self.shares[group] += (s.T @ s).cpu()

    def normal(self) -> tuple[Tensor, Tensor]:
        """Return means ``(groups, C)`` and roots of the covariances ``(groups, C, C)``: ``root @ root.T`` is the covariance."""
        assert self.shift is not None
        channels = self.squares.shape[-1]
        products, shares = self.products.sum(0), self.shares.sum(0)
        # Shares sum to one, so the sum over groups is the sum over cells.
        overall = products.sum(0) / self.count.sum()
        centred = products - shares.sum(1, keepdim=True) * overall
        mean = overall + torch.linalg.solve(shares + _PRIOR * torch.eye(len(shares), dtype=torch.float64), centred)
        cross = mean.T @ self.products
        residual = self.squares - cross - cross.mT + mean.T @ self.shares @ mean
        pooled = residual.sum(0) / self.count.sum()
        covariance = (residual + channels * pooled) / (self.count[:, None, None] + channels)
        values, vectors = torch.linalg.eigh(covariance)
        return mean + self.shift.cpu(), vectors * values.clamp(min=0).sqrt()[:, None, :]


def _cells(maps: Tensor) -> Tensor:
    return rearrange(maps, "b c h w -> (b h w) c")


def _fit_size(shares: Tensor, features: Tensor) -> Tensor:
    """Bring shares to the size of a level's features, which may lack the cells at the far edges that the image does not fill."""
    size = features.shape[-2:]
    if all(have >= want for have, want in zip(shares.shape[-2:], size, strict=True)):
        return shares[..., : size[0], : size[1]]
    # A level has more cells than its stride gives, as with padding on all sides.
    return F.interpolate(shares, size, mode="nearest")
