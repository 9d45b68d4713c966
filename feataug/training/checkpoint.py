"""Checkpoints: one safetensors file each, written atomically and read without unpickling anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from feataug.errors import CheckpointError
from feataug.io.atomic import write_tensors
from feataug.training.state_io import pack, unpack

# Format 1 had no checksum.
FORMAT = 2
_NAME = "checkpoint-{:010d}.safetensors"


class DamagedError(CheckpointError):
    """The file is incomplete, altered or no checkpoint. Callers fall back to the previous checkpoint."""


def save_checkpoint(folder: Path, progress: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write ``state`` to ``folder``, then delete all but the newest ``keep`` checkpoints.

    Args:
        folder: The folder; it is made if it does not exist.
        progress: Steps or images so far; it names the file and orders the checkpoints.
        state: Nested dictionaries and lists of tensors, numbers, strings, booleans and ``None``, as ``state_dict()`` gives.
        keep: The number of checkpoints to keep.

    Source:
        Ours. Tensors go into a safetensors file, everything else as JSON into its header, with a checksum of both. The file is written
        under a temporary name and renamed, so that a kill leaves the old file or the new one.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = pack(state, tensors)
    header = json.dumps({"format": FORMAT, "progress": progress, "state": skeleton, "sha256": _digest(progress, skeleton, tensors)})
    path = folder / _NAME.format(progress)
    write_tensors(path, tensors, {"feataug": header})
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-keep]:
        old.unlink()
    return path


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Read progress and state from one file.

    Raises:
        DamagedError: the file is incomplete, altered or not a feataug checkpoint.
        CheckpointError: it has a format version that this release cannot read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("feataug")
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if header is None:
            raise DamagedError("feataug: this is no feataug checkpoint.", given=str(path), needed="a feataug header")
        content = json.loads(header)
        version, progress, skeleton = content["format"], content["progress"], content["state"]
        if version == FORMAT and content["sha256"] != _digest(progress, skeleton, tensors):
            raise ValueError("the checksum does not match")
        if version in (1, FORMAT):
            return int(progress), unpack(skeleton, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            "feataug: a checkpoint cannot be read.",
            given=f"{path} ({type(error).__name__}: {error})",
            needed="a whole safetensors file written by feataug",
            advice="Delete it: the run then continues from the previous checkpoint.",
        ) from error
    raise CheckpointError(
        "feataug: a checkpoint has another format.", given=f"{path}, format {version}", needed=f"format 1 or {FORMAT}"
    )


def stored_settings(path: Path) -> dict[str, Any]:
    """Read the settings of the run from a checkpoint's header, without reading tensors or checking the checksum.

    Raises:
        DamagedError: the header holds no settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["feataug"])
        settings = unpack(dict(content["state"]["items"])["settings"], {})
        if not isinstance(settings, dict):
            raise ValueError("the settings are not a dictionary")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            "feataug: a checkpoint's settings cannot be read.", given=f"{path} ({type(error).__name__}: {error})"
        ) from error
    return settings


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in ``folder``, newest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def _digest(progress: int, skeleton: Any, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([progress, skeleton]).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
