"""Synscapes, read from its official folders; mostly a source of masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from feataug.core.joint_transforms import transform_pair
from feataug.data.cityscapes import CLASSES, IDS, PALETTE
from feataug.data.dataset_root import find_root
from feataug.data.decoding import decode_image
from feataug.data.label_maps import LabelFiles
from feataug.errors import DataError, MissingDataError

# The first has the size of the masks.
IMAGES = ("img/rgb", "img/rgb-2k")


class Synscapes(LabelFiles):
    """Synscapes, 25000 rendered street scenes with the 19 classes of Cityscapes at 720 x 1440, in one set without splits.

    Args:
        root: Folder that holds ``img/class/N.png``, N from 1 to 25000, where numbers may be missing, and the images
            ``img/rgb/N.png`` (720 x 1440) or ``img/rgb-2k/N.png`` (1024 x 2048). The images may be absent if only masks are read.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms.

    Items are sorted by number. Each is a uint8 image ``(3, H, W)``, resized to its mask if necessary, and an int64 mask ``(H, W)``
    in which 255 is void. ``numbers`` holds the N of each item.

    Raises:
        MissingDataError: ``img/class`` is missing; or, when an item is read, its image.
        DataError: there are no masks; or, when one is read, as for ``MaskedImages``.

    Source:
        Wrenninge and Unger (2018). Sec. 4.5 uses its masks as additional ones.
    """

    def __init__(self, root: str | Path, *, transforms: Callable[..., Any] | None = None) -> None:
        self.root = find_root("Synscapes", root, ("img/class",))
        masks = _numbered(self.root / "img" / "class")
        if not masks:
            given, needed = str(self.root / "img" / "class"), "files named 1.png, 2.png, ..."
            raise DataError("Synscapes: the folder holds no masks.", given=given, needed=needed)
        self.numbers = sorted(masks)
        super().__init__([masks[number] for number in self.numbers], CLASSES, PALETTE, ids=IDS, transforms=transforms)
        self._images: dict[int, Path] = {}
        for folder in reversed(IMAGES):
            self._images |= _numbered(self.root / folder)

    def image(self, index: int) -> tv_tensors.Image:
        """The image, uint8 ``(3, H, W)``, in its own size and without transforms."""
        number = self.numbers[index]
        if number not in self._images:
            raise MissingDataError(
                "Synscapes: a mask has no image.",
                given=str(self.mask_files[index]),
                needed=" or ".join(str(self.root / folder / f"{number}.png") for folder in IMAGES),
                advice="Masks alone are read by mask(index), and by feataug.DatasetMasks.",
            )
        return decode_image("Synscapes", self._images[number])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.image(index), self.mask(index)
        if image.shape[-2:] != mask.shape[-2:]:
            image = v2.functional.resize(image, list(mask.shape[-2:]), antialias=True)
        return transform_pair("Synscapes", self.transforms, image, mask) if self.transforms is not None else (image, mask)


def _numbered(folder: Path) -> dict[int, Path]:
    """The files whose names are numbers; none if the folder is missing."""
    return {int(file.stem): file for file in folder.glob("*.png") if file.stem.isdecimal()} if folder.is_dir() else {}
