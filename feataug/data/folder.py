"""A folder of images and a folder of masks, paired by file name; folders within them, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from feataug.errors import ConfigError, DataError, MissingDataError, message

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class MaskedImages(Dataset):
    """Pairs ``(image, mask)`` from two folders, matched by the files' paths within them, less suffixes and endings.

    Args:
        images: Folder with ``.png`` or ``.jpg`` images, also in folders below it.
        masks: Folder with single-channel ``.png`` label maps of the same size and path.
        classes: Names of the classes, in the order of their labels.
        palette: One RGB colour per class, for pictures; drawn from a default set if absent.
        endings: What the stems of images and of masks end in, such as ``("_leftImg8bit", "_gtFine_labelIds")``; other files are passed
            over.
        void: Label that the files use for void; it becomes ``ignore_index``.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms.
        ignore_index: Label of void in the masks that come out.

    Raises:
        MissingDataError: a folder or the mask of an image is not there.
        DataError: a folder holds no image; or, when the item is read, a mask has several channels, another size than its
            image, or a label that is no class.

    Source:
        ours.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]] | None = None,
        *,
        endings: tuple[str, str] = ("", ""),
        void: int = 255,
        transforms: Callable[..., Any] | None = None,
        ignore_index: int = 255,
    ) -> None:
        self.classes = tuple(classes)
        self.palette = tuple(palette) if palette is not None else default_palette(len(self.classes))
        self.void = void
        self.transforms = transforms
        self.ignore_index = ignore_index
        self.image_files, self.mask_files = _pair(type(self).__name__, Path(images), Path(masks), endings)

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.image_files)

    def image(self, index: int) -> tv_tensors.Image:
        """The image alone, uint8 ``(3, H, W)``, without transforms."""
        return tv_tensors.Image(self._decode(self.image_files[index], color=True))

    def mask(self, index: int) -> tv_tensors.Mask:
        """The mask alone, int64 ``(H, W)``, without transforms."""
        file = self.mask_files[index]
        labels = self._decode(file, color=False)
        if labels.shape[0] != 1:
            raise DataError(
                message(
                    f"{type(self).__name__}: a mask has {labels.shape[0]} channels.",
                    given=f"{file}, {tuple(labels.shape)}",
                    needed="one channel with the class of every pixel",
                    advice="Colour-coded masks have to be turned into label maps first.",
                )
            )
        mask = labels[0].long()
        mask[mask == self.void] = self.ignore_index
        wrong = (mask >= self.num_classes) & (mask != self.ignore_index)
        if bool(wrong.any()):
            raise DataError(
                message(
                    f"{type(self).__name__}: a mask holds labels that are no class.",
                    given=f"{mask[wrong].unique()[:8].tolist()} in {file}",
                    needed=f"0 .. {self.num_classes - 1}, or {self.void} for void",
                )
            )
        return tv_tensors.Mask(mask)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.image(index), self.mask(index)
        if image.shape[-2:] != mask.shape[-2:]:
            raise DataError(
                message(
                    f"{type(self).__name__}: an image and its mask differ in size.",
                    given=f"{tuple(image.shape[-2:])} in {self.image_files[index]}, "
                    f"{tuple(mask.shape[-2:])} in {self.mask_files[index]}",
                    needed="the same rows and columns",
                )
            )
        return self.transforms(image, mask) if self.transforms is not None else (image, mask)

    def _decode(self, file: Path, color: bool) -> Tensor:
        """Pixels ``(channels, H, W)``; a palette image gives its indices, which is how many label maps are stored."""
        try:
            with Image.open(file) as picture:
                pixels = np.array(picture.convert("RGB") if color else picture)
        except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                message(f"{type(self).__name__}: a file cannot be decoded.", given=f"{file} ({error})", needed="a PNG or JPEG")
            ) from error
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def _pair(who: str, images: Path, masks: Path, endings: tuple[str, str]) -> tuple[list[Path], list[Path]]:
    """Files of both folders in the order of their names, one mask for each image."""
    for folder in (images, masks):
        if not folder.is_dir():
            raise MissingDataError(
                message(f"{who}: a folder is missing.", given=str(folder), needed="a folder of images and one of masks")
            )
    named, mask_of = _images_in(images, endings[0]), dict(_images_in(masks, endings[1]))
    if not named:
        files = ", ".join(f"*{endings[0]}{suffix}" for suffix in IMAGE_SUFFIXES)
        raise DataError(message(f"{who}: the folder holds no images.", given=str(images), needed=f"files named {files}"))
    lost = [file for name, file in named if name not in mask_of]
    if lost:
        raise MissingDataError(
            message(
                f"{who}: {len(lost)} of {len(named)} images have no mask.",
                given=", ".join(file.name for file in lost[:5]) + (", ..." if len(lost) > 5 else ""),
                needed=f"a file of the same name in {masks}" + (f", ending in {endings[1]}" if endings[1] else ""),
                advice="Add the masks, or move these images out of the folder.",
            )
        )
    return [file for _, file in named], [mask_of[name] for name, _ in named]


def _images_in(folder: Path, ending: str) -> list[tuple[str, Path]]:
    """Image files with their paths within ``folder``, less suffix and ending."""
    return [
        (str(file.relative_to(folder).with_suffix("")).removesuffix(ending), file)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES and file.stem.endswith(ending) and file.is_file()
    ]


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that neighbours in label order do not share (the bit-interleaved map of PASCAL VOC).

    Raises:
        ConfigError: ``num_classes`` is not positive.
    """
    if num_classes < 1:
        raise ConfigError(message("default_palette: num_classes is out of range.", given=repr(num_classes), needed="at least 1"))
    colours = torch.zeros(num_classes, 3, dtype=torch.long)
    labels = torch.arange(1, num_classes + 1)
    for bit in range(7, -1, -1):
        for channel in range(3):
            colours[:, channel] |= (labels >> channel & 1) << bit
        labels = labels >> 3
    return tuple((int(r), int(g), int(b)) for r, g, b in colours)
