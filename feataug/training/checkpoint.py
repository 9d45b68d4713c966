"""Checkpoints: one safetensors file each, written whole or not at all, read without unpickling anything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feataug.errors import CheckpointError, message

FORMAT = 1
_NAME = "checkpoint-{:010d}.safetensors"


def save_checkpoint(folder: Path, progress: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write ``state`` to ``folder`` under its ``progress`` (steps or images), then drop all but the newest ``keep``.

    Args:
        folder: Made if absent.
        progress: Orders the checkpoints.
        state: Nested dictionaries and lists of tensors, numbers, strings, booleans and ``None``, as ``state_dict()`` gives.
        keep: How many to keep.

    Source:
        ours. Tensors go into a safetensors file, all the rest as JSON into its header; a temporary name, then a rename, so that
        a kill leaves the old file or the new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(state, tensors)
    header = json.dumps({"format": FORMAT, "progress": progress, "state": skeleton})
    path = folder / _NAME.format(progress)
    # The suffix keeps a file that a kill left behind from being taken for a checkpoint.
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata={"feataug": header})
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-keep]:
        old.unlink()
    return path


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Progress and state from one file.

    Raises:
        CheckpointError: the file is torn, is no checkpoint of ours, or has a format version that this release cannot read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("feataug")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header is None:
            raise CheckpointError(message("feataug: not a checkpoint of ours.", given=str(path), needed="a feataug header"))
        content = json.loads(header)
        version, progress, skeleton = content["format"], content["progress"], content["state"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            message(
                "feataug: a checkpoint cannot be read.",
                given=f"{path} ({type(error).__name__}: {error})",
                needed="a whole safetensors file written by feataug",
                advice="Delete it: the run then goes on from the checkpoint before it.",
            )
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            message("feataug: a checkpoint has another format.", given=f"{path}, format {version}", needed=f"format {FORMAT}")
        )
    return progress, _unpack(skeleton, tensors)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder``, or ``None``."""
    return max(folder.glob("checkpoint-*.safetensors"), default=None)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for ``value``; its tensors move to ``tensors`` and leave their names."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        # A clone of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(
        message("feataug: a state cannot be saved.", given=type(value).__name__, needed="tensors, numbers, strings, lists, dicts")
    )


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["items"]}
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    return value
