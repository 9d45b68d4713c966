"""Checks of numbers, shapes, dtypes and labels that users pass, with error messages that say how to fix them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.specs import FeatureSpec
from feataug.errors import ConfigError, DataError, DtypeError, LabelError, ShapeError

INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def describe(value: Any) -> str:
    """Shape, dtype and device of a tensor, or the type of anything else.

    Example:
        >>> describe(torch.zeros(2, 3))
        '[2, 3] float32 on cpu'
    """
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    return f"{type(value).__name__} {value!r}"[:200]


def check_number(
    who: str,
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    integer: bool = False,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise ``ConfigError`` unless ``value`` is a number within the bounds (``open_*``: the bound itself is not allowed)."""
    kinds = int if integer else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool)
    # torch's integers end below 2**63, and larger ones do not convert to its floats either.
    good = good and abs(value) < 2**63 and math.isfinite(value)
    if good:
        good = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not good:
        kind = "an integer" if integer else "a number"
        bounds = f"{'(' if open_low or low == -math.inf else '['}{low:g}, {high:g}{')' if open_high or high == math.inf else ']'}"
        raise ConfigError(f"{who}: {name} is out of range.", given=repr(value), needed=f"{kind} in {bounds}")


def check_void(who: str, num_classes: int, ignore_index: int) -> None:
    """Raise ``ConfigError`` if the label of void is also a class, whose pixels losses and measures would then ignore."""
    if hasattr(ignore_index, "__index__") and 0 <= ignore_index < num_classes:
        raise ConfigError(
            f"{who}: ignore_index is also a class.",
            given=f"ignore_index={ignore_index}, {num_classes} classes",
            needed=f"a label that is none of 0 .. {num_classes - 1}",
            advice="Pass ignore_index=-1, or 65535: to the reader of the data, to the generator and to all that take its masks.",
        )


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a dense tensor with values: not sparse, quantized, or on the meta device."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta and not value.is_quantized


def check_size(who: str, name: str, value: Any) -> tuple[int, int]:
    """Rows and columns as two integers of at least 1; ``ShapeError`` if they are not."""
    try:
        rows, columns = (operator.index(item) for item in value)
        if min(rows, columns) > 0 and max(rows, columns) < 2**31:
            return rows, columns
    except (TypeError, ValueError):
        pass
    raise ShapeError(f"{who}: {name} is no size.", given=describe(value), needed="rows and columns, such as (512, 1024)")


def check_images(who: str, images: Any, model: Any = None) -> Tensor:
    """Return ``images`` if they are a floating point ``(B, C, H, W)`` that ``model`` can take.

    Raises:
        DtypeError: ``images`` is no floating point tensor, or (outside of autocast) no weight of the model has its dtype.
        ShapeError: ``images`` has not four dimensions, or one of them is zero.
    """
    if not is_plain(images) or not images.is_floating_point():
        raise DtypeError(f"{who}: images must be a floating point tensor.", given=describe(images), needed="(B, C, H, W) float")
    if images.ndim != 4 or 0 in images.shape:
        raise ShapeError(f"{who}: images have the wrong shape.", given=describe(images), needed="(B, C, H, W), none of them zero")
    check_dtype_of(who, "images", images, model)
    return images


def check_dtype_of(who: str, name: str, value: Tensor, model: Any) -> None:
    """Raise ``DtypeError`` if no weight of ``model`` has the dtype of ``value``, unless autocast is on."""
    if not isinstance(model, nn.Module) or torch.is_autocast_enabled(value.device.type):
        return
    if any(parameter.dtype == value.dtype for parameter in model.parameters()):
        return  # found at the first parameter nearly always, so it is fast enough for every step
    if types := {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}:
        needed = " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
        raise DtypeError(
            f"{who}: {name} are of another type than the model.",
            given=describe(value),
            needed=needed,
            advice="Convert them by .to(dtype), or run under torch.autocast.",
        )


def check_batch(who: str, batch: Any, model: Any = None) -> tuple[Tensor, Tensor]:
    """The images and masks of a loader's batch. Labels are not checked.

    Raises:
        DataError: the batch is no pair.
        DtypeError, ShapeError: as ``check_images`` and ``check_mask_form``.
    """
    images, masks = check_pair(who, batch)
    check_images(who, images, model)
    check_mask_form(who, masks)
    check_pairs(who, (images,), masks, "images")
    return images, masks


