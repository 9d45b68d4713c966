"""Facts of a model card: what is known of saved weights, checked and as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from feataug.core.measures import TITLES
from feataug.errors import ConfigError

QUALITIES = {"frechet": "Fréchet distance", "precision": "precision", "recall": "recall"}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _has_numbers(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(_is_number(value.get(name)) for name in names)


# By name of the fact: what is needed, the check, and the keys of a dictionary that are kept.
_FACTS: dict[str, tuple[str, Callable[[Any], bool], tuple[str, ...]]] = {
    "data": ("a text: what the model was trained on", _is_text, ()),
    "data_license": ("a text: the licence of the data", _is_text, ()),
    "classes": (
        "the classes' names",
        lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(_is_text, value)),
        (),
    ),
    "images": (
        "how many images training saw, an integer",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        (),
    ),
    "recognition": (
        "the recognition score: a dictionary with the numbers real, synthetic, ratio, and perhaps diversity",
        _has_numbers("real", "synthetic", "ratio"),
        ("real", "synthetic", "ratio", "diversity"),
    ),
    "teaching": (
        "the teaching score: a dictionary with the numbers real, synthetic, score, and perhaps gaussians",
        _has_numbers("real", "synthetic", "score"),
        ("real", "synthetic", "score", "gaussians"),
    ),
    "quality": (
        "what feataug.feature_quality returns: a dictionary with the numbers precision and recall, and perhaps frechet, reference, memory",
        _has_numbers("precision", "recall"),
        tuple(QUALITIES),
    ),
    "measures": (
        "a dictionary with the numbers pixel_acc, class_acc, miou and fw_iou, in percent",
        _has_numbers(*TITLES),
        tuple(TITLES),
    ),
    "license": ("a text: the licence of the weights", _is_text, ()),
}


def check_facts(who: str, card: Any, num_classes: int | None = None) -> dict[str, Any]:
    """Check the facts that a user gives for a card, and return them as plain values.

    Raises:
        ConfigError: a fact is unknown or invalid.
    """
    if not isinstance(card, Mapping):
        raise ConfigError(f"{who}: card is not a dictionary.", given=repr(card)[:200], needed=", ".join(_FACTS))
    for name, value in card.items():
        if name not in _FACTS:
            raise ConfigError(f"{who}: a fact of the card is unknown.", given=repr(name), needed=", ".join(_FACTS))
        if not _FACTS[name][1](value):
            raise ConfigError(f"{who}: {name} of the card does not fit.", given=repr(value)[:200], needed=_FACTS[name][0])
    if num_classes is not None and "classes" in card and len(card["classes"]) != num_classes:
        names = card["classes"]
        raise ConfigError(f"{who}: classes of the card do not fit.", given=f"{len(names)} names", needed=f"{num_classes}")
    return known_facts(card)


def known_facts(card: Any) -> dict[str, Any]:
    """Return the valid facts of a card. The file may come from anybody, so everything else is left out."""
    if not isinstance(card, Mapping):
        return {}
    facts = {name: value for name, value in card.items() if name in _FACTS and _FACTS[name][1](value)}
    for name, value in facts.items():
        if keys := _FACTS[name][2]:
            facts[name] = {key: value[key] for key in keys if _is_number(value.get(key))} | _absent(value.get("absent"), name)
            if name == "quality":
                facts[name] |= _quality(value)
        elif name == "classes":
            facts[name] = list(value)
    return facts


def _absent(value: Any, name: str) -> dict[str, list[Any]]:
    """Return the classes without a pixel in the measured masks, by number or name."""
    if name != "measures" or not isinstance(value, (list, tuple)):
        return {}
    kept = [x for x in value if _is_text(x) or (isinstance(x, int) and not isinstance(x, bool))]
    return {"absent": kept} if kept else {}


def _quality(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a generator's quality that is no plain number: the reference, and whether it copies."""
    reference, memory = (x if isinstance(x, Mapping) else {} for x in (value.get("reference"), value.get("memory")))
    numbers = {name: reference[name] for name in QUALITIES if _is_number(reference.get(name))}
    # feature_quality has ``copies`` within ``memory``; config.json stores it beside.
    copies = value.get("copies", memory.get("copies"))
    return ({"reference": numbers} if numbers else {}) | ({"copies": copies} if isinstance(copies, bool) else {})


def data_facts(data: Any, split: str, license: str | None, folder: Path | None, **more: Any) -> dict[str, Any]:
    """Collect what a reader of ``feataug.data`` knows for a card: name, size, classes, and its licence where that is certain.

    It never raises: it is called at the end of a long training.

    Args:
        data: The reader.
        split: The split that was read.
        license: Replaces the reader's licence.
        folder: The folder of the data. Its last part names data without a name.
        more: Further facts.
    """
    name = type(data).__name__
    if name == "MaskedImages":
        name = f"the folder {folder.name}" if folder is not None and folder.name else "a folder of images and masks"
    facts = {"data": f"{name}, split {split}, {len(data)} images", "classes": list(data.classes)}
    return known_facts(facts | {"data_license": license or getattr(data, "license", None)} | more)
