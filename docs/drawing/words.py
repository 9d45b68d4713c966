"""How docs/results.md and docs/paper.md name what the studies ran on: data sets, by what stands in a file's name, and seeds."""

from __future__ import annotations

from collections.abc import Sized

NAMES = {"camvid": "CamVid", "idd": "IDD-Lite", "cityscapes": "Cityscapes", "ade20k": "ADE20K"}
# After the data set's name, each after a hyphen.
SETTINGS = {
    "half": "half resolution",
    "0.25": "a quarter of the images",
    "0.125": "an eighth of the images",
    "again": "another base",
    "fpn": "FPN",
    "vit": "ViT",
}


def titled(data: str) -> str:
    """A data set in words: ``camvid-half-0.25`` is CamVid, half resolution, a quarter of the images."""
    name, *rest = data.split("-")
    return ", ".join([NAMES.get(name, name), *(SETTINGS.get(x, x) for x in rest)])


def seeds(found: Sized) -> str:
    """How many there are."""
    return "one seed" if len(found) == 1 else f"{len(found)} seeds"
