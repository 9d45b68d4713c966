"""Words for data sets and seeds on the drawn pages."""

from __future__ import annotations

from collections.abc import Sized

NAMES = {"camvid": "CamVid", "idd": "IDD-Lite", "cityscapes": "Cityscapes", "ade20k": "ADE20K"}
# Suffixes of a file name, each after a hyphen.
SETTINGS = {
    "half": "half resolution",
    "0.25": "a quarter of the images",
    "0.1": "a tenth of the images",
    "0.125": "an eighth of the images",
    "again": "another base",
    "1600": "1,600 steps",
    "alternatives": "what else one could do with kept views",
    "distilled": "a distilled flow",
    "flow": "features of a flow",
    "composed": "composed masks",
    "fpn": "FPN",
    "vit": "ViT",
    "matched": "matched covariances",
    "colored": "colored noise",
}


def data_title(data: str) -> str:
    """A data set in words, from a file's name: ``camvid-half-0.25`` is CamVid, half resolution, a quarter of the images."""
    name, *rest = data.split("-")
    return ", ".join([NAMES.get(name, name), *(SETTINGS.get(x, x) for x in rest)])


def seeds(numbers: Sized) -> str:
    """The number of seeds in words."""
    return "one seed" if len(numbers) == 1 else f"{len(numbers)} seeds"
