"""Read values of files that anyone may have written: each function returns the expected type, or its empty value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feataug.core.measures import TITLES
from feataug.reporting.page.table import DASH
from feataug.reporting.tables import QUALITIES

_NAME = 80


def as_number(value: Any) -> float | None:
    """A finite number of a plausible size, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # No figure of a run is larger, and the charts cannot draw such numbers.
    return float(value) if abs(value) < 1e15 else None


def as_dict(value: Any) -> dict[str, Any]:
    """A dictionary, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Any, longest: int = 200) -> str:
    """Any value as a short text; a dash for ``None`` and NaN."""
    if value is None or value != value:
        return DASH
    if isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, list):
        text = ", ".join(as_text(item, longest) for item in value[:longest])
    else:
        text = str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def as_figures(value: Any) -> dict[str, Any]:
    """A model's figures.

    Returns:
        The four measures; ``per_class``, which holds ``acc`` and ``iou`` of each class; ``absent``, the classes without a pixel. A value that is
        not a number is ``None``.
    """
    source = as_dict(value)
    classes = source.get("per_class")
    named: dict[str, Any] = {}
    if isinstance(classes, dict) and isinstance(classes.get("iou"), list):
        # As metrics.scores has them: lists in the order of the labels.
        ious, accs = classes["iou"], as_list(classes.get("acc"))
        named = {str(i): {"iou": iou, "acc": accs[i] if i < len(accs) else None} for i, iou in enumerate(ious)}
    elif isinstance(classes, dict):
        named = classes
    kept = {str(name)[:_NAME]: {m: as_number(as_dict(x).get(m)) for m in ("acc", "iou")} for name, x in named.items()}
    # An accuracy of None is undefined, not damaged: the class has no pixel.
    absent = [str(name)[:_NAME] for name, x in named.items() if isinstance(x, dict) and "acc" in x and x["acc"] is None]
    return {m: as_number(source.get(m)) for m in TITLES} | {"per_class": kept, "absent": absent}


def as_quality(value: Any) -> dict[str, Any]:
    """What ``quality_summary`` returns: figures, ``reference``, ``per_class`` and ``memory``; empty if nothing was measured."""
    source = as_dict(value)
    if not any(as_number(source.get(name)) is not None for name in QUALITIES):
        return {}

    def row(value: Any) -> dict[str, Any]:
        found, reference = as_dict(value), as_dict(as_dict(value).get("reference"))
        both = {name: as_number(found.get(name)) for name in QUALITIES}, {name: as_number(reference.get(name)) for name in QUALITIES}
        return both[0] | {"cells": as_number(found.get("cells")), "reference": both[1]}

    memory = as_dict(source.get("memory"))
    distances = ("synthetic", "held_out", "real", "ratio", "copied")
    tests: dict[str, Any] = {
        name: {key: as_number(as_dict(memory.get(name)).get(key)) for key in distances}
        for name in ("cells", "maps")
        if as_dict(memory.get(name))
    }
    named = {str(name)[:_NAME]: row(x) for name, x in as_dict(source.get("per_class")).items()}
    copies = memory.get("copies")
    return row(source) | {"per_class": named, "memory": tests, "copies": copies if isinstance(copies, bool) else None}


def as_gap(value: Any) -> dict[str, float | None]:
    """A difference with its interval; the interval is dropped if it is not complete."""
    found = {name: as_number(as_dict(value).get(name)) for name in ("mean", "low", "high")}
    if any(end is None for end in found.values()) or found["low"] > found["high"]:  # type: ignore[operator]
        found["low"] = found["high"] = None
    return found


def as_gaps(value: Any) -> dict[str, Any]:
    """The differences in the four measures, and those of each class under ``per_class``."""
    source = as_dict(value)
    classes = as_dict(source.get("per_class"))
    named = {str(name)[:_NAME]: {m: as_gap(as_dict(x).get(m)) for m in ("acc", "iou")} for name, x in classes.items()}
    return {m: as_gap(source.get(m)) for m in TITLES} | {"per_class": named}


def is_complete(differences: Mapping[str, Any]) -> bool:
    """Whether all measures have a difference, and all or none have an interval, as sentences about them need."""
    found = [differences[m] for m in TITLES]
    return all(x["mean"] is not None for x in found) and len({x["low"] is None for x in found}) == 1
