"""How commands predict with a saved model: whole images or windows, with or without a class bias."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from feataug.errors import DataError, FeatAugWarning

if TYPE_CHECKING:
    from feataug.inference.inference import Inference

# Number of training images that decide how to predict; more images change little.
DECISION_IMAGES = 50
BIASED = "with class bias"


def spread_subset(data: Any, count: int) -> Any:
    """At most ``count`` items of a data set, spread evenly over it."""
    from torch.utils.data import Subset

    from feataug.core.fingerprints import spread

    return data if len(data) <= count else Subset(data, spread(range(len(data)), count))


def fit_or_default(
    model: Any, loader: Any, num_classes: int, *, crop_size: Sequence[int] | Literal["noted"], class_bias: bool, device: Any
) -> Inference:
    """Fit how to predict with a model; if the images do not allow it, predict whole images and warn.

    It does not raise, because the training before it is already done.
    """
    from feataug.evaluation import Inference, fit_inference

    if num_classes < 2:
        return Inference(model)
    try:
        return fit_inference(model, loader, num_classes, crop_size=crop_size, class_bias=class_bias, device=device)[0]
    except DataError as error:
        text = str(error).replace("\n", " ")
        warnings.warn(f"feataug finetune: training images could not decide how to predict: {text}", FeatAugWarning, stacklevel=2)
        return Inference(model)


def inference_figures(
    predict: Inference, loader: Any, classes: Sequence[str], device: Any, whole: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Evaluate a model before and after its class bias, for ``result.json``.

    Args:
        predict: The model with its windows and class bias, if it has them.
        loader: Yields the ``(images, masks)`` to evaluate on.
        classes: The names of the classes.
        device: The device that images and masks are sent to.
        whole: Figures of whole images without a class bias, if they are known already.

    Returns:
        The four measures and ``per_class``, predicted with the windows of ``predict`` but without its class bias. Further keys, if they
        apply: ``after_bias`` (the same with the class bias), ``whole`` (the same on whole images) and ``inference`` (the settings).
    """
    from feataug.evaluation import Inference
    from feataug.inference.evaluate import evaluate
    from feataug.io.results import by_class

    def figures(model: Any) -> dict[str, Any]:
        return by_class(evaluate(model, loader, len(classes), device=device, crop_size=None), classes)

    plain = figures(predict.model) if whole is None else by_class(whole, classes)
    result = dict(plain)
    if predict.window is not None:
        result = figures(Inference(predict.model, window=predict.window)) | {"whole": plain}
    if predict.class_bias is not None:
        result["after_bias"] = figures(predict)
    settings = predict.settings()
    return result | ({"inference": settings} if settings else {})


def table_rows(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a table of ``inference_figures``: whole images, windows, class bias, as far as ``result`` has them."""
    window = result.get("inference", {}).get("window")
    before = {name: result} if window is None else {"whole images": result["whole"], "windows": result}
    return before | ({BIASED: result["after_bias"]} if "after_bias" in result else {})


def model_folder(model: str) -> Path | None:
    """The folder of a saved model; ``None`` if the name is an id of the hub."""
    path = Path(model).expanduser()
    return path if path.is_dir() else None


def settings_for(args: argparse.Namespace, model: Any, num_classes: int) -> tuple[dict[str, Any], str | None]:
    """How ``feataug evaluate`` predicts: as the model's ``inference.json`` says, unless options say otherwise.

    Returns:
        Arguments of ``Inference``; and a sentence about the file, if there is one.

    Raises:
        CheckpointError: the file cannot be used.
    """
    from feataug.inference.inference import Inference
    from feataug.io.inference_file import FILE

    given = {name: getattr(args, name) for name in ("scales", "flip", "window") if getattr(args, name)}
    folder = model_folder(args.model)
    if args.plain or folder is None or not (folder / FILE).is_file():
        return given, None
    stored = Inference.load(model, folder, num_classes=num_classes).settings()
    if "window" in given:
        # These belong to the stored window, or to none.
        stored = {name: value for name, value in stored.items() if name not in ("stride", "divisor")}
    settings = stored | given
    source = f"{folder / FILE} and the options say" if given else f"{folder / FILE} says"
    return settings, f"predicted as {source}: {describe_settings(settings)}; --plain ignores the file"


def describe_settings(settings: Mapping[str, Any]) -> str:
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
