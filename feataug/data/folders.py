"""Folders of one's own: images with masks, paired by file name; masks alone; images alone. Folders within them count, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from feataug.core.joint_transforms import transform_image, transform_mask, transform_pair
from feataug.data.dataset_root import IMAGE_SUFFIXES, MASK_SUFFIXES
from feataug.data.decoding import decode_image, orientation_of
from feataug.data.label_maps import LabelFiles
from feataug.data.pairing import Suffixes, files_of, pair_files
from feataug.errors import DataError, message


class MaskedImages(LabelFiles):
    """Pairs ``(image, mask)`` from two folders, matched by the files' paths within them, less suffixes and endings.

    Args:
        images: Folder with images (PNG, JPEG, TIFF, BMP, WebP), also in folders below it, linked ones included. Hidden files and folders
            are passed over.
        masks: Folder with label maps of the same size and path, in a lossless format; it may be the images' folder.
        classes: Names of the classes, in the order of their labels.
        palette: One RGB colour per class, for pictures; that of ``colors``, or a default set if absent.
        endings: What the stems of images and of masks end in, such as ``("_leftImg8bit", "_gtFine_labelIds")``; other files are passed
            over.
        suffixes: What images and masks end in after that, such as ``(".jpg", ".png")``, where both kinds are there.
        names: Which images belong to the data set, in this order: a list, or a text file with one name a line (PASCAL VOC's
            ``train.txt``, lines of image and mask). Folders and suffixes may stand there or not.
        ids: Class of each label in the files, as a sequence or a dict; ``ignore_index`` where a label means void. Any other label but
            ``void`` is an error. If absent, the labels are the classes.
        colors: For colour-coded masks (RGB, RGBA, palettes): a colour for each class, in their order, or a dict of classes (numbers or
            names) to one colour or several, with ``ignore_index`` for void. Any other colour is an error.
        void: Label that the files use for void; it becomes ``ignore_index``. With ``colors`` it may be a colour.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms; or one that takes ``image=`` and ``mask=``, as
            ``albumentations.Compose``.
        ignore_index: Label of void in the masks that come out.

    Each item is an image ``(3, H, W)``, uint8 or, from files of 16 bits or floats, float32 in ``[0, 1]``, and an int64 mask ``(H, W)``.

    Raises:
        ConfigError: ``ids``, ``colors``, ``names`` or ``suffixes`` are not what they should be, or a label is both void and a class.
        MissingDataError: a folder, a file of ``names``, or the mask of an image is not there.
        DataError: a folder holds no image, or two of one name; or, when the item is read, a file cannot be decoded without loss, a mask has
            several channels, another size than its image, a label that is no class, or a palette that differs from the others'.

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
        suffixes: tuple[Suffixes, Suffixes] | None = None,
        names: Sequence[str | Path] | str | Path | None = None,
        ids: Mapping[int, int] | Sequence[int] | None = None,
        colors: Any = None,
        void: int | tuple[int, int, int] = 255,
        transforms: Callable[..., Any] | None = None,
        ignore_index: int = 255,
    ) -> None:
        self.image_files, files = pair_files(type(self).__name__, Path(images), Path(masks), endings, suffixes, names)
        super().__init__(
            files, classes, palette, ids=ids, colors=colors, void=void, transforms=transforms, ignore_index=ignore_index
        )

    def image(self, index: int) -> tv_tensors.Image:
        """The image alone, ``(3, H, W)``, without transforms: uint8, or float32 in ``[0, 1]`` from files of 16 bits or floats."""
        return decode_image(type(self).__name__, self.image_files[index])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        who = type(self).__name__
        image, mask = self.image(index), self.mask(index)
        if image.shape[-2:] != mask.shape[-2:]:
            file = self.image_files[index]
            turned = orientation_of(file) >= 5 and image.shape[-2:] == mask.shape[:-3:-1]
            raise DataError(
                message(
                    f"{who}: an image and its mask differ in size.",
                    given=f"{tuple(image.shape[-2:])} in {file}, {tuple(mask.shape[-2:])} in {self.mask_files[index]}",
                    needed="the same rows and columns",
                    advice="EXIF turns the image by 90 degrees when it is shown, and it is read so. If the masks belong to the images as they "
                    "are stored, take the orientation out of the images: exiftool -Orientation= FILE."
                    if turned
                    else None,
                )
            )
        return transform_pair(who, self.transforms, image, mask) if self.transforms is not None else (image, mask)


