"""Folders of small images and masks with given labels, and a model that always predicts one class."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.data import MaskedImages, eval_transforms
from feataug.errors import DataError

NAMES = ("background", "lesion")
SPEC = FeatureSpec((LevelSpec("x", 8, 4),))


def folder(root, *masks, size=(8, 8)):
    """Images and masks; each mask is given by the values of its rows, repeated."""
    for name in ("i", "m"):
        (root / name).mkdir(exist_ok=True)
    for number, values in enumerate(masks):
        rows = np.resize(np.array(values, np.uint8), size[0])
        Image.fromarray(np.repeat(rows[:, None], size[1], 1)).save(root / f"m/{number:03}.png")
        Image.new("RGB", size[::-1]).save(root / f"i/{number:03}.png")


def data(root, classes=NAMES, **given):
    return MaskedImages(root / "i", root / "m", classes, **{"transforms": eval_transforms(), **given})


def always(number, classes=2):
    return lambda images: nn.functional.one_hot(torch.full(images.shape[-2:], number), classes).permute(2, 0, 1)[None].float().repeat(
        len(images), 1, 1, 1
    )  # fmt: skip


def error_of(call, kind=DataError):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)
