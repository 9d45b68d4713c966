"""Synthetic samples that are drawn again, and made beside the encoder: what a mixer does so that generating costs a step less."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_number
from feataug.errors import ConfigError, message

Make = Callable[[Tensor, Tensor], tuple[tuple[Tensor, ...], Tensor]]


class SyntheticCache:
    """Masks and noise of synthetic samples, and their features once they are made.

    Args:
        size: Samples that are kept.
        fresh: Share of a step's samples that are new, each in the place of the oldest one.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Ours.
    """

    def __init__(self, size: int, fresh: float) -> None:
        check_number("FeatureMixer", "bank", size, low=1, integer=True)
        check_number("FeatureMixer", "fresh", fresh, low=0, high=1)
        self.size, self.fresh = size, fresh
        self.clear()

    def clear(self) -> None:
        """Forget all samples."""
        self.count = 0
        self.masks: Tensor | None = None
        self.z: Tensor | None = None
        self.made = [False] * self.size
        self.features: tuple[Tensor, ...] = ()
        self.labels: Tensor | None = None

    def draw(
        self,
        n: int,
        draw: Callable[[int, torch.Generator], Tensor],
        latent_dim: int,
        rng: torch.Generator,
        size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples of the bank without repetition, then new ones: masks ``(n, H, W)``, noise ``(n, latent_dim)``, places ``(n,)``.

        Until the bank is full all are new, as they are where masks change their size, or where the kept ones are not of ``size``.

        Raises:
            ConfigError: ``n`` exceeds the bank's size.
        """
        if n > self.size:
            raise ConfigError(
                message(
                    "FeatureMixer: the bank holds fewer samples than a step takes.",
                    given=f"bank={self.size}, {n} synthetic samples",
                    needed=f"bank of at least {n}; of some hundreds to be of use",
                )
            )
        if self.masks is not None and size is not None and self.masks.shape[1:] != size:
            self.clear()
        new = n if self.count < self.size else at_random(n * self.fresh, rng)
        if self.fresh or new or self.masks is None:
            masks = draw(new, rng)
            if self.masks is not None and new and masks.shape[1:] != self.masks.shape[1:]:
                self.clear()
                masks, new = torch.cat([masks, draw(n - new, rng)]), n
        else:
            # Nothing is ever drawn again from a source that has filled the bank.
            masks = torch.zeros(0, *self.masks.shape[1:], dtype=torch.long)
        z = torch.randn(new, latent_dim, generator=rng)
        places = (torch.arange(new) + self.count) % self.size
        others = (torch.arange(self.size - new) + self.count + new) % self.size
        old = others[torch.randperm(len(others), generator=rng)[: n - new]]
        self._put(places, masks, z)
        if self.masks is None or self.z is None:
            return masks, z, places
        places = torch.cat([old, places])
        return self.masks[places].to(masks.dtype), self.z[places], places

    def take(self, places: Tensor, masks: Tensor, z: Tensor, make: Make) -> tuple[tuple[Tensor, ...], Tensor]:
        """Features and masks of ``places``; those that are not there are made of their ``masks`` and ``z``."""
        if self.labels is not None and self.labels.device != masks.device:
            self.features, self.labels = tuple(f.to(masks.device) for f in self.features), self.labels.to(masks.device)
        missing = [number for number, place in enumerate(places.tolist()) if not self.made[place]]
        if missing:
            features, labels = make(masks[missing], z[missing])
            if self.labels is None:
                # In whatever memory format: joining brings samples into that of the real ones.
                self.features = tuple(f.new_zeros(self.size, *f.shape[1:]) for f in features)
                self.labels = labels.new_zeros(self.size, *labels.shape[1:], dtype=torch.int16)
            where = places[missing].to(masks.device)
            for kept, new in zip((*self.features, self.labels), (*features, labels), strict=True):
                kept[where] = new.to(kept.dtype)
            for place in places[missing].tolist():
                self.made[place] = True
        assert self.labels is not None
        where = places.to(masks.device)
        return tuple(kept[where] for kept in self.features), self.labels[where]

    def state(self) -> dict[str, Any]:
        """A copy of everything, features included: made again they might differ in their last bits."""
        kept = {"masks": self.masks, "z": self.z, "labels": self.labels}
        tensors = {name: None if value is None else value.clone() for name, value in kept.items()}
        return tensors | {"count": self.count, "made": list(self.made), "features": [feature.clone() for feature in self.features]}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.count, self.masks, self.z, self.made = state["count"], state["masks"], state["z"], list(state["made"])
        self.features, self.labels = tuple(state["features"]), state["labels"]

    def _put(self, places: Tensor, masks: Tensor, z: Tensor) -> None:
        """New samples in the places of the oldest."""
        if not len(places):
            return
        if self.masks is None or self.z is None:
            # Of int16, a quarter of int64: labels are few.
            self.masks = torch.zeros(self.size, *masks.shape[1:], dtype=torch.int16)
            self.z = torch.zeros(self.size, z.shape[1])
        self.masks[places], self.z[places] = masks.cpu().to(torch.int16), z
        for place in places.tolist():
            self.made[place] = False
        self.count += len(places)


def at_random(exact: float, rng: torch.Generator) -> int:
    """``exact`` or a neighbour, so that the mean is exact."""
    return math.floor(exact) + int(torch.rand((), generator=rng, dtype=torch.float64) < exact - math.floor(exact))
