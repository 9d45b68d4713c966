"""The device and precision of a training loop."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from feataug.errors import ConfigError, TrainingError


def make_accelerator(
    device: str | torch.device | None, mixed_precision: str, trackers: tuple[str, ...] = (), folder: Path | None = None
) -> Accelerator:
    """Make an accelerator for a device.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or a ``torch.device``. With ``"auto"`` or ``None``, accelerate chooses. A numbered
            GPU becomes this process's current CUDA device.
        mixed_precision: Precision, as accelerate names it.
        trackers: Names of accelerate's trackers.
        folder: Folder for the trackers' files.

    Raises:
        TrainingError: there is no such CUDA device.
        ConfigError: the device has an unknown name, or accelerate already runs in this process with another precision or device.
    """
    requested = _parse_device(device)
    if requested is not None and requested.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError(
                "feataug: no CUDA device was found.", given=f"device={_quote(device)}", needed='device="cpu" or "auto"'
            )
        if requested.index is not None:
            if requested.index >= torch.cuda.device_count():
                raise TrainingError(
                    "feataug: there is no such CUDA device.",
                    given=f"device={_quote(device)}",
                    needed=", ".join(f'"cuda:{number}"' for number in range(torch.cuda.device_count())),
                )
            # accelerate uses the current device.
            torch.cuda.set_device(requested.index)
    try:
        accelerator = Accelerator(
            cpu=requested is not None and requested.type == "cpu",
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(folder) if folder else None),
        )
    except ValueError as error:
        # accelerate keeps one state for the whole process: its first settings hold.
        raise ConfigError(
            "feataug: accelerate refuses these settings.",
            given=f"mixed_precision={mixed_precision!r}, device={_quote(device)} ({error})",
            needed="one precision and one device in a process",
            advice="Use the same mixed_precision for generator and finetuning, or train them in two processes.",
        ) from error
    actual = accelerator.device
    other_index = requested is not None and None not in (actual.index, requested.index) and actual.index != requested.index
    if requested is not None and (actual.type != requested.type or other_index):
        raise ConfigError(
            "feataug: accelerate runs on another device in this process.",
            given=f"device={_quote(device)}",
            needed=f'device="{actual}" or "auto"',
            advice="Was another device used before, or does a launcher give each process its own? Use one device in a process.",
        )
    if trackers:
        accelerator.init_trackers("feataug")
    return accelerator


def _parse_device(device: Any) -> torch.device | None:
    """Return the requested device, or ``None`` where accelerate chooses."""
    if device is None or device == "auto":
        return None
    if isinstance(device, torch.device) or (isinstance(device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", device)):
        found = torch.device(device)
        if found.type in ("cpu", "cuda"):
            return found
    raise ConfigError(
        "feataug: no such device.",
        given=f"device={_quote(device)}",
        needed='"auto", "cpu", "cuda", "cuda:1", or a torch.device of these',
    )


def _quote(device: Any) -> str:
    return repr(str(device)) if isinstance(device, (str, torch.device)) else repr(device)


def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors. Returns whether that was possible (Linux with glibc).

    By default the kernel maps and clears fresh pages for every large tensor, which can take longer than computing its values
    (``benchmarks/freed_memory.py``). The setting holds for the whole process. Programs call this, as our commands and studies do; the
    library itself never does.

    Source:
        Ours.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names and numbers of malloc.h
    return all(mallopt(*x) for x in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20)))
