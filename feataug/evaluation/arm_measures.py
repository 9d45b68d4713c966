"""How all arms of a comparison are predicted with and measured: whole or by windows, without and with a class bias."""

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
from feataug.errors import ConfigError, message
from feataug.evaluation.class_bias import fit_class_bias
from feataug.evaluation.inference_fitting import fit_inference
from feataug.evaluation.repeatability import put_back
from feataug.inference.evaluate import evaluate
from feataug.inference.inference import Inference
from feataug.io.results import by_class
from feataug.losses import split_outputs
from feataug.metrics import SegmentationMetrics
from feataug.training.batches import part_of
from feataug.training.state_io import broadcast_from_main

# Without whole training images, so many crops stand in for them: fewer leave the numbers of rare classes to chance.
STAND_IN = 64
_BIAS_FROM = {True: f"the first {STAND_IN} training crops", False: "plain_loader"}

Size = tuple[int, int]


def first_images(loader: Iterable[Any], images: int = 1) -> list[Any]:
    """The first batches of a loader, until they hold as many images; the global generators stay as they were.

    Args:
        loader: Yields ``(images, masks)``.
        images: How many images are wanted. A loader that ends earlier gives what it has.
    """
    found: list[Any] = []
    count = 0
    with put_back():
        for batch in islice(check_loader("compare", loader), images):
            found.append(batch)
            count += len(batch[0]) if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor) else 0
            if count >= images:
                break
    return found


def size_of(batches: Sequence[Any]) -> Size | None:
    """Rows and columns of the images in the first of some batches; ``None`` where it holds no images."""
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
    """Decide how a comparison predicts and measures, on the base model and on training images alone.

    Args:
        model: Gives the base model, on the device where it is to run.
        sample: The loader of training crops.
        val_loader, plain_loader, window, crop_size, bias: As ``compare`` has them.
        classes: Names of the classes.
        ignore_index: Label of void.
        once: ``(name, settings, run) -> figures``, of ``run`` or of an earlier call.
        identity: Settings that tell the base model from others.

    Raises:
        ConfigError, ShapeError: ``window`` or ``crop_size`` is neither ``"auto"`` nor ``None`` nor a size.
    """
    for name, value in (("window", window), ("crop_size", crop_size)):
        if isinstance(value, str) and value != "auto":
            raise ConfigError(
                message(f"compare: {name} is not offered.", given=repr(value), needed='"auto", None, or rows and columns')
            )
    # Crops that stand in for plain images, or one batch to know their size.
    crops = first_images(sample, STAND_IN if bias and plain_loader is None else 1)
    plain = crops if plain_loader is None else plain_loader
    data = describe_data(sample) if plain_loader is None else describe_data(plain_loader, measured=True)
    found: dict[str, Any] = {"decided_by": "the argument window"}
    if window == "auto":
        crop = size_of(crops) if crop_size == "auto" else check_size("compare", "crop_size", crop_size) if crop_size else None
        asked = {**identity, "classes": list(classes), "ignore_index": ignore_index, "crop_size": list(crop or ()), "plain_data": data}
        decide = partial(once, "prediction", asked)
        found = decide_window(model, plain_loader, crop, size_of(first_images(val_loader)), len(classes), ignore_index, decide)
        window = found["window"]
    chosen = check_size("compare", "window", window) if window is not None else None
    # Without a window and a bias it is measured as it was before there were these, and nothing is added to the settings of then.
    way = ({"window": list(chosen)} if chosen else {}) | ({"bias": True, "plain_data": data} if bias else {})
    found |= {"window": list(chosen) if chosen else None, "bias": bias, "bias_from": _BIAS_FROM[plain_loader is None] if bias else None}
    return Measuring(val_loader, plain if bias else None, chosen, classes, ignore_index, way, found)


