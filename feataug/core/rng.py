"""Seeds for independent streams of random numbers, derived from the purpose of each stream."""

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


def generator_for(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by ``derive_seed(*parts)``; by default on the CPU, so that every device sees the same draws."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


@contextmanager
def preserved_rng(device: torch.device | str = "cpu") -> Iterator[None]:
    """Restore torch's global generators of the CPU and one device afterwards; other devices are not touched."""
    device = torch.device(device)
    if device.type == "mps":
        # MPS has a single generator, and its functions take no device.
        state = torch.mps.get_rng_state()
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            torch.mps.set_rng_state(state)
        return
    with torch.random.fork_rng(devices=[_number(device)] if device.type == "cuda" else [], device_type="cuda"):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators of the CPU and one device, and restore them afterwards; other devices are not touched.

    Args:
        seed: The seed.
        device: The device on which the seeded work runs.
    """
    device = torch.device(device)
    with preserved_rng(device):
        # torch.manual_seed would seed every GPU.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(_number(device)):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
