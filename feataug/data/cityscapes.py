"""Cityscapes, read from its official folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from feataug.data.dataset_root import find_files, find_root
from feataug.data.folders import MaskedImages
from feataug.errors import ConfigError, DataError

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person",
    "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0),
    (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100),
    (0, 0, 230), (119, 11, 32),
)  # fmt: skip
_CLASS_LABELS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Class of the labels 0 .. 33. Label -1, a licence plate, is 255 in 8 bits, which is void.
IDS = tuple(_CLASS_LABELS.index(label) if label in _CLASS_LABELS else 255 for label in range(34))

SPLITS = {"fine": ("train", "val"), "coarse": ("train", "train_extra", "val")}
_FILES = {"ids": "labelIds", "train_ids": "labelTrainIds"}


class Cityscapes(MaskedImages):
    """Cityscapes, 19 classes at 1024 x 2048: 2975 training and 500 validation images; 19998 more with coarse labels.

    Args:
        root: Folder that holds ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` and ``gtFine/<split>/<city>/*_gtFine_labelIds.png``
            (or ``gtCoarse``), as the archives unpack. Other files are skipped, and so are labels without an image.
        split: ``"train"`` or ``"val"``; with coarse labels also ``"train_extra"``. The labels of the test images are not public.
        mode: ``"fine"`` or ``"coarse"``.
        labels: ``"ids"`` reads ``*_labelIds.png``, which are part of the download, and maps the 34 labels to the 19 classes.
            ``"train_ids"`` reads ``*_labelTrainIds.png``, which cityscapesScripts draws from the polygons. The default is the
            first, or the second for a split without files of the first. The two differ on about 0.3 % of the pixels, at the edges
            of objects. The benchmark uses the first.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms.

    Each item is a uint8 image ``(3, H, W)`` and an int64 mask ``(H, W)`` in which 255 is void. ``labels`` names the files that are
    read.

    Raises:
        ConfigError: unknown mode, split or labels.
        MissingDataError, DataError: as for ``MaskedImages``. The message lists what ``root`` holds.

    Source:
        Cordts et al. (2016); labels, classes and colours of cityscapesScripts.
    """

    license = "the terms of use at https://www.cityscapes-dataset.com/license/"
    official = True

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        mode: Literal["fine", "coarse"] = "fine",
        labels: Literal["ids", "train_ids"] | None = None,
        transforms: Callable[..., Any] | None = None,
    ) -> None:
        if mode not in tuple(SPLITS):
            raise ConfigError("Cityscapes: no such mode.", given=repr(mode), needed='"fine" or "coarse"')
        if split not in SPLITS[mode]:
            needed = " or ".join(f'"{name}"' for name in SPLITS[mode]) + f" of the {mode} labels"
            advice = "Images without labels are read by feataug.data.Images." if split == "test" else None
            raise ConfigError("Cityscapes: no such split.", given=repr(split), needed=needed, advice=advice)
        if labels not in (None, *_FILES):
            raise ConfigError("Cityscapes: no such labels.", given=repr(labels), needed='"ids", "train_ids" or None')
        truth = f"gt{mode.capitalize()}"
        root = find_root("Cityscapes", root, (f"leftImg8bit/{split}", f"{truth}/{split}"))
        masks = root / truth / split
        endings = {name: f"_{truth}_{_FILES[name]}" for name in ([labels] if labels is not None else _FILES)}
        self.labels = next((name for name, ending in endings.items() if find_files("Cityscapes", masks, ending, (".png",)).files), None)
        if self.labels is None:
            files = " or ".join(f"*{ending}.png" for ending in endings.values())
            raise DataError("Cityscapes: the folder holds no labels.", given=str(masks), needed=f"files named {files}")
        super().__init__(
            root / "leftImg8bit" / split,
            masks,
            CLASSES,
            PALETTE,
            endings=("_leftImg8bit", endings[self.labels]),
            ids=IDS if self.labels == "ids" else None,
            transforms=transforms,
        )
