"""Compare the settings of a run with those stored in its output folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from feataug.core.fingerprints import fingerprint
from feataug.core.identity import describe_callable
from feataug.errors import CheckpointError

# Settings stored since version 0.1.0. They are compared only if both sides have them: older runs did not store them, and some loaders
# do not describe themselves.
IDENTITY = frozenset(
    (
        "model", "generator", "architecture", "cut", "spec", "data", "val_data", "mask_source", "mixing_seed", "mixer", "filter", "loss",
        "num_classes", "ignore_index", "classes", "baseline",
        "plain_data", "ceiling_data",
    )
)  # fmt: skip
# What runs did before these settings were stored: a setting that an older run lacks had this value.
EARLIER = {"objective": "bicyclegan", "weight_decay": 0.01, "noise_levels": 2, "distill_share": 0.0, "colored_noise": False}
_WIDTH = 200


def start_of(model: nn.Module, loss: Any, mixer: Any, cut: Any, same_start: bool) -> dict[str, Any]:
    """Describe the model, the loss and the mixer with which a ``Finetuner`` starts.

    Without ``same_start`` the model's description is empty: it is then compared with nothing.
    """
    start = {"model": fingerprint(model) if same_start else {}, "loss": describe_callable(loss)}
    if mixer is None:
        return start
    spec = getattr(cut, "spec", None)
    spec_dict = spec.to_dict() if spec is not None else None
    return start | mixer.origin() | {"cut": list(getattr(cut, "at", ())), "spec": spec_dict}


def check_settings(headline: str, settings: dict[str, Any], stored: dict[str, Any], path: Path, advice: str = "") -> None:
    """Raise ``CheckpointError`` with ``headline`` if the settings differ from those that ``path`` was written with.

    The message lists all differences, nested ones by dotted names.
    """
    changed = differences(json.loads(json.dumps(settings)), stored)
    if not changed:
        return
    advice = advice or "Use another output folder, or delete this one to start again."
    if any(name == "model" for name, *_ in changed):
        advice += (
            "\nA model with random first weights must start from the same ones: call torch.manual_seed(...) before you make it. If it was\n"
            "not seeded, Finetuner(..., same_start=False) continues with the weights of the run."
        )
    raise CheckpointError(
        headline,
        given=", ".join(f"{name}={_shorten(value)}" for name, value, _ in changed),
        needed=", ".join(f"{name}={_shorten(value)}" for name, _, value in changed) + f", as in {path}",
        advice=advice,
    )


def differences(given: Any, stored: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """List where two nested settings differ, as ``(dotted name, given value, stored value)``.

    Args:
        given, stored: Plain JSON values. A key of ``IDENTITY`` that is missing or empty on one side is skipped, and one of ``EARLIER``
            that ``stored`` lacks has its value of then.
        name: The dotted name of the values themselves, if they are nested.
    """
    dot = f"{name}." if name else ""
    if isinstance(given, dict) and isinstance(stored, dict):
        if not name:
            stored = {key: value for key, value in EARLIER.items() if key in given} | stored
        unknown = set() if name else {key for key in IDENTITY if {} in (given.get(key, {}), stored.get(key, {}))}
        pairs = [(key, given.get(key), stored.get(key)) for key in sorted((given | stored).keys() - unknown)]
        return [found for key, a, b in pairs for found in differences(a, b, f"{dot}{key}")]
    if isinstance(given, list) and isinstance(stored, list) and len(given) == len(stored) and any(map(_nested, [*given, *stored])):
        both = enumerate(zip(given, stored, strict=True))
        return [found for number, (a, b) in both for found in differences(a, b, f"{dot}{number}")]
    return [] if given == stored else [(name, given, stored)]


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
