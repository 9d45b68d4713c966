"""Readers of data sets: each item is ``(image, mask)``, uint8 ``(3, H, W)`` and int64 ``(H, W)``, after joint transforms.

Every reader has ``classes`` (names), ``palette`` (RGB per class), ``num_classes``, ``ignore_index`` and ``mask(index)``, which does
not read the image. ``MaskFolder`` has only masks, ``Images`` only images.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feataug.data.ade20k import ADE20K
    from feataug.data.camvid import CamVid
    from feataug.data.cityscapes import Cityscapes
    from feataug.data.folders import Images, MaskedImages, MaskFolder
    from feataug.data.idd import IDDLite
    from feataug.data.loader import seeded_loader
    from feataug.data.scenes.dataset import Scenes
    from feataug.data.synscapes import Synscapes
    from feataug.data.transforms import eval_transforms, train_transforms

# Loaded when first asked for, so that the command line finds folders that are missing before it imports torch.
_HOME = {
    "ADE20K": "ade20k", "CamVid": "camvid", "Cityscapes": "cityscapes", "IDDLite": "idd", "Images": "folders", "MaskFolder": "folders",
    "MaskedImages": "folders", "Scenes": "scenes.dataset", "Synscapes": "synscapes", "eval_transforms": "transforms",
    "seeded_loader": "loader", "train_transforms": "transforms",
}  # fmt: skip

__all__ = [
    "ADE20K", "CamVid", "Cityscapes", "IDDLite", "Images", "MaskFolder", "MaskedImages", "Scenes", "Synscapes", "eval_transforms",
    "seeded_loader", "train_transforms",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
