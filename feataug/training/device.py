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

from feataug.errors import ConfigError, TrainingError, message


def make_accelerator(
    device: str | torch.device | None, mixed_precision: str, trackers: tuple[str, ...] = (), folder: Path | None = None
) -> Accelerator:
    """An accelerator on a device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, a ``torch.device``, or what accelerate finds (``"auto"``, ``None``).

    A numbered GPU becomes this process's current CUDA device.

    Raises:
        TrainingError: that CUDA device is not there.
        ConfigError: the device has another name; accelerate already runs in this process with another precision or device.
    """
    wanted = _device(device)
    if wanted is not None and wanted.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError(
                message("feataug: no CUDA device was found.", given=f"device={_said(device)}", needed='device="cpu" or "auto"')
            )
        if wanted.index is not None:
            if wanted.index >= torch.cuda.device_count():
                raise TrainingError(
                    message(
                        "feataug: there is no such CUDA device.",
                        given=f"device={_said(device)}",
                        needed=", ".join(f'"cuda:{number}"' for number in range(torch.cuda.device_count())),
                    )
                )
            # accelerate takes the current one.
            torch.cuda.set_device(wanted.index)
    try:
        accelerator = Accelerator(
            cpu=wanted is not None and wanted.type == "cpu",
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(folder) if folder else None),
        )
    except ValueError as error:
        # accelerate keeps one state for the whole process.
        raise ConfigError(
            message(
                "feataug: accelerate refuses these settings.",
                given=f"mixed_precision={mixed_precision!r}, device={_said(device)} ({error})",
                needed="one precision and one device in a process",
                advice="Use the same mixed_precision for generator and finetuning, or train them in two processes.",
            )
        ) from error
    taken = accelerator.device
    if wanted is not None and (taken.type != wanted.type or (None not in (taken.index, wanted.index) and taken.index != wanted.index)):
        raise ConfigError(
            message(
                "feataug: accelerate runs on another device in this process.",
                given=f"device={_said(device)}",
                needed=f'device="{taken}" or "auto"',
                advice="Was another device used before, or does a launcher give each process its own? Use one device in a process.",
            )
        )
    if trackers:
        accelerator.init_trackers("feataug")
    return accelerator


def _device(device: Any) -> torch.device | None:
    """The device that was asked for; ``None`` where accelerate is to choose."""
    if device is None or device == "auto":
        return None
    if isinstance(device, torch.device) or (isinstance(device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", device)):
        found = torch.device(device)
        if found.type in ("cpu", "cuda"):
            return found
    raise ConfigError(
        message(
            "feataug: no such device.",
            given=f"device={_said(device)}",
            needed='"auto", "cpu", "cuda", "cuda:1", or a torch.device of these',
        )
    )


def _said(device: Any) -> str:
    return repr(str(device)) if isinstance(device, (str, torch.device)) else repr(device)


def keep_freed_memory() -> bool:
    """Let glibc keep the memory that tensors free, for the next tensors; true where that was possible (Linux with glibc).

    By default every large tensor is mapped anew, and the kernel clears its pages anew, which can take longer than computing what goes
    into them (``benchmarks/freed_memory.py``). It holds for the whole process, so programs call it (our commands and studies do),
    never the library by itself.

    Source:
        ours.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names and numbers of malloc.h
    return all(mallopt(*x) for x in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20)))
