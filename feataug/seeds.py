"""Seeds for independent streams of random numbers, derived from what the stream is for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in ``0 .. 2**63 - 1`` that depends on every part, the same on every machine and Python.

    Example:
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
        True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by ``derive_seed(*parts)``: on the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators of the CPU and of one device for a while, then put them back; other devices are not touched.

    Args:
        seed: The seed.
        device: Where the work within happens.
    """
    device = torch.device(device)
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds every GPU as well.
            torch.default_generator.manual_seed(seed)
            yield
        return
    module = getattr(torch, device.type)
    index = device.index if device.index is not None else module.current_device() if hasattr(module, "current_device") else 0
    with torch.random.fork_rng(devices=[index], device_type=device.type):
        torch.default_generator.manual_seed(seed)
        if hasattr(module, "device"):
            with module.device(index):
                module.manual_seed(seed)
        else:
            module.manual_seed(seed)
        yield
