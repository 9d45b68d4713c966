"""A cache of synthetic samples, so that a training step generates only some of those that it uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_number
from feataug.errors import ConfigError

Generate = Callable[[Tensor, Tensor], tuple[tuple[Tensor, ...], Tensor]]


class SyntheticCache:
    """A ring of slots, each with the mask and noise (or its seed) of a sample, and with its features once they are generated.

    Args:
        size: Number of slots.
        fresh: Share of the steps whose samples are all new; each replaces the oldest one.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, size: int, fresh: float) -> None:
        check_number("FeatureMixer", "bank", size, low=1, integer=True)
        check_number("FeatureMixer", "fresh", fresh, low=0, high=1)
        self.size, self.fresh = size, fresh
        self.clear()

    def clear(self) -> None:
        """Drop all samples."""
        self.count = 0
        self.masks: Tensor | None = None
        self.z: Tensor | None = None
        self.made = [False] * self.size
        self.features: tuple[Tensor, ...] = ()
        self.labels: Tensor | None = None

    def draw(
        self,
        n: int,
        draw_masks: Callable[[int, torch.Generator], Tensor],
        draw_noise: Callable[[Tensor, torch.Generator], Tensor],
        rng: torch.Generator,
        size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose cached samples without repetition, followed by new ones.

        All samples are new until the cache is full. It is emptied first if its masks are not of ``size``, or if the source draws
        masks of another size.

        Returns:
            Masks ``(n, H, W)``, noise ``(n, latent_size)`` or seeds ``(n,)``, and slots ``(n,)``.

        Raises:
            ConfigError: ``n`` exceeds the size of the cache.
        """
        if n > self.size:
            raise ConfigError(
                "FeatureMixer: the bank holds fewer samples than a step takes.",
                given=f"bank={self.size}, {n} synthetic samples",
                needed=f"bank of at least {n}; some hundreds are useful",
            )
        if self.masks is not None and size is not None and self.masks.shape[1:] != size:
            self.clear()
        # All samples of a step are new or none is: generating one takes nearly as long as generating a handful.
        full = self.count >= self.size
        num_new = 0 if full and torch.rand((), generator=rng, dtype=torch.float64) >= self.fresh else n
        if self.fresh or num_new or self.masks is None:
            masks = draw_masks(num_new, rng)
            if self.masks is not None and num_new and masks.shape[1:] != self.masks.shape[1:]:
                self.clear()
                masks, num_new = torch.cat([masks, draw_masks(n - num_new, rng)]), n
        else:
            # With fresh=0, a full cache never asks the source again.
            masks = torch.zeros(0, *self.masks.shape[1:], dtype=torch.long)
        z = draw_noise(masks, rng)
        slots = (torch.arange(num_new) + self.count) % self.size
        kept_slots = (torch.arange(self.size - num_new) + self.count + num_new) % self.size
        cached = kept_slots[torch.randperm(len(kept_slots), generator=rng)[: n - num_new]]
        self._store(slots, masks, z)
        if self.masks is None or self.z is None:
            return masks, z, slots
        slots = torch.cat([cached, slots])
        return self.masks[slots].to(masks.dtype), self.z[slots], slots

    def fetch(self, slots: Tensor, masks: Tensor, z: Tensor, generate: Generate) -> tuple[tuple[Tensor, ...], Tensor]:
        """Features and masks of ``slots``. Those that are missing are generated from their ``masks`` and ``z``."""
        if self.labels is not None and self.labels.device != masks.device:
            self.features, self.labels = tuple(f.to(masks.device) for f in self.features), self.labels.to(masks.device)
        missing = [number for number, slot in enumerate(slots.tolist()) if not self.made[slot]]
        if missing:
            features, labels = generate(masks[missing], z[missing])
            if self.labels is None:
                # The memory format does not matter: joining brings the samples into that of the real ones.
                self.features = tuple(f.new_zeros(self.size, *f.shape[1:]) for f in features)
                self.labels = labels.new_zeros(self.size, *labels.shape[1:], dtype=torch.int16)
            index = slots[missing].to(masks.device)
            for stored, new in zip((*self.features, self.labels), (*features, labels), strict=True):
                stored[index] = new.to(stored.dtype)
            for slot in slots[missing].tolist():
                self.made[slot] = True
        assert self.labels is not None
        index = slots.to(masks.device)
        return tuple(stored[index] for stored in self.features), self.labels[index]

    def state(self) -> dict[str, Any]:
        """A copy of everything. Features are included, since features generated again might differ in their last bits."""
        named = {"masks": self.masks, "z": self.z, "labels": self.labels}
        tensors = {name: None if value is None else value.clone() for name, value in named.items()}
        return tensors | {"count": self.count, "made": list(self.made), "features": [feature.clone() for feature in self.features]}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.count, self.masks, self.z, self.made = state["count"], state["masks"], state["z"], list(state["made"])
        self.features, self.labels = tuple(state["features"]), state["labels"]

    def _store(self, slots: Tensor, masks: Tensor, z: Tensor) -> None:
        """Put new samples into the slots of the oldest."""
        if not len(slots):
            return
        if self.masks is None or self.z is None:
            # int16 takes a quarter of the memory of int64, and holds any label.
            self.masks = torch.zeros(self.size, *masks.shape[1:], dtype=torch.int16)
            self.z = torch.zeros(self.size, *z.shape[1:], dtype=z.dtype)
        self.masks[slots], self.z[slots] = masks.cpu().to(torch.int16), z
        for slot in slots.tolist():
            self.made[slot] = False
        self.count += len(slots)


def stochastic_round(value: float, rng: torch.Generator) -> int:
    """Round ``value`` up or down at random, such that the expectation is ``value``."""
    return math.floor(value) + int(torch.rand((), generator=rng, dtype=torch.float64) < value - math.floor(value))
