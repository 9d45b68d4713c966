"""Predict with and measure all arms of a comparison in the same way: whole images or windows, without and with a class bias."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_batch, check_loader, check_size
from feataug.core.devices import device_of
from feataug.core.identity import describe_data
from feataug.core.measures import MEASURES
from feataug.core.modes import eval_mode
from feataug.errors import ConfigError
from feataug.evaluation.class_bias import fit_class_bias
from feataug.evaluation.inference_fitting import fit_inference
from feataug.evaluation.repeatability import preserved_rng
from feataug.inference.evaluate import evaluate
from feataug.inference.inference import Inference
from feataug.io.results import by_class
from feataug.losses import split_outputs
from feataug.metrics import SegmentationMetrics
from feataug.training.batches import part_of
from feataug.training.state_io import broadcast_from_main

# The number of crops that replace whole training images; with fewer, the bias of rare classes depends on chance.
STAND_IN = 64
_BIAS_FROM = {True: f"the first {STAND_IN} training crops", False: "plain_loader"}

Size = tuple[int, int]


def first_images(loader: Iterable[Any], images: int = 1) -> list[Any]:
    """Return the first batches of a loader that hold enough images. The global random generators are preserved.

    Args:
        loader: Yields ``(images, masks)``.
        images: The number of images. A loader with fewer images gives all of them.
    """
    found: list[Any] = []
    count = 0
    with preserved_rng():
        for batch in islice(check_loader("compare", loader), images):
            found.append(batch)
            count += len(batch[0]) if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor) else 0
            if count >= images:
                break
    return found


def image_size(batches: Sequence[Any]) -> Size | None:
    """Return rows and columns of the images in the first batch, or ``None`` if it holds no images."""
    images = batches[0][0] if batches and isinstance(batches[0], (tuple, list)) and batches[0] else None
    if not isinstance(images, Tensor) or images.ndim != 4:
        return None
    return int(images.shape[-2]), int(images.shape[-1])


def prepare(
    model: Callable[[], nn.Module],
    sample: Iterable[Any],
    val_loader: Iterable[Any],
    plain_loader: Iterable[Any] | None,
    *,
    window: Any,
    crop_size: Any,
    bias: bool,
    classes: Sequence[str],
    ignore_index: int,
    once: Callable[..., dict[str, Any]],
    identity: Mapping[str, Any],
) -> Measuring:
    """Decide how a comparison predicts and measures, using only the base model and training images.

    Args:
        model: Returns the base model on its device.
        sample: The loader of training crops.
        val_loader, plain_loader, window, crop_size, bias: The arguments of ``compare``.
        classes: The class names.
        ignore_index: The label of void.
        once: ``(name, settings, run) -> figures``, from ``run`` or from an earlier call.
        identity: Settings that identify the base model.

    Raises:
        ConfigError, ShapeError: ``window`` or ``crop_size`` is neither ``"auto"`` nor ``None`` nor a size.
    """
    for name, value in (("window", window), ("crop_size", crop_size)):
        if isinstance(value, str) and value != "auto":
            raise ConfigError(f"compare: {name} is not offered.", given=repr(value), needed='"auto", None, or rows and columns')
    # Crops that replace plain images, or one batch to read their size.
    crops = first_images(sample, STAND_IN if bias and plain_loader is None else 1)
    plain = crops if plain_loader is None else plain_loader
    data = describe_data(sample) if plain_loader is None else describe_data(plain_loader, measured=True)
    found: dict[str, Any] = {"decided_by": "the argument window"}
    if window == "auto":
        crop = image_size(crops) if crop_size == "auto" else check_size("compare", "crop_size", crop_size) if crop_size else None
        depends_on = {**identity, "classes": list(classes), "ignore_index": ignore_index, "crop_size": list(crop or ()), "plain_data": data}
        decide = partial(once, "prediction", depends_on)
        found = decide_window(model, plain_loader, crop, image_size(first_images(val_loader)), len(classes), ignore_index, decide)
        window = found["window"]
    chosen = check_size("compare", "window", window) if window is not None else None
    # Nothing is added without a window and a bias: runs from before there were these then still fit.
    method = ({"window": list(chosen)} if chosen else {}) | ({"bias": True, "plain_data": data} if bias else {})
    found |= {"window": list(chosen) if chosen else None, "bias": bias, "bias_from": _BIAS_FROM[plain_loader is None] if bias else None}
    return Measuring(val_loader, plain if bias else None, chosen, classes, ignore_index, method, found)


def decide_window(
    model: Callable[[], nn.Module],
    plain: Iterable[Any] | None,
    crop: Size | None,
    measured: Size | None,
    num_classes: int,
    ignore_index: int,
    once: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]],
) -> dict[str, Any]:
    """Decide whether all arms predict with windows of the crops' size.

    Args:
        model: Returns the base model.
        plain: Whole labelled training images, or ``None``.
        crop: The size of the training crops; ``None`` if training sees whole images.
        measured: The size of the validation images, if known.
        num_classes: The number of classes.
        ignore_index: The label of void.
        once: Runs the measurement, or reads the result of an earlier call.

    Returns:
        ``window`` (``[h, w]`` or ``None``), ``crop_size`` and ``decided_by`` (in words). If it was measured, also ``whole`` and ``windows``
        (unless ``plain`` has the crops' size), the base model's measures on training images.
    """
    found: dict[str, Any] = {"window": None, "crop_size": list(crop) if crop else None}
    if crop is None or measured is None:
        return found | {"decided_by": "no crop size is known: whole images"}
    if crop == measured:
        return found | {"decided_by": "validation images have the crops' size: there is nothing to decide"}
    if plain is None:
        # Crops do not show how the model does on whole images. It was trained on this size, so windows are the safe choice.
        if measured[0] > crop[0] or measured[1] > crop[1]:
            return found | {"window": list(crop), "decided_by": "sizes alone, without plain_loader: validation images exceed the crops"}
        return found | {"decided_by": "sizes alone, without plain_loader: validation images are smaller than the crops"}

    def fit() -> dict[str, Any]:
        base = model()
        _, figures = fit_inference(
            base, plain, num_classes, crop_size=crop, class_bias=False, ignore_index=ignore_index, device=device_of(base)
        )
        kept = {name: {m: figures[name][m] for m in MEASURES} for name in ("whole", "windows") if name in figures}
        return {"window": figures["window"]} | kept

    return found | once(fit) | {"decided_by": "the base model's mIoU on training images"}


@dataclass(frozen=True)
class Measuring:
    """Measure every trained model in the same way on the validation images.

    Attributes:
        val_loader: Yields the validation pairs.
        plain: Labelled training images to fit a class bias on; ``None`` for no bias.
        window: Rows and columns of the windows, or ``None`` for whole images.
        classes: The class names.
        ignore_index: The label of void.
        method: Settings that identify this way of measuring, stored with the runs.
        found: How it was decided, for the result.
    """

    val_loader: Iterable[tuple[Tensor, Tensor]]
    plain: Iterable[tuple[Tensor, Tensor]] | None
    window: Size | None
    classes: Sequence[str]
    ignore_index: int
    method: dict[str, Any]
    found: dict[str, Any]

    def predictor(self, model: nn.Module, class_bias: Sequence[float] | None = None) -> nn.Module:
        """Return the model itself, or an ``Inference`` of it."""
        if self.window is None and class_bias is None:
            return model
        return Inference(model, window=self.window, class_bias=class_bias)

    def before(self, model: nn.Module) -> dict[str, Any]:
        """Measure without a class bias; see ``metrics.scores``."""
        where, predict = device_of(model), self.predictor(model)
        # No check for windows: that is decided already.
        settings: dict[str, Any] = {"ignore_index": self.ignore_index, "device": where, "crop_size": None}
        return evaluate(predict, part_of(self.val_loader), len(self.classes), **settings)

    def full(self, model: nn.Module) -> dict[str, Any]:
        """Measure by class. With ``plain``, figures are after a class bias, with ``before_bias`` and ``class_bias`` besides."""
        if self.plain is None:
            return by_class(self.before(model), self.classes)
        where, predict = device_of(model), self.predictor(model)
        fitted = fit_class_bias(predict, self.plain, len(self.classes), ignore_index=self.ignore_index, device=where)
        bias = broadcast_from_main(lambda: fitted, where)
        before, after = self._before_and_after(predict, bias, where)
        return by_class(after, self.classes) | {"before_bias": by_class(before, self.classes), "class_bias": bias.tolist()}

    @torch.no_grad()
    def _before_and_after(self, predict: nn.Module, bias: Tensor, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
        before, after = (SegmentationMetrics(len(self.classes), self.ignore_index).to(device) for _ in range(2))
        with eval_mode(predict):
            for batch in part_of(self.val_loader):
                images, masks = check_batch("compare", batch)
                images, masks = images.to(device, memory_format=torch.channels_last), masks.to(device)
                logits = split_outputs(predict(images))[0]
                before.update(logits, masks)
                # Adding the bias to logits or to log-probabilities gives the same argmax.
                after.update(logits + bias.to(logits)[:, None, None], masks)
        return before.compute(), after.compute()
