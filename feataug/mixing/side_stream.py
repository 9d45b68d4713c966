"""Generate synthetic samples on a CUDA stream beside the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class SideStream:
    """Work on a GPU's own stream, beside what the current stream does meanwhile; on other devices it is done at once.

    Source:
        Ours.
    """

    def __init__(self) -> None:
        self.stream: Any = None

    @contextmanager
    def work(self, device: torch.device, *inputs: Tensor) -> Iterator[None]:
        """What is started within does not wait for what the current stream is given from now on; it may read ``inputs``."""
        if device.type != "cuda":
            yield
            return
        if self.stream is None:
            self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))
        for tensor in inputs:
            # Their memory belongs to the current stream, which would give it out again as soon as nobody holds them.
            tensor.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            yield

    def synchronize(self, *tensors: Tensor) -> None:
        """Let the current stream wait for the work, and use ``tensors``, before which nothing may have used them."""
        if self.stream is None:
            return
        current = torch.cuda.current_stream(self.stream.device)
        current.wait_stream(self.stream)
        for tensor in tensors:
            tensor.record_stream(current)