def decide_window(
    model: Callable[[], nn.Module],
    plain: Iterable[Any] | None,
    crop: Size | None,
    measured: Size | None,
    num_classes: int,
    ignore_index: int,
    once: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]],
) -> dict[str, Any]:
    """Whether all arms are predicted with by windows of the crops' size, and what decided it.

    Args:
        model: Gives the base model.
        plain: Whole labelled training images, or ``None`` where there are none.
        crop: Size of the crops that training sees; ``None`` where it sees whole images.
        measured: Size of the images to measure on, as far as it is known.
        num_classes: Number of classes.
        ignore_index: Label of void.
        once: Runs the measurement, or reads what an earlier call found.

    Returns:
        ``window`` (``[h, w]`` or ``None``), ``crop_size`` and ``decided_by`` (words); with ``plain`` and sizes that differ also ``whole`` and
        ``windows`` (unless ``plain`` has the crops' size), the base model's measures on training images.
    """
    found: dict[str, Any] = {"window": None, "crop_size": list(crop) if crop else None}
    if crop is None or measured is None:
        return found | {"decided_by": "no crop size is known: whole images"}
    if crop == measured:
        return found | {"decided_by": "validation images have the crops' size: there is nothing to decide"}
    if plain is None:
        # Crops cannot tell how the model does on whole images. It was trained on windows of this size, so they are the safe choice.
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
    """Measures a trained model on the validation images, every model in the same way.

    Attributes:
        val_loader: Pairs to measure on.
        plain: Labelled training images that a class bias is fitted on; ``None`` for no bias.
        window: Rows and columns of the windows, or ``None`` for whole images.
        classes: Names of the classes.
        ignore_index: Label of void.
        way: What tells this way of measuring from others, for the settings of runs.
        found: What decided it, for the result.
    """

    val_loader: Iterable[tuple[Tensor, Tensor]]
    plain: Iterable[tuple[Tensor, Tensor]] | None
    window: Size | None
    classes: Sequence[str]
    ignore_index: int
    way: dict[str, Any]
    found: dict[str, Any]

    def predictor(self, model: nn.Module, class_bias: Sequence[float] | None = None) -> nn.Module:
        """What predicts with a model: the model itself, or an ``Inference``."""
        if self.window is None and class_bias is None:
            return model
        return Inference(model, window=self.window, class_bias=class_bias)

    def before(self, model: nn.Module) -> dict[str, Any]:
        """The measures without a class bias, as ``metrics.scores`` gives them."""
        where, predict = device_of(model), self.predictor(model)
        # Whole images or windows: that has been decided.
        settings: dict[str, Any] = {"ignore_index": self.ignore_index, "device": where, "crop_size": None}
        return evaluate(predict, part_of(self.val_loader), len(self.classes), **settings)

    def full(self, model: nn.Module) -> dict[str, Any]:
        """The measures by class: without ``plain`` those of ``before``; else after a bias, with ``before_bias`` and ``class_bias``."""
        if self.plain is None:
            return by_class(self.before(model), self.classes)
        where, predict = device_of(model), self.predictor(model)
        fitted = fit_class_bias(predict, self.plain, len(self.classes), ignore_index=self.ignore_index, device=where)
        bias = broadcast_from_main(lambda: fitted, where)
        before, after = self._both(predict, bias, where)
        return by_class(after, self.classes) | {"before_bias": by_class(before, self.classes), "class_bias": bias.tolist()}

    @torch.no_grad()
    def _both(self, predict: nn.Module, bias: Tensor, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
        """The measures before and after a bias, from one pass."""
        before, after = (SegmentationMetrics(len(self.classes), self.ignore_index).to(device) for _ in range(2))
        with eval_mode(predict):
            for batch in part_of(self.val_loader):
                images, masks = check_batch("compare", batch)
                images, masks = images.to(device, memory_format=torch.channels_last), masks.to(device)
                logits = split_outputs(predict(images))[0]
                before.update(logits, masks)
                # A number that is added to a class's logits moves the argmax as it does when it is added to log-probabilities.
                after.update(logits + bias.to(logits)[:, None, None], masks)
        return before.compute(), after.compute()
