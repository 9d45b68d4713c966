"""Class Gaussians: features drawn from label masks without any network, the baseline for every generator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.core.checks import check_batch, check_features, check_loader, check_masks, check_number
from feataug.core.modes import eval_mode
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.cut import Cut
from feataug.errors import DataError, message
from feataug.generation.layers.class_shares import class_shares

# Cells that the overall mean counts for beside those of a class.
_PRIOR = 1.0


class ClassGaussians(nn.Module):
    """Draw the feature of each cell from a normal distribution that depends on the classes in that cell alone.

    The mean of a cell is the sum of the classes' means, weighted by their shares of the cell's pixels (void counts as one more class). The
    covariance is that of the class with the largest share; it has all of its entries, and is shrunk towards the covariance that all classes
    share. Noise is independent between cells and between levels, so that a sample has no texture and no larger structure. Class and register
    tokens have no place in the image: each token has a mean and a covariance of its own, whatever the mask is.

    It is a source for ``teaching_score``: ``source(masks, real, rng)``. ``fit`` makes one.

    Args:
        spec: What crosses the cut.
        num_classes: Number of classes ``K``.
        ignore_index: Label of void.
        spread: Factor of the noise. 1 draws from the fitted distribution; 0 gives the class means alone.

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

        The means are those of a linear regression of the features on the class shares: where each cell holds one class, they are the means
        over its cells. A class is drawn towards the overall mean by a prior worth one cell. Its covariance is that of the residuals of the
        cells where it has the largest share, ``(n cov + C pooled) / (n + C)`` with ``n`` such cells and ``C`` channels. All of this is
        the same for standardised features, whatever the units are. Sums are kept in float64: ``8 (K + 1) C^2`` bytes for each level.

        Args:
            cut: A cut of the trained model; it encodes in eval mode.
            loader: Yields ``(images, masks)``.
            num_classes: Number of classes ``K``.
            ignore_index: Label of void.
            spread: Factor of the noise.
            device: Where images and masks are sent; where the model is by default.

        Raises:
            DataError: the loader yields nothing.
            ShapeError, DtypeError, LabelError: a batch is no pair of images and masks.
        """
        made = cls(cut.spec, num_classes, ignore_index=ignore_index, spread=spread)
        device = next((p.device for p in cut.model.parameters()), torch.device("cpu")) if device is None else device
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
                message(
                    "ClassGaussians: the loader yields nothing.",
                    given=type(loader).__name__,
                    needed="labelled images, whose features the distributions are fitted to",
                )
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
            real: Features of the images that the masks belong to. Only their sizes are read.
            rng: A CPU generator, from which the noise is drawn.

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
            # Drawn even where it is not used: a source must not decide how many random numbers the next one finds.
            noise = torch.randn(len(values), level.channels, generator=rng).to(mean)
            largest = shares.argmax(1)
            for group in largest.unique().tolist():
                cells = largest == group
                values[cells] += self.spread * noise[cells] @ root[group].T
            shape = (len(like), *like.shape[-2:], level.channels)
            features.append(values.view(shape).permute(0, 3, 1, 2).to(like))
        return tuple(features)

    def settings(self) -> dict[str, Any]:
        """What tells this source from others, besides what it was fitted to."""
        return {"spread": self.spread}

    def _shares(self, level: LevelSpec, masks: Tensor, features: Tensor) -> Tensor:
        """For each cell of the features, row by row, the shares of the groups, ``(B * h * w, groups)``; a token is a group of its own."""
        if level.tokens:
            return torch.eye(level.tokens, device=masks.device).repeat(len(masks), 1)
        return _cells(_sized(class_shares(masks, self.num_classes, level.reduction), features))


class _Moments:
    """Sums of features and shares over cells, by the group with the largest share."""

    def __init__(self, groups: int, channels: int) -> None:
        self.count = torch.zeros(groups, dtype=torch.float64)
        self.squares = torch.zeros(groups, channels, channels, dtype=torch.float64)
        self.products = torch.zeros(groups, groups, channels, dtype=torch.float64)
        self.shares = torch.zeros(groups, groups, groups, dtype=torch.float64)
        self.shift: Tensor | None = None

    def add(self, values: Tensor, shares: Tensor) -> None:
        """Count cells: ``values`` are ``(N, C)``, ``shares`` ``(N, groups)``."""
        values, shares = values.double(), shares.double()
        if self.shift is None:
            # Squares of small numbers: nothing is lost where means are large.
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
        """Means ``(groups, C)``, and roots of the covariances ``(groups, C, C)``: ``root @ root.T`` is the covariance."""
        assert self.shift is not None
        channels = self.squares.shape[-1]
        products, shares = self.products.sum(0), self.shares.sum(0)
        # Shares sum to one, so that the sum over groups is the sum over cells.
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
    """``(B, C, h, w)`` as ``(B * h * w, C)``."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _sized(shares: Tensor, features: Tensor) -> Tensor:
    """Shares in the size of a level's features, which may leave out cells at the far edges that the image does not fill."""
    size = features.shape[-2:]
    if all(have >= want for have, want in zip(shares.shape[-2:], size, strict=True)):
        return shares[..., : size[0], : size[1]]
    # Only where a level has more cells than its stride gives, as with padding on all sides.
    return F.interpolate(shares, size, mode="nearest")
