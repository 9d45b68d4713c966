"""``inference.json``: the settings to predict with a saved model. It may come from anybody, so every setting is checked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from feataug.errors import CheckpointError
from feataug.io.atomic import write_json

FILE = "inference.json"
# Upper bounds beyond any sensible setting. Without them, a window of a billion rows would be allocated as padding.
_BYTES, _SIDE, _SCALES, _CLASSES = 2**22, 2**16, 64, 2**16


def _number(value: Any) -> bool:
    # The bound also refuses integers that no float can hold.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _SIDE


def _size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_count, value))


# By name of the setting: what is needed, and the check.
_SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "scales": (
        f"1 to {_SCALES} numbers above 0, at most 16",
        lambda value: isinstance(value, list) and 1 <= len(value) <= _SCALES and all(_number(x) and 0 < x <= 16 for x in value),
    ),
    "flip": ("true or false", lambda value: isinstance(value, bool)),
    "window": (f"rows and columns, at most {_SIDE}", _size),
    "stride": (f"rows and columns, at most {_SIDE}", _size),
    "divisor": (f"an integer in [1, {_SIDE}]", _count),
    "batch_size": (f"an integer in [1, {_SIDE}]", _count),
    "class_bias": (
        f"2 to {_CLASSES} finite numbers",
        lambda value: isinstance(value, list) and 2 <= len(value) <= _CLASSES and all(map(_number, value)),
    ),
}


def write_settings(folder: str | Path, settings: Mapping[str, Any]) -> Path:
    """Write the result of ``Inference.settings`` atomically."""
    return write_json(Path(folder) / FILE, settings)


def read_settings(folder: str | Path, num_classes: int | None = None) -> dict[str, Any]:
    """Read and check the settings in a folder or in a repository of the hub.

    Args:
        folder: The folder, or a hub id such as ``"user/name"``.
        num_classes: The model's number of classes, if known.

    Raises:
        CheckpointError: the file is missing or unreadable, holds an unknown or invalid setting, or is for other classes.
    """
    path = Path(folder) / FILE if os.path.isdir(folder) else _from_hub(str(folder))
    if not path.is_file():
        raise _absent(path)
    try:
        if path.stat().st_size > _BYTES:
            raise ValueError(f"more than {_BYTES // 2**20} MiB")
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"a {type(settings).__name__}, no object")
    except (OSError, ValueError, RecursionError) as error:
        refuse(path, f"{type(error).__name__}: {error}", "the file as Inference.save wrote it")
    for name, value in settings.items():
        if name not in _SETTINGS:
            # Ignoring it could change the prediction.
            refuse(path, f"an unknown setting, {name[:80]!r}", ", ".join(_SETTINGS))
        if not _SETTINGS[name][1](value):
            refuse(path, f"{name}: {value!r}"[:200], _SETTINGS[name][0])
    bias = settings.get("class_bias")
    if num_classes is not None and bias is not None and len(bias) != num_classes:
        refuse(path, f"class_bias of {len(bias)} classes", f"{num_classes}, as the model has")
    return settings


def refuse(path: str | Path, given: str, needed: str) -> NoReturn:
    """Raise ``CheckpointError`` for a file that cannot be used."""
    raise CheckpointError(
        f"Inference: {FILE} cannot be used.",
        given=f"{path} ({given})",
        needed=needed,
        advice="Fit it again: feataug fit-bias, or feataug.fit_inference and save; without the file the model predicts whole images.",
    )


def _absent(path: Path | str) -> CheckpointError:
    advice = "feataug fit-bias and Inference.save write one; without it, predict with the model itself."
    return CheckpointError(f"Inference: there is no {FILE}.", given=str(path), needed="a folder that holds it", advice=advice)


def _from_hub(name: str) -> Path:
    # A local import: only loading from the hub needs it.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, FILE))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _absent(name) from error
