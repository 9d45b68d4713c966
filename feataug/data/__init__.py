"""Readers of data sets: each item is ``(image, mask)``, uint8 ``(3, H, W)`` and int64 ``(H, W)``, after joint transforms.

Every reader has ``classes`` (names), ``palette`` (RGB per class), ``num_classes``, ``ignore_index`` and ``mask(index)``.
"""

from feataug.data.camvid import CamVid
from feataug.data.folder import MaskedImages
from feataug.data.idd import IDDLite
from feataug.data.scenes import Scenes
from feataug.data.transforms import eval_transforms, seeded_loader, train_transforms

__all__ = ["CamVid", "IDDLite", "Scenes", "MaskedImages", "eval_transforms", "seeded_loader", "train_transforms"]
