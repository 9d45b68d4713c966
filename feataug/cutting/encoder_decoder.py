"""An encoder and a decoder as one model."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn


class EncoderDecoder(nn.Module):
    """Two halves as one model: ``decoder(encoder(images))``.

    Args:
        encoder: Takes the images.
        decoder: Takes the encoder's output, and the images' size if its ``forward`` needs two positional arguments.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        positional = [
            p
            for p in inspect.signature(decoder.forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]
        self.takes_size = len(positional) >= 2

    def forward(self, images: Tensor) -> Any:
        """The decoder's output for these images."""
        features = self.encoder(images)
        return self.decoder(features, tuple(images.shape[-2:])) if self.takes_size else self.decoder(features)
