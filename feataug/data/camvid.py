"""CamVid, read from the folders of SegNet's tutorial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from feataug.data.dataset_root import find_root, folders_of
from feataug.data.folders import MaskedImages
from feataug.errors import ConfigError

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip


class CamVid(MaskedImages):
    """CamVid, 11 classes at 360 x 480: 367 training, 101 validation and 233 test images.

    Args:
        root: Folder that holds ``train/ trainannot/ val/ valannot/ test/ testannot/``, PNG or JPEG. Splits other than ``split`` may
            be absent.
        split: ``"train"``, ``"val"`` or ``"test"``.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms.

    Each item is a uint8 image ``(3, H, W)`` and an int64 mask ``(H, W)`` in which label 11 (unlabelled) is replaced by 255.

    Raises:
        ConfigError: unknown split.
        MissingDataError, DataError: as for ``MaskedImages``. The message lists what ``root`` holds.

    Source:
        Brostow, Fauqueur, Cipolla (2008); the folders and the 11 classes are those of Badrinarayanan et al. (2015).
    """

    official = True

    def __init__(self, root: str | Path, split: str = "train", *, transforms: Callable[..., Any] | None = None) -> None:
        if split not in ("train", "val", "test"):
            raise ConfigError("CamVid: no such split.", given=repr(split), needed='"train", "val" or "test"')
        root = find_root("CamVid", root, folders_of("CamVid", split))
        super().__init__(root / split, root / f"{split}annot", CLASSES, PALETTE, void=11, transforms=transforms)
