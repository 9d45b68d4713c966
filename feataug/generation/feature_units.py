"""The units of features: the encoder's own, and standardised ones, in which networks are trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feataug.core.checks import check_features
from feataug.core.specs import FeatureSpec


class FeatureUnits(nn.Module):
    """Mean and standard deviation of each channel of real features, as buffers of a generator.

    Attributes:
        fitted: Whether ``set_statistics`` was called.
    """

    spec: FeatureSpec
    fitted: Tensor

    def _add_statistics(self, spec: FeatureSpec) -> None:
        """Register the buffers: mean 0 and standard deviation 1 until ``set_statistics`` is called."""
        for number, level in enumerate(spec):
            # Tokens differ from each other more than the cells of a map do, so each token has its own statistics.
            shape = (level.channels, level.tokens) if level.tokens else (level.channels,)
            self.register_buffer(f"mean_{number}", torch.zeros(shape))
            self.register_buffer(f"std_{number}", torch.ones(shape))
        self.register_buffer("fitted", torch.tensor(False))

    def set_statistics(self, means: Sequence[Tensor], stds: Sequence[Tensor]) -> None:
        """Store the mean and standard deviation of the real features per channel, one ``(channels,)`` pair per level.

        For class and register tokens they are ``(channels, tokens)``. The standard deviation of a constant channel is replaced by 1, to
        avoid a division by zero.
        """
        for number, (mean, std) in enumerate(zip(means, stds, strict=True)):
            getattr(self, f"mean_{number}").copy_(mean)
            getattr(self, f"std_{number}").copy_(torch.where(std > 1e-8, std, torch.ones_like(std)))
        self.fitted.fill_(True)

    def standardize(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Convert from the encoder's units to mean 0 and variance 1 per channel.

        Raises:
            ShapeError: the features do not fit the spec.
        """
        features = check_features("FeatureGenerator", features, self.spec)
        return tuple((x - self._statistic("mean", i)) / self._statistic("std", i) for i, x in enumerate(features))

    def destandardize(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inverse of ``standardize``."""
        return tuple(x * self._statistic("std", i) + self._statistic("mean", i) for i, x in enumerate(features))

    def _statistic(self, name: str, level: int) -> Tensor:
        value: Tensor = getattr(self, f"{name}_{level}")
        return value[:, None, :] if value.ndim == 2 else value[:, None, None]
