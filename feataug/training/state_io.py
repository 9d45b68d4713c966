"""Nested states as JSON plus tensors, for checkpoints and for broadcasts to other processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from feataug.core.distributed import rank_and_world
from feataug.errors import CheckpointError


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` as JSON. Its tensors go into ``tensors``; their names take their places."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [pack(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(
        "feataug: a state cannot be saved.", given=type(value).__name__, needed="tensors, numbers, strings, lists, dicts"
    )


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of ``pack``."""
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: unpack(item, tensors) for key, item in value["items"]}
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    return value


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load an optimizer's state, with moments in the memory format of their weights: fused kernels read both in memory order."""
    optimizer.load_state_dict(state)
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                moments[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def broadcast_from_main(make: Callable[[], Any], device: torch.device) -> Any:
    """Call ``make()`` in the main process and return its result in all processes.

    The result is ``None`` or nested dictionaries and lists of tensors, numbers and strings. This serves states on a disk that the other
    processes may not see.

    Raises:
        CheckpointError: ``make`` raised one. All processes raise it, so that none waits for the others.
    """
    number, processes = rank_and_world()
    if processes == 1:
        return make()
    tensors: dict[str, Tensor] = {}
    text = b""
    failed = None
    if number == 0:
        try:
            skeleton = pack({"made": make()}, tensors)
        except CheckpointError as error:
            failed, skeleton = error, pack({"failed": str(error)}, {})
        shapes = {name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()}
        text = json.dumps([skeleton, shapes]).encode()
    size = torch.tensor([len(text)], device=device)
    dist.broadcast(size, 0)
    buffer = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if number == 0:
        buffer.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(buffer, 0)
    skeleton, shapes = json.loads(bytes(buffer.cpu().tolist()))
    for name, (dtype, shape) in shapes.items():
        value = tensors[name].to(device) if number == 0 else torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        dist.broadcast(value, 0)
        tensors[name] = value.cpu()
    found = unpack(skeleton, tensors)
    if "failed" in found:
        raise failed or CheckpointError(found["failed"])
    return found["made"]
