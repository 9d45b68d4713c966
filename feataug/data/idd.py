"""IDD-Lite, read from its official folders, which are named like those of Cityscapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from feataug.data.dataset_root import find_root, folders_of
from feataug.data.folders import MaskedImages
from feataug.errors import ConfigError

CLASSES = ("drivable", "non-drivable", "living things", "vehicles", "road-side objects", "far objects", "sky")
PALETTE = ((128, 64, 128), (244, 35, 232), (220, 20, 60), (0, 0, 142), (190, 153, 153), (70, 130, 70), (70, 130, 180))


class IDDLite(MaskedImages):
    """IDD-Lite, seven classes on unstructured roads at 227 x 320: 1403 training and 204 validation images.

    Args:
        root: Folder that holds ``leftImg8bit/<split>/<drive>/<id>_image.jpg`` and ``gtFine/<split>/<drive>/<id>_label.png``.
        split: ``"train"`` or ``"val"``; the test images have no masks.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms.

    Each item is a uint8 image ``(3, H, W)`` and an int64 mask ``(H, W)`` in which 255 is void.

    Raises:
        ConfigError: unknown split.
        MissingDataError, DataError: as for ``MaskedImages``. The message lists what ``root`` holds.

    Source:
        Varma et al. (2019), IDD; its "lite" release with the seven classes of the first level.
    """

    official = True

    def __init__(self, root: str | Path, split: str = "train", *, transforms: Callable[..., Any] | None = None) -> None:
        if split not in ("train", "val"):
            raise ConfigError("IDDLite: no such split.", given=repr(split), needed='"train" or "val"')
        root = find_root("IDDLite", root, folders_of("IDDLite", split))
        super().__init__(
            root / "leftImg8bit" / split,
            root / "gtFine" / split,
            CLASSES,
            PALETTE,
            endings=("_image", "_label"),
            transforms=transforms,
        )