class MaskFolder(LabelFiles):
    """Masks without images, for ``feataug.DatasetMasks`` and the other mask sources: each item is one mask.

    Args:
        masks: Folder with label maps of any sizes in a lossless format, also in folders below it, linked ones included.
        classes: Names of the classes, in the order of their labels.
        palette: One RGB colour per class, for pictures; that of ``colors``, or a default set if absent.
        ending: What the stems of the files end in, such as ``"_gtFine_labelIds"``; other files are passed over.
        suffixes: What they end in after that, such as ``".png"``.
        names: Which masks belong to the data set, in this order; as for ``MaskedImages``.
        ids: Class of each label in the files, as a sequence or a dict; ``ignore_index`` where a label means void. Any other label but
            ``void`` is an error. If absent, the labels are the classes.
        colors: For colour-coded masks, as for ``MaskedImages``.
        void: Label that the files use for void; it becomes ``ignore_index``. With ``colors`` it may be a colour.
        transforms: ``mask -> mask``; mask sources take it unless they are given another. One that takes ``image=`` and ``mask=`` gets a
            black image.
        ignore_index: Label of void in the masks that come out.

    Each item is an int64 mask ``(H, W)``.

    Raises:
        ConfigError: ``ids``, ``colors``, ``names`` or ``suffixes`` are not what they should be, or a label is both void and a class.
        MissingDataError: the folder, or a file of ``names``, is not there.
        DataError: the folder holds no mask, or two of one name; or, when an item is read, it is no mask, as for ``MaskedImages``.

    Source:
        Sec. 4.5 (additional masks, for which there are no images).
    """

    def __init__(
        self,
        masks: str | Path,
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]] | None = None,
        *,
        ending: str = "",
        suffixes: Suffixes = None,
        names: Sequence[str | Path] | str | Path | None = None,
        ids: Mapping[int, int] | Sequence[int] | None = None,
        colors: Any = None,
        void: int | tuple[int, int, int] = 255,
        transforms: Callable[..., Any] | None = None,
        ignore_index: int = 255,
    ) -> None:
        files = files_of(type(self).__name__, Path(masks), ending, suffixes, MASK_SUFFIXES, "masks", names)
        super().__init__(
            files, classes, palette, ids=ids, colors=colors, void=void, transforms=transforms, ignore_index=ignore_index
        )

    def __getitem__(self, index: int) -> Tensor:
        mask = self.mask(index)
        return transform_mask(type(self).__name__, self.transforms, mask) if self.transforms is not None else mask


class Images(Dataset):
    """Images that nobody labelled, for ``feataug.pseudo_masks``: each item is one image.

    Args:
        images: Folder with images (PNG, JPEG, TIFF, BMP, WebP), also in folders below it, linked ones included.
        ending: What the stems of the files end in, such as ``"_leftImg8bit"``; other files are passed over.
        suffixes: What they end in after that, such as ``".jpg"``.
        names: Which images belong to the data set, in this order; as for ``MaskedImages``.
        transforms: ``image -> image``, such as ``eval_transforms((512, 1024))``; or one that takes ``image=``.

    Each item is an image ``(3, H, W)``, uint8 or, from files of 16 bits or floats, float32 in ``[0, 1]``; or what ``transforms`` makes of it.

    Raises:
        ConfigError: ``names`` or ``suffixes`` are not what they should be.
        MissingDataError: the folder, or a file of ``names``, is not there.
        DataError: the folder holds no image, or two of one name; or, when an item is read, it cannot be decoded.

    Source:
        Sec. 4.5 (unlabelled frames).
    """

    def __init__(
        self,
        images: str | Path,
        *,
        ending: str = "",
        suffixes: Suffixes = None,
        names: Sequence[str | Path] | str | Path | None = None,
        transforms: Callable[..., Any] | None = None,
    ) -> None:
        self.image_files = files_of(type(self).__name__, Path(images), ending, suffixes, IMAGE_SUFFIXES, "images", names)
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.image_files)

    def image(self, index: int) -> tv_tensors.Image:
        """The image, ``(3, H, W)``, without transforms: uint8, or float32 in ``[0, 1]`` from files of 16 bits or floats."""
        return decode_image(type(self).__name__, self.image_files[index])

    def __getitem__(self, index: int) -> Tensor:
        image = self.image(index)
        return transform_image(type(self).__name__, self.transforms, image) if self.transforms is not None else image
