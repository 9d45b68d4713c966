"""Readers of data sets: each item is ``(image, mask)``, uint8 ``(3, H, W)`` and int64 ``(H, W)``, after joint transforms.

Every reader has ``classes`` (names), ``palette`` (RGB per class), ``num_classes``, ``ignore_index`` and ``mask(index)``, which does
not read the image. ``MaskFolder`` has only masks, ``Images`` only images.
"""

from feataug.data.ade20k import ADE20K
from feataug.data.camvid import CamVid
from feataug.data.cityscapes import Cityscapes
from feataug.data.folders import Images, MaskedImages, MaskFolder
from feataug.data.idd import IDDLite
from feataug.data.loader import seeded_loader
from feataug.data.scenes.dataset import Scenes
from feataug.data.synscapes import Synscapes
from feataug.data.transforms import eval_transforms, train_transforms

__all__ = [
    "ADE20K", "CamVid", "Cityscapes", "IDDLite", "Images", "MaskFolder", "MaskedImages", "Scenes", "Synscapes", "eval_transforms",
    "seeded_loader", "train_transforms",
]  # fmt: skip
