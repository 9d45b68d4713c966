"""Check that a generator fits the cut and the masks that it is used with."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_masks
from feataug.core.specs import FeatureSpec
from feataug.errors import ConfigError, FeatAugWarning, ShapeError

_ADVICE = "Cut the model where the generator's was cut, or train a generator for this cut with GeneratorTrainer."


def check_spec(who: str, made_for: FeatureSpec, spec: FeatureSpec, advice: str = _ADVICE) -> None:
    """Raise ``ShapeError`` if a generator's spec differs from that of the cut where it is used. Layers may have other names."""
    if made_for.shapes != spec.shapes:
        raise ShapeError(f"{who}: the generator was made for another cut.", given=str(made_for), needed=str(spec), advice=advice)


def check_fits(who: str, generator: Any, spec: FeatureSpec | None, num_classes: int | None) -> None:
    """Check that a loaded generator fits. ``None`` for the spec or the number of classes skips that check.

    Raises:
        ShapeError: the generator was made for another cut.
        ConfigError: it was made for another number of classes.

    Warns:
        FeatAugWarning: only the layers' names differ.
    """
    if spec is not None:
        check_spec(who, generator.spec, spec)
        layers = generator.spec.layers, spec.layers
        if not all(_same_layer(one, other) for one, other in zip(*layers, strict=False)):
            given, needed = (", ".join(names) for names in layers)
            warnings.warn(
                f"{who}: the generator was made for a cut at {given}, and this is one at {needed}: features of another layer are other "
                "features, even where their shapes agree.",
                FeatAugWarning,
                stacklevel=3,
            )
    if num_classes not in (None, generator.num_classes):
        raise ConfigError(
            f"{who}: the generator was made for other classes.",
            given=f"a generator for {generator.num_classes} classes",
            needed=f"one for {num_classes}, as the masks have",
            advice="Train a generator on masks with these classes.",
        )


def _same_layer(one: str, other: str) -> bool:
    """Whether two names may belong to the same layer. In a model inside another model, names have a prefix."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def labels_checked(generator: Any, masks: Tensor, device: torch.device) -> bool:
    """Check labels on the CPU before they go to a GPU, where the generator's own check would have to wait for the GPU.

    Args:
        generator: The generator. Its ``forward`` must have the parameter ``checked``, which a user's own generator may lack.
        masks: ``(n, H, W)``, as they were drawn.
        device: The generator's device.

    Returns:
        Whether the labels were checked here, so that the generator can be called with ``checked=True``.

    Raises:
        LabelError: a value is neither a class nor ``ignore_index``.
    """
    forward = getattr(type(generator), "forward", None)
    takes = forward is not None and "checked" in inspect.signature(forward).parameters
    if not takes or device.type == "cpu" or masks.device.type != "cpu":
        return False
    check_masks("FeatureGenerator", masks, generator.num_classes, generator.ignore_index)
    return True
