"""Call transforms with an image and its mask, with one of them, or with named arguments as albumentations takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from feataug.core.checks import describe
from feataug.errors import DataError

# Returned in place of a result; no transform returns it.
_REJECTED = object()

_MASK_NAMES = ("mask", "masks", "label", "labels", "target", "targets", "segmentation", "annotation")
_NAMED = "a dictionary with \"image\", an array (H, W, 3) or a tensor (3, H, W), and \"mask\", integers (H, W)"


def transform_pair(who: str, transforms: Callable[..., Any], image: Tensor, mask: Tensor) -> tuple[Any, Any]:
    """An image and its mask after ``transforms``.

    Args:
        who: Name of the reader, for error messages.
        transforms: Takes ``(image, mask)`` and returns the same, as torchvision v2's joint transforms; or takes ``image=`` and
            ``mask=`` as numpy arrays (``(H, W, 3)`` and ``(H, W)``) and returns a dictionary, as ``albumentations.Compose``.
        image: ``(3, H, W)``.
        mask: ``(H, W)`` int64.

    Returns:
        The image and the mask that the transforms return; from a dictionary, a tensor ``(3, H, W)`` and an int64 one ``(H, W)``.

    Raises:
        DataError: the transforms return something else.
    """
    if not takes_names(transforms):
        result = _called(transforms, image, mask)
        if result is not _REJECTED:
            return _read_pair(who, result)
    return _read_pair(who, transforms(**_arrays(image, mask)))


def transform_image(who: str, transforms: Callable[..., Any], image: Tensor) -> Any:
    """An image without a mask after ``transforms``, which may take ``image=``; see ``transform_pair``."""
    if not takes_names(transforms):
        result = _called(transforms, image)
        if result is not _REJECTED:
            return result
    result = transforms(image=_image_array(image))
    if not isinstance(result, Mapping) or "image" not in result:
        raise _wrong_output(who, result, 'a dictionary with "image"')
    return _image_tensor(who, result["image"])


def transform_mask(who: str, transforms: Callable[..., Any], mask: Tensor) -> Any:
    """A mask without an image after ``transforms``.

    Transforms that take ``(image, mask)`` or named arguments get a black image of the mask's size.
    """
    if takes_names(transforms):
        return _mask_by_name(who, transforms, mask)
    if _takes_two(transforms):
        return _read_pair(who, transforms(_black_image(mask), mask))[1]
    try:
        return transforms(mask)
    except (KeyError, TypeError) as error:
        if not _rejected_call(transforms, error):
            raise
        rejection = error
    try:
        result = _called(transforms, _black_image(mask), mask)
    except (KeyError, TypeError):
        raise rejection from None
    return _mask_by_name(who, transforms, mask) if result is _REJECTED else _read_pair(who, result)[1]


def _called(transforms: Any, *values: Tensor) -> Any:
    """The result of a call by position; ``_REJECTED`` if the callable itself does not take these arguments."""
    try:
        return transforms(*values)
    except (KeyError, TypeError) as error:
        if not _rejected_call(transforms, error):
            raise
        return _REJECTED


def takes_names(transforms: Any) -> bool:
    """Whether a callable takes no positional argument: albumentations' transforms, and functions of ``*, image, mask``."""
    if any(kind.__module__.partition(".")[0] == "albumentations" for kind in type(transforms).__mro__):
        return True
    parameters = _parameters(transforms)
    return parameters is not None and not any(p.kind in _POSITIONAL or p.kind is p.VAR_POSITIONAL for p in parameters)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(transforms: Any) -> list[inspect.Parameter] | None:
    """A callable's parameters; ``None`` if Python cannot tell them."""
    try:
        # Module.__call__ takes any arguments and passes them to forward.
        called = transforms.forward if isinstance(transforms, nn.Module) else transforms
        return list(inspect.signature(called).parameters.values())
    except (ValueError, TypeError):
        return None


def _takes_two(transforms: Any) -> bool:
    """Whether a callable takes an image and a mask, so that it would mistake a single mask for an image."""
    found = _parameters(transforms)
    places = [p for p in found or () if p.kind in _POSITIONAL]
    if len(places) < 2:
        return False
    return places[1].default is inspect.Parameter.empty or places[1].name.lower() in _MASK_NAMES


