"""Generate synthetic samples on a CUDA stream beside the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class SideStream:
    """A CUDA stream for work that runs beside the current stream.

    Args:
        enabled: If false, or on other devices, the work runs on the current stream.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.stream: Any = None

    @contextmanager
    def work(self, device: torch.device, *inputs: Tensor) -> Iterator[None]:
        """Run the body on the side stream. It waits for earlier work of the current stream, but not for later work.

        Args:
            device: Where the work runs.
            inputs: Tensors of the current stream that the work reads.
        """
        if not self.enabled or device.type != "cuda":
            yield
            return
        if self.stream is None:
            self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))
        for tensor in inputs:
            # The current stream owns this memory, and would reuse it as soon as the last reference is gone.
            tensor.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            yield

    def synchronize(self, *tensors: Tensor) -> None:
        """Make the current stream wait for the work. Only then may it use ``tensors``, the results."""
        if self.stream is None:
            return
        current = torch.cuda.current_stream(self.stream.device)
        current.wait_stream(self.stream)
        for tensor in tensors:
            tensor.record_stream(current)
