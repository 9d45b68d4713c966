"""Models that are no PSPNet keep their weights in a file."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from feataug.core.crop_sizes import note_size


class WeightsFile:
    """Goes before ``Study`` among the bases of a study whose ``model`` makes such a model."""

    output: Any
    size: tuple[int, int]

    def model(self) -> nn.Module:
        raise NotImplementedError

    def keep(self, model: Any) -> None:
        save_model(model, str(self.output / "base.safetensors"))

    def trained(self) -> nn.Module:
        """The base model, as it was kept; what judges it goes by the size of its crops."""
        model = self.model()
        load_model(model, str(self.output / "base.safetensors"))
        note_size(model, self.size)
        return model
