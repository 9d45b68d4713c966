"""Store the figures of finished runs as JSON, with the settings that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feataug.errors import CheckpointError
from feataug.io.atomic import write_json
from feataug.training.run_settings import check_settings
from feataug.training.state_io import broadcast_from_main


def kept_run(
    who: str,
    folder: Path | None,
    device: torch.device,
    old: Mapping[str, Callable[[], str]],
    name: str,
    settings: dict[str, Any],
    run: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Return the figures stored by an earlier call, or call ``run`` and store its figures.

    Args:
        who: The name of the calling function, for messages.
        folder: The output folder; ``None`` stores nothing.
        device: The device on which the processes of a distributed run communicate.
        old: By name, functions that return a setting in the form in which version 0.1.0 stored it.
        name: The run's name; its file is ``folder / f"{name}.json"``.
        settings: Everything that the figures depend on.
        run: Returns the figures. They are converted to JSON and back, so that all calls return the same.

    Raises:
        CheckpointError: the file is damaged or holds a run with other settings.
    """
    if folder is None:
        return run()
    path = folder / f"{name}.json"
    stored = broadcast_from_main(lambda: _read(who, path) if path.exists() else None, device)
    if stored is not None:
        advice = f"Use another output folder, or delete this file and {path.with_suffix('')} to run that arm again."
        # Version 0.1.0 had shorter fingerprints.
        same = {key: settings[key] for key in old if len(stored["settings"].get(key, "")) == 12 and stored["settings"][key] == old[key]()}
        check_settings(f"{who}: the output folder holds a run with other settings.", settings, stored["settings"] | same, path, advice)
    else:
        stored = json.loads(json.dumps({"settings": settings, "figures": run()}))
        write_json(path, stored | {"sha256": _digest(stored)})
    figures: dict[str, Any] = stored["figures"]
    return figures


def _read(who: str, path: Path) -> dict[str, Any]:
    """Read a finished run. Older files have no checksum and are not verified."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        written = stored.pop("sha256", None)
        if stored.keys() != {"settings", "figures"} or (written is not None and written != _digest(stored)):
            raise ValueError("the content was altered")
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{who}: a finished run cannot be read.",
            given=f"{path} ({error})",
            needed="the file as it was written",
            advice="Delete it to run that arm again; the checkpoints beside it make that quick.",
        ) from error
    return stored


def _digest(stored: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def old_fingerprint(module: nn.Module) -> str:
    """Return the fingerprint of version 0.1.0: twelve digits that change when a weight does."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(-1).double().numpy().tobytes())
    return digest.hexdigest()[:12]
