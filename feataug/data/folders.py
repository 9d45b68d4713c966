"""Readers of the user's own folders: images paired with masks by file name, masks alone, and images alone."""

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
from feataug.errors import DataError


class MaskedImages(LabelFiles):
    """Pairs ``(image, mask)`` from two folders, matched by the files' paths within them, without suffixes and endings.

    Args:
        images: Folder with images (PNG, JPEG, TIFF, BMP, WebP), also in subfolders and linked folders. Hidden files and folders are
            skipped.
        masks: Folder with label maps of the same size and path, in a lossless format. It may be the folder of the images.
        classes: Names of the classes, in the order of their labels.
        palette: One RGB colour per class, for pictures. By default that of ``colors``, or a built-in palette.
        endings: Endings of the stems of images and of masks, such as ``("_leftImg8bit", "_gtFine_labelIds")``. Other files are
            skipped.
        suffixes: Suffixes of images and of masks, such as ``(".jpg", ".png")``, if files of other kinds are there.
        names: The images that belong to the data set, in this order: a list, or a text file with one name per line (PASCAL VOC's
            ``train.txt``, or lines of image and mask). Folders and suffixes are optional.
        ids: Class of each label in the files, as a sequence or a dict, with ``ignore_index`` for void. Any other label except
            ``void`` is an error. By default the labels are the classes.
        colors: For colour-coded masks (RGB, RGBA, palettes): a colour for each class, in their order, or a dict of classes (numbers
            or names) to one colour or several, with ``ignore_index`` for void. Any other colour is an error.
        void: Label of void in the files; it becomes ``ignore_index``. With ``colors`` it may be a colour.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms; or a transform that takes ``image=``
            and ``mask=``, such as ``albumentations.Compose``.
        ignore_index: Label of void in the resulting masks.

    Each item is an image ``(3, H, W)``, uint8 or, from files of 16 bits or floats, float32 in ``[0, 1]``, and an int64 mask ``(H,
    W)``.

    Raises:
        ConfigError: ``ids``, ``colors``, ``names`` or ``suffixes`` is invalid, or a label is both void and a class.
        MissingDataError: a folder, a file of ``names``, or the mask of an image is missing.
        DataError: a folder holds no image, or two with the same name. When an item is read: a file cannot be decoded without loss,
            or a mask has several channels, another size than its image, a label without a class, or a palette that differs from the
            others.

    Source:
        Ours.
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
        """The image, ``(3, H, W)``, without transforms: uint8, or float32 in ``[0, 1]`` from files of 16 bits or floats."""
        return decode_image(type(self).__name__, self.image_files[index])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        who = type(self).__name__
        image, mask = self.image(index), self.mask(index)
        if image.shape[-2:] != mask.shape[-2:]:
            file = self.image_files[index]
            rotated = orientation_of(file) >= 5 and image.shape[-2:] == mask.shape[:-3:-1]
            raise DataError(
                f"{who}: an image and its mask differ in size.",
                given=f"{tuple(image.shape[-2:])} in {file}, {tuple(mask.shape[-2:])} in {self.mask_files[index]}",
                needed="the same rows and columns",
                advice="EXIF rotates the image by 90 degrees, and the reader applies that. If the masks fit the images as stored, remove "
                    "the orientation from the images: exiftool -Orientation= FILE."
                    if rotated
                    else None,
            )
        return transform_pair(who, self.transforms, image, mask) if self.transforms is not None else (image, mask)


class MaskFolder(LabelFiles):
    """Masks without images, for ``feataug.DatasetMasks`` and the other mask sources: each item is one mask.

    Args:
        masks: Folder with label maps of any size in a lossless format, also in subfolders and linked folders.
        ending: Ending of the files' stems, such as ``"_gtFine_labelIds"``. Other files are skipped.
        suffixes: Suffix or suffixes of the files, such as ``".png"``.
        names: The masks that belong to the data set, in this order.
        transforms: ``mask -> mask``; mask sources use it unless they get one of their own. If it takes ``image=`` and ``mask=``, it
            also gets a black image.
        classes, palette, ids, colors, void, ignore_index: As for ``MaskedImages``.

    Each item is an int64 mask ``(H, W)``.

    Raises:
        ConfigError: ``ids``, ``colors``, ``names`` or ``suffixes`` is invalid, or a label is both void and a class.
        MissingDataError: the folder, or a file of ``names``, is missing.
        DataError: the folder holds no mask, or two with the same name. When an item is read: it is not a mask, as for
            ``MaskedImages``.

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
    """Unlabelled images, for ``feataug.pseudo_masks``: each item is one image.

    Args:
        images: Folder with images (PNG, JPEG, TIFF, BMP, WebP), also in subfolders and linked folders.
        ending: Ending of the files' stems, such as ``"_leftImg8bit"``. Other files are skipped.
        suffixes: Suffix or suffixes of the files, such as ``".jpg"``.
        names: The images that belong to the data set, in this order; as for ``MaskedImages``.
        transforms: ``image -> image``, such as ``eval_transforms((512, 1024))``; or a transform that takes ``image=``.

    Each item is an image ``(3, H, W)``, uint8 or, from files of 16 bits or floats, float32 in ``[0, 1]``, after ``transforms``.

    Raises:
        ConfigError: ``names`` or ``suffixes`` is invalid.
        MissingDataError: the folder, or a file of ``names``, is missing.
        DataError: the folder holds no image, or two with the same name. When an item is read: it cannot be decoded.

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images)"

    def image(self, index: int) -> tv_tensors.Image:
        """The image, ``(3, H, W)``, without transforms: uint8, or float32 in ``[0, 1]`` from files of 16 bits or floats."""
        return decode_image(type(self).__name__, self.image_files[index])

    def __getitem__(self, index: int) -> Tensor:
        image = self.image(index)
        return transform_image(type(self).__name__, self.transforms, image) if self.transforms is not None else image