def check_pair(who: str, batch: Any) -> tuple[Any, Any]:
    """The two items of a loader's batch; ``DataError`` if it is no pair."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        given = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else describe(batch)
        raise DataError(f"{who}: the loader yields a batch that is no pair.", given=given, needed="(images, masks)")
    return batch[0], batch[1]


def check_loader(who: str, loader: Iterable[Any]) -> Iterator[Any]:
    """An iterator over a loader; ``DataError`` if it cannot be iterated over.

    Of a loader from ``data.seeded_loader`` it reads epoch 0, unless a trainer asked for another pass.
    """
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise DataError(
            f"{who}: the loader cannot be read.",
            given=describe(loader),
            needed="an iterable of (images, masks), such as a DataLoader",
        )
    if callable(measure := getattr(getattr(loader, "batch_sampler", None), "measure", None)):
        measure()
    return iter(loader)


def is_sequence(value: Any) -> bool:
    """Whether ``value`` has a length and items by number, and is no string."""
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, (str, bytes))


def check_sequence(who: str, name: str, value: Any, needed: str) -> None:
    """Raise ``ConfigError`` unless ``is_sequence(value)``."""
    if not is_sequence(value):
        raise ConfigError(f"{who}: {name} is no sequence.", given=describe(value), needed=needed)


def check_masks(who: str, masks: Any, num_classes: int, ignore_index: int) -> Tensor:
    """Return ``masks`` as int64 after checking shape, dtype and labels.

    Raises:
        ConfigError: ``ignore_index`` is a class.
        DtypeError: ``masks`` is no integer tensor.
        ShapeError: ``masks`` is not ``(B, H, W)``, or has no pixel.
        LabelError: a value is neither ``0 .. num_classes - 1`` nor ``ignore_index``.
    """
    check_void(who, num_classes, ignore_index)
    check_mask_form(who, masks)
    masks = masks.long()
    # This synchronises a GPU once. Without it the table look-ups that follow would fail with an unreadable device-side assert.
    wrong = masks.clamp(0, num_classes - 1) != masks
    wrong &= masks != ignore_index
    if bool(wrong.any()):
        values = masks[wrong].unique()
        sample, row, column = (int(x) for x in wrong.nonzero()[0])
        raise LabelError(
            f"{who}: a mask holds labels that are no class.",
            given=f"{values[:8].tolist()} in {describe(masks)}, first at sample {sample}, row {row}, column {column}",
            needed=f"0 .. {num_classes - 1}, or ignore_index ({ignore_index}) for void",
            advice="Map the data set's own ids to 0 .. num_classes - 1 first, or raise num_classes if these are classes.",
        )
    return masks


def check_mask_form(who: str, masks: Any) -> None:
    """Raise unless ``masks`` is an integer ``(B, H, W)`` tensor with at least one pixel. Labels are not checked."""
    if not is_plain(masks) or masks.dtype not in INTEGER_DTYPES:
        raise DtypeError(
            f"{who}: masks must be integer label maps.",
            given=describe(masks),
            needed="(B, H, W) int64, the class of every pixel",
            advice="For one-hot or probability maps of shape (B, K, H, W), pass masks.argmax(1).",
        )
    if masks.ndim != 3 or 0 in masks.shape:
        raise ShapeError(
            f"{who}: masks have the wrong shape.",
            given=describe(masks),
            needed="(B, H, W), none of them zero",
            advice="For a single mask pass mask[None]; for (B, 1, H, W) pass masks[:, 0].",
        )


def check_features(who: str, features: Any, spec: FeatureSpec, image_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
    """Return ``features`` as a tuple after checking each level against ``spec``.

    Raises:
        ShapeError: the number of levels, the channels, or (if ``image_size`` is given) rows and columns differ from the spec; or
            levels differ in batch size.
        DtypeError: a level is not a floating point tensor.
    """
    if isinstance(features, Tensor):
        features = (features,)
    if not isinstance(features, Sequence) or len(features) != len(spec):
        given = f"{len(features)} tensors" if isinstance(features, Sequence) else describe(features)
        raise ShapeError(
            f"{who}: the features do not fit the spec.",
            given=given,
            needed=f"{len(spec)} tensors, one each for {', '.join(repr(level.name) for level in spec)}",
            advice=_OTHER_CUT,
        )
    for feature, level in zip(features, spec, strict=True):
        if not is_plain(feature) or not feature.is_floating_point():
            raise DtypeError(
                f'{who}: level "{level.name}" is no floating point tensor.',
                given=describe(feature),
                needed=f"(B, {level.channels}, h, w) float",
            )
        rows, columns = level.size(image_size) if image_size else ("h", "w")
        wrong = feature.ndim != 4 or feature.shape[1] != level.channels or 0 in feature.shape
        wrong = wrong or (image_size is not None and tuple(feature.shape[-2:]) != (rows, columns))
        if wrong:
            where = f", for masks of {image_size[0]} x {image_size[1]}" if image_size else ""
            raise ShapeError(
                f"{who}: the features do not fit the spec.",
                given=f'{describe(feature)}   at level "{level.name}"',
                needed=f"[B, {level.channels}, {rows}, {columns}]   "
                f"(channels {level.channels}, reduction {level.reduction}{where})",
                advice=_OTHER_CUT,
            )
    if len({len(feature) for feature in features}) > 1:
        raise ShapeError(
            f"{who}: the levels hold different numbers of samples.",
            given=str([len(feature) for feature in features]),
            needed="the same batch size at every level",
        )
    return tuple(features)


def check_pairs(who: str, features: Sequence[Tensor], masks: Tensor, name: str = "features") -> None:
    """Raise ``ShapeError`` unless each sample has a mask."""
    if len(features[0]) != len(masks):
        raise ShapeError(
            f"{who}: {name} and masks hold different numbers of samples.",
            given=f"{len(features[0])} {name}, {len(masks)} masks",
            needed="one mask for each sample",
        )


_OTHER_CUT = (
    "The model seems to be cut at another layer, or to be given images of another size, than the one the spec was made for:\n"
    "cut it there, or train a generator for this cut with GeneratorTrainer."
)
