"""Whether a generator fits the cut and the masks that it is to be used with."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_masks
from feataug.core.specs import FeatureSpec
from feataug.errors import ConfigError, FeatAugWarning, ShapeError, message

_ADVICE = "Cut the model where the generator's was cut, or train a generator for this cut with GeneratorTrainer."


def check_spec(who: str, made_for: FeatureSpec, spec: FeatureSpec, advice: str = _ADVICE) -> None:
    """Raise ``ShapeError`` if a generator's spec differs from that of the cut it is to be used at; layers may have other names."""
    if made_for.shapes != spec.shapes:
        raise ShapeError(
            message(f"{who}: the generator was made for another cut.", given=str(made_for), needed=str(spec), advice=advice)
        )


def check_fits(who: str, generator: Any, spec: FeatureSpec | None, num_classes: int | None) -> None:
    """Raise unless a generator that was loaded fits; what is ``None`` is not asked for.

    Raises:
        ShapeError: it was made for another cut.
        ConfigError: it was made for another number of classes.

    Warns:
        FeatAugWarning: all fits but the layers' names.
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
            message(
                f"{who}: the generator was made for other classes.",
                given=f"a generator for {generator.num_classes} classes",
                needed=f"one for {num_classes}, as the masks have",
                advice="Train a generator on masks with these classes.",
            )
        )


def _same_layer(one: str, other: str) -> bool:
    """Whether two names may be those of one layer: in a model within another they are longer."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def labels_checked(generator: Any, masks: Tensor, device: torch.device) -> bool:
    """Check labels where they lie, so that a generator on a GPU need not wait for the GPU to check them.

    Args:
        generator: Gets ``checked=True`` if its ``forward`` has this parameter; a user's own generator may not have it.
        masks: ``(n, H, W)``, as they were drawn.
        device: Where the generator will get them.

    Returns:
        Whether they were checked here: they lie on the CPU, and will not stay there.

    Raises:
        LabelError: a value that is neither a class nor ``ignore_index``.
    """
    forward = getattr(type(generator), "forward", None)
    takes = forward is not None and "checked" in inspect.signature(forward).parameters
    if not takes or device.type == "cpu" or masks.device.type != "cpu":
        return False
    check_masks("FeatureGenerator", masks, generator.num_classes, generator.ignore_index)
    return True
