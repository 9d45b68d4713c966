"""Whether a run that is found in a folder is the one that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from feataug.errors import CheckpointError, message

# What tells runs apart since version 0.1.0: where an older run did not store it, or a loader says nothing of itself, it is not compared.
IDENTITY = frozenset(
    (
        "model", "generator", "architecture", "cut", "spec", "data", "val_data", "mask_source", "mixing_seed", "mixer", "filter", "loss",
        "num_classes", "ignore_index", "classes", "baseline",
        "plain_data", "ceiling_data",
    )
)  # fmt: skip
_WIDTH = 200


def check_settings(what: str, settings: dict[str, Any], stored: dict[str, Any], path: Path, advice: str = "") -> None:
    """Raise ``CheckpointError``, headed by ``what``, unless the settings are those that ``path`` was written with.

    All differences are named, those within dictionaries and lists by dotted names. Keys of ``IDENTITY`` are compared if both have them.
    """
    changed = differences(json.loads(json.dumps(settings)), stored)
    if not changed:
        return
    advice = advice or "Use another output folder, or delete this one to start again."
    if any(name == "model" for name, *_ in changed):
        advice += (
            "\nA model that starts from random weights has to start from the same: torch.manual_seed(...) before it is made. If it was not\n"
            "seeded, Finetuner(..., same_start=False) goes on with the weights of the run."
        )
    raise CheckpointError(
        message(
            what,
            given=", ".join(f"{name}={_shown(value)}" for name, value, _ in changed),
            needed=", ".join(f"{name}={_shown(value)}" for name, _, value in changed) + f", as in {path}",
            advice=advice,
        )
    )


def differences(given: Any, stored: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where two nested settings differ: dotted names, what is given and what is stored.

    Args:
        given, stored: Plain values, as JSON has them. A key of ``IDENTITY`` that one of them lacks, or that says nothing, is passed over.
        name: Of the values, within something larger.
    """
    dot = f"{name}." if name else ""
    if isinstance(given, dict) and isinstance(stored, dict):
        unknown = set() if name else {key for key in IDENTITY if {} in (given.get(key, {}), stored.get(key, {}))}
        pairs = [(key, given.get(key), stored.get(key)) for key in sorted((given | stored).keys() - unknown)]
        return [found for key, a, b in pairs for found in differences(a, b, f"{dot}{key}")]
    if isinstance(given, list) and isinstance(stored, list) and len(given) == len(stored) and any(map(_nested, [*given, *stored])):
        both = enumerate(zip(given, stored, strict=True))
        return [found for number, (a, b) in both for found in differences(a, b, f"{dot}{number}")]
    return [] if given == stored else [(name, given, stored)]


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