def _rejected_call(transforms: Any, error: BaseException) -> bool:
    """Whether a callable of ``*args, **named`` itself rejected the arguments, so that no error of the user's code is hidden."""
    found = _parameters(transforms)
    if found is None or {p.kind for p in found} != {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} | (
        {p.kind for p in found} & {inspect.Parameter.KEYWORD_ONLY}
    ):
        return False
    # The traceback holds our frame and the callable's. A third frame means that code which it calls has failed.
    frame = error.__traceback__
    return frame is not None and frame.tb_next is not None and frame.tb_next.tb_next is None


def _mask_by_name(who: str, transforms: Any, mask: Tensor) -> Tensor:
    found = _parameters(transforms) or []
    names = {p.name for p in found}
    given = _arrays(_black_image(mask), mask)
    if found and "image" not in names and not any(p.kind is p.VAR_KEYWORD for p in found):
        given.pop("image")
    result = transforms(**given)
    if not isinstance(result, Mapping) or "mask" not in result:
        raise _wrong_output(who, result, 'a dictionary with "mask"')
    return _mask_tensor(who, result["mask"])


def _black_image(mask: Tensor) -> Tensor:
    from torchvision import tv_tensors  # imported here: it takes a tenth of the time that torch takes

    return tv_tensors.Image(torch.zeros(3, *mask.shape[-2:], dtype=torch.uint8))


def _arrays(image: Tensor, mask: Tensor) -> dict[str, np.ndarray]:
    labels = mask.as_subclass(Tensor).numpy()
    low, high = int(labels.min()), int(labels.max())
    # The smallest dtype that OpenCV can resize and rotate. It does not take int64, and only some functions take int32.
    kind = next((k for k in (np.uint8, np.int16, np.uint16) if low >= np.iinfo(k).min and high <= np.iinfo(k).max), np.int32)
    return {"image": _image_array(image), "mask": labels.astype(kind)}


def _image_array(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(rearrange(image.as_subclass(Tensor), "c h w -> h w c").numpy())


def _read_pair(who: str, result: Any) -> tuple[Any, Any]:
    if isinstance(result, Mapping):
        if not {"image", "mask"} <= set(result):
            raise _wrong_output(who, result, _NAMED)
        image, mask = _image_tensor(who, result["image"]), _mask_tensor(who, result["mask"])
        if image.shape[1:] != mask.shape:
            raise DataError(
                f"{who}: the transforms return an image and a mask of different sizes.",
                given=f"image {describe(image)}, mask {describe(mask)}",
                needed=_NAMED,
            )
        return image, mask
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise _wrong_output(who, result, "(image, mask), or " + _NAMED)
    return result[0], result[1]


def _image_tensor(who: str, image: Any) -> Tensor:
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.dtype.kind in "uf":
        image = torch.from_numpy(np.ascontiguousarray(rearrange(image, "h w c -> c h w")))
    if not isinstance(image, Tensor) or image.ndim != 3 or not (image.is_floating_point() or image.dtype is torch.uint8):
        raise _wrong_output(who, image, _NAMED)
    return image.float() if image.dtype is torch.float64 else image


def _mask_tensor(who: str, mask: Any) -> Tensor:
    given = mask
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "ui":
        mask = torch.from_numpy(mask.astype(np.int64))
    if isinstance(mask, Tensor) and mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[-1]):
        mask = mask.squeeze(0) if mask.shape[0] == 1 else mask.squeeze(-1)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.is_floating_point() or mask.is_complex() or mask.dtype is torch.bool:
        raise _wrong_output(who, given, _NAMED)
    return mask.long()


def _wrong_output(who: str, result: Any, needed: str) -> DataError:
    if isinstance(result, Mapping):
        given = f"a dictionary with {', '.join(map(repr, list(result)[:8])) or 'nothing'}"
    elif isinstance(result, np.ndarray):
        given = f"{list(result.shape)} {result.dtype} array"
    elif isinstance(result, (tuple, list)):
        given = f"a {type(result).__name__} of {len(result)}"
    else:
        given = describe(result)
    return DataError(f"{who}: the transforms return neither image nor mask as they should.", given=given, needed=needed)
