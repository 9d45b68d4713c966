"""Tensors that a generator may have for each level of its features, or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Cells that are needed for each channel: fewer say too little of how channels vary together.
FEWEST_CELLS = 20


class LevelBuffers(nn.Module):
    """Holds buffers that are made after the module was. What a state dictionary has decides which there are: files of before have none."""

    @property
    def fitted(self) -> bool:
        """Whether there are any."""
        return bool(self._buffers)

    def clear(self) -> None:
        """Forget all of them."""
        self._buffers.clear()

    def at(self, name: str, level: int, like: Tensor) -> Tensor | None:
        """The buffer of a level, on the device and in the dtype of ``like``; ``None`` where there is none."""
        found = self._buffers.get(f"{name}_{level}")
        if found is None:
            return None
        if found.device != like.device:
            # Loaded before it was known where it is needed.
            found = self._buffers[f"{name}_{level}"] = found.to(like.device)
        return found.to(like.dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        stored = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        self._buffers.clear()
        for name, value in stored.items():
            self.register_buffer(name, torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args)


def symmetric_power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric matrix whose eigenvalues are positive but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    power: Tensor = (vectors * values.clamp(min=1e-12) ** exponent) @ vectors.T
    return power
