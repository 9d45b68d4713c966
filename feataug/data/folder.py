"""Folders of one's own: images with masks, paired by file name; masks alone; images alone. Folders within them count, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from feataug.data.finding import IMAGE_SUFFIXES, files_in
from feataug.data.labels import LabelFiles, decode_image
from feataug.errors import DataError, MissingDataError, message


class MaskedImages(LabelFiles):
    """Pairs ``(image, mask)`` from two folders, matched by the files' paths within them, less suffixes and endings.

    Args:
        images: Folder with ``.png`` or ``.jpg`` images, also in folders below it.
        masks: Folder with single-channel ``.png`` label maps of the same size and path.
        classes: Names of the classes, in the order of their labels.
        palette: One RGB colour per class, for pictures; drawn from a default set if absent.
        endings: What the stems of images and of masks end in, such as ``("_leftImg8bit", "_gtFine_labelIds")``; other files are passed
            over.
        ids: Class of each label in the files, as a sequence or a dict; ``ignore_index`` where a label means void. Any other label but
            ``void`` is an error. If absent, the labels are the classes.
        void: Label that the files use for void; it becomes ``ignore_index``.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms.
        ignore_index: Label of void in the masks that come out.

    Raises:
        ConfigError: ``ids`` is no such table.
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
        ids: Mapping[int, int] | Sequence[int] | None = None,
        void: int = 255,
        transforms: Callable[..., Any] | None = None,
        ignore_index: int = 255,
    ) -> None:
        self.image_files, mask_files = _pair(type(self).__name__, Path(images), Path(masks), endings)
        super().__init__(mask_files, classes, palette, ids=ids, void=void, transforms=transforms, ignore_index=ignore_index)

    def image(self, index: int) -> tv_tensors.Image:
        """The image alone, uint8 ``(3, H, W)``, without transforms."""
        return decode_image(type(self).__name__, self.image_files[index])

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


class MaskFolder(LabelFiles):
    """Masks without images, for ``feataug.DatasetMasks`` and the other mask sources: each item is one mask.

    Args:
        masks: Folder with single-channel ``.png`` label maps of any sizes, also in folders below it.
        classes: Names of the classes, in the order of their labels.
        palette: One RGB colour per class, for pictures; drawn from a default set if absent.
        ending: What the stems of the files end in, such as ``"_gtFine_labelIds"``; other files are passed over.
        ids: Class of each label in the files, as a sequence or a dict; ``ignore_index`` where a label means void. Any other label but
            ``void`` is an error. If absent, the labels are the classes.
        void: Label that the files use for void; it becomes ``ignore_index``.
        transforms: ``mask -> mask``; mask sources take it unless they are given another.
        ignore_index: Label of void in the masks that come out.

    Each item is an int64 mask ``(H, W)``.

    Raises:
        ConfigError: ``ids`` is no such table.
        MissingDataError: the folder is not there.
        DataError: the folder holds no mask; or, when an item is read, it is no mask, as for ``MaskedImages``.

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
        ids: Mapping[int, int] | Sequence[int] | None = None,
        void: int = 255,
        transforms: Callable[[Tensor], Tensor] | None = None,
        ignore_index: int = 255,
    ) -> None:
        files = _files(type(self).__name__, Path(masks), ending, (".png",), "masks")
        super().__init__(files, classes, palette, ids=ids, void=void, transforms=transforms, ignore_index=ignore_index)

    def __getitem__(self, index: int) -> Tensor:
        mask = self.mask(index)
        return self.transforms(mask) if self.transforms is not None else mask


class Images(Dataset):
    """Images that nobody labelled, for ``feataug.pseudo_masks``: each item is one image.

    Args:
        images: Folder with ``.png`` or ``.jpg`` images, also in folders below it.
        ending: What the stems of the files end in, such as ``"_leftImg8bit"``; other files are passed over.
        transforms: ``image -> image``, such as ``eval_transforms((512, 1024))``.

    Each item is a uint8 image ``(3, H, W)``, or what ``transforms`` makes of it.

    Raises:
        MissingDataError: the folder is not there.
        DataError: the folder holds no image; or, when an item is read, it cannot be decoded.

    Source:
        Sec. 4.5 (unlabelled frames).
    """

    def __init__(self, images: str | Path, *, ending: str = "", transforms: Callable[[Tensor], Tensor] | None = None) -> None:
        self.image_files = _files(type(self).__name__, Path(images), ending, IMAGE_SUFFIXES, "images")
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.image_files)

    def image(self, index: int) -> tv_tensors.Image:
        """The image, uint8 ``(3, H, W)``, without transforms."""
        return decode_image(type(self).__name__, self.image_files[index])

    def __getitem__(self, index: int) -> Tensor:
        image = self.image(index)
        return self.transforms(image) if self.transforms is not None else image


def _files(who: str, folder: Path, ending: str, suffixes: Sequence[str], what: str) -> list[Path]:
    """The files of a folder, at least one."""
    if not folder.is_dir():
        raise MissingDataError(message(f"{who}: the folder is missing.", given=str(folder), needed=f"a folder of {what}"))
    files = [file for _, file in files_in(folder, ending, suffixes)]
    if not files:
        raise _empty(who, folder, ending, suffixes, what)
    return files


def _empty(who: str, folder: Path, ending: str, suffixes: Sequence[str], what: str) -> DataError:
    names = ", ".join(f"*{ending}{suffix}" for suffix in suffixes)
    return DataError(message(f"{who}: the folder holds no {what}.", given=str(folder), needed=f"files named {names}"))


def _pair(who: str, images: Path, masks: Path, endings: tuple[str, str]) -> tuple[list[Path], list[Path]]:
    """Files of both folders in the order of their names, one mask for each image."""
    for folder in (images, masks):
        if not folder.is_dir():
            raise MissingDataError(
                message(f"{who}: a folder is missing.", given=str(folder), needed="a folder of images and one of masks")
            )
    named, mask_of = files_in(images, endings[0]), dict(files_in(masks, endings[1]))
    if not named:
        raise _empty(who, images, endings[0], IMAGE_SUFFIXES, "images")
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
