"""How the commands predict: as training images decided, as ``inference.json`` says, or as options do."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feataug.errors import DataError, FeatAugWarning

if TYPE_CHECKING:
    from feataug.inference.inference import Inference

# Training images that decide; more change little.
IMAGES = 50
BIASED = "with class bias"


def some_of(data: Any, count: int) -> Any:
    """At most ``count`` items of a data set, spread evenly over it."""
    from torch.utils.data import Subset

    from feataug.core.fingerprints import spread

    return data if len(data) <= count else Subset(data, spread(range(len(data)), count))


def decided(
    model: Any, loader: Any, num_classes: int, *, crop_size: Sequence[int] | str, class_bias: bool, device: Any
) -> Inference:
    """How a model that was just trained is predicted with; as it is, with a warning, where the images decide nothing: its training is over."""
    from feataug.evaluation import Inference, fit_inference

    if num_classes < 2:
        return Inference(model)
    options: dict[str, Any] = {"crop_size": crop_size, "class_bias": class_bias, "device": device}
    try:
        return fit_inference(model, loader, num_classes, **options)[0]
    except DataError as error:
        text = str(error).replace("\n", " ")
        warnings.warn(f"feataug finetune: nothing was decided on training images: {text}", FeatAugWarning, stacklevel=2)
        return Inference(model)


def measured(predict: Inference, loader: Any, classes: Sequence[str], device: Any, whole: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The figures of a model before and after its class bias, as ``result.json`` has them.

    Args:
        predict: With windows and a class bias, or without.
        loader: ``(images, masks)`` to measure on.
        classes: Their names.
        device: Where images and masks are sent.
        whole: Figures of whole images without a bias, if they are known.

    Returns:
        The four measures and ``per_class``, predicted with the windows of ``predict`` and without its bias; ``after_bias``: those with it,
        if it has one; ``whole``: those of whole images, if it has windows; ``inference``: its settings, if there are any.
    """
    from feataug.evaluation import Inference
    from feataug.inference.evaluate import evaluate
    from feataug.io.results import by_class

    def figures(how: Any) -> dict[str, Any]:
        return by_class(evaluate(how, loader, len(classes), device=device, crop_size=None), classes)

    plain = figures(predict.model) if whole is None else by_class(whole, classes)
    found = dict(plain)
    if predict.window is not None:
        found = figures(Inference(predict.model, window=predict.window)) | {"whole": plain}
    if predict.class_bias is not None:
        found["after_bias"] = figures(predict)
    settings = predict.settings()
    return found | ({"inference": settings} if settings else {})


def rows_of(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a table: whole images, windows, class bias, as far as ``result`` has them."""
    window = result.get("inference", {}).get("window")
    before = {name: result} if window is None else {"whole images": result["whole"], "windows": result}
    return before | ({BIASED: result["after_bias"]} if "after_bias" in result else {})


def folder_of(model: str) -> Path | None:
    """The folder of a saved model; ``None`` for an id of the hub."""
    path = Path(model).expanduser()
    return path if path.is_dir() else None


def settings_for(args: argparse.Namespace, model: Any, num_classes: int) -> tuple[dict[str, Any], str | None]:
    """How ``feataug evaluate`` predicts: as ``inference.json`` beside the model says, and as options do, which win.

    Returns:
        Arguments of ``Inference``; and a sentence about the file, if there is one.

    Raises:
        CheckpointError: the file cannot be used.
    """
    from feataug.inference.inference import Inference
    from feataug.io.inference_file import FILE

    given = {name: getattr(args, name) for name in ("scales", "flip", "window") if getattr(args, name)}
    folder = folder_of(args.model)
    if args.plain or folder is None or not (folder / FILE).is_file():
        return given, None
    kept = Inference.load(model, folder, num_classes=num_classes).settings()
    if "window" in given:
        # They belong to the window that was, or to none.
        kept = {name: value for name, value in kept.items() if name not in ("stride", "divisor")}
    settings = kept | given
    source = f"{folder / FILE} and options say" if given else f"{folder / FILE} says"
    return settings, f"predicted as {source}: {said(settings)}; --plain leaves the file out"


def said(settings: Mapping[str, Any]) -> str:
    """Settings of ``Inference`` in words."""
    parts = []
    if size := settings.get("window"):
        parts.append(f"windows of {size[0]} x {size[1]}")
    if scales := settings.get("scales"):
        parts.append("scales " + ", ".join(f"{scale:g}" for scale in scales))
    if settings.get("flip"):
        parts.append("mirror images")
    if "class_bias" in settings:
        parts.append("class bias")
    return ", ".join(parts) or "whole images"
