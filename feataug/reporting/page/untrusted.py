"""Values of files that others may have written, as what they should be or as nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feataug.core.measures import TITLES
from feataug.evaluation.comparison.verdicts import beyond_bias, room
from feataug.evaluation.paired_differences import verdict
from feataug.reporting.page.html import DASH
from feataug.reporting.tables import QUALITIES

_NAME = 80


def number(value: Any) -> float | None:
    """A finite number of a size that figures have, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Nothing of ours is larger; charts need not cope with it.
    return float(value) if abs(value) < 1e15 else None


def mapping(value: Any) -> dict[str, Any]:
    """A dictionary, or an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def words(value: Any, longest: int = 200) -> str:
    """Any value as a short text; a dash for none."""
    if value is None or value != value:
        return DASH
    if isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, list):
        text = ", ".join(words(item, longest) for item in value[:longest])
    else:
        text = str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def figures(value: Any) -> dict[str, Any]:
    """The four measures, ``per_class`` with ``{"acc", "iou"}`` by class (``None`` for what is no number), and ``absent``: classes without a pixel."""
    source = mapping(value)
    classes = source.get("per_class")
    named: dict[str, Any] = {}
    if isinstance(classes, dict) and isinstance(classes.get("iou"), list):
        # As metrics.scores has them: lists in the order of the labels.
        ious, accs = classes["iou"], listed(classes.get("acc"))
        named = {str(i): {"iou": iou, "acc": accs[i] if i < len(accs) else None} for i, iou in enumerate(ious)}
    elif isinstance(classes, dict):
        named = classes
    kept = {str(name)[:_NAME]: {m: number(mapping(x).get(m)) for m in ("acc", "iou")} for name, x in named.items()}
    # Not defined, rather than damaged: an accuracy that is there, and is none.
    absent = [str(name)[:_NAME] for name, x in named.items() if isinstance(x, dict) and "acc" in x and x["acc"] is None]
    return {m: number(source.get(m)) for m in TITLES} | {"per_class": kept, "absent": absent}


def quality(value: Any) -> dict[str, Any]:
    """What ``report.quality_summary`` made: figures, ``reference``, ``per_class`` and ``memory``; empty where nothing was measured."""
    source = mapping(value)
    if not any(number(source.get(name)) is not None for name in QUALITIES):
        return {}

    def row(value: Any) -> dict[str, Any]:
        found, reference = mapping(value), mapping(mapping(value).get("reference"))
        both = {name: number(found.get(name)) for name in QUALITIES}, {name: number(reference.get(name)) for name in QUALITIES}
        return both[0] | {"cells": number(found.get("cells")), "reference": both[1]}

    memory = mapping(source.get("memory"))
    distances = ("synthetic", "held_out", "real", "ratio", "copied")
    tests: dict[str, Any] = {
        name: {key: number(mapping(memory.get(name)).get(key)) for key in distances}
        for name in ("cells", "maps")
        if mapping(memory.get(name))
    }
    named = {str(name)[:_NAME]: row(x) for name, x in mapping(source.get("per_class")).items()}
    copies = memory.get("copies")
    return row(source) | {"per_class": named, "memory": tests, "copies": copies if isinstance(copies, bool) else None}


def gap(value: Any) -> dict[str, float | None]:
    """A difference with its interval, whole or none."""
    found = {name: number(mapping(value).get(name)) for name in ("mean", "low", "high")}
    if any(end is None for end in found.values()) or found["low"] > found["high"]:  # type: ignore[operator]
        found["low"] = found["high"] = None
    return found


def gaps(value: Any) -> dict[str, Any]:
    """Differences in the four measures, and by class under ``per_class``."""
    source = mapping(value)
    classes = mapping(source.get("per_class"))
    named = {str(name)[:_NAME]: {m: gap(mapping(x).get(m)) for m in ("acc", "iou")} for name, x in classes.items()}
    return {m: gap(source.get(m)) for m in TITLES} | {"per_class": named}


def plain_gaps(control: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``gaps`` of a single pair: differences without intervals."""

    def minus(a: float | None, b: float | None) -> dict[str, float | None]:
        return {"mean": b - a if a is not None and b is not None else None, "low": None, "high": None}

    mine, theirs = control["per_class"], other["per_class"]
    named = {c: {m: minus(mine[c][m], theirs[c][m]) for m in ("acc", "iou")} for c in mine if c in theirs}
    return {m: minus(control[m], other[m]) for m in TITLES} | {"per_class": named}


def said(differences: Mapping[str, Any], name: str) -> str | None:
    """``evaluation.verdict``, where every measure has its interval or none has."""
    return verdict(differences, name) if _whole(differences) else None


def said_of_bias(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str | None:
    """``evaluation.verdicts.beyond_bias``, where every measure has its interval."""
    return beyond_bias(before, after, name) if _whole(before) and _whole(after) else None


def said_of_room(ceiling: Mapping[str, Any]) -> str | None:
    """``evaluation.verdicts.room``, where every measure has its interval."""
    return room(ceiling) if _whole(ceiling) else None


def _whole(differences: Mapping[str, Any]) -> bool:
    found = [differences[m] for m in TITLES]
    return all(x["mean"] is not None for x in found) and len({x["low"] is None for x in found}) == 1
