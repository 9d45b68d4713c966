"""Does it help? The same model trained further with and without synthetic features, on equal steps and equal real batches."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from feataug.checks import check_number
from feataug.generator import FeatureGenerator
from feataug.metrics import MEASURES
from feataug.mixing import FeatureMixer
from feataug.splitting import split
from feataug.training.config import FinetuneConfig
from feataug.training.finetune import Finetuner

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom; beyond the table the first terms of
# its expansion around the normal's (Fisher, Cornish 1960).
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def train_arm(
    model: nn.Module,
    at: str | Sequence[str],
    loader: Iterable[tuple[Tensor, Tensor]],
    validate: Callable[[nn.Module], dict[str, Any]],
    config: FinetuneConfig,
    *,
    generator: FeatureGenerator | None = None,
    masks: Any = None,
    example: Any = None,
    ratio: float = 0.3,
    label_smoothing: float = 1e-4,
    ignore_index: int = 255,
    update_bn: bool = True,
    output: str | Path | None = None,
    device: str | None = "auto",
    progress: bool | str = True,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a copy of ``model`` further: the control without ``generator``, feataug with it.

    Both arms see the same real batches and take the same number of steps; feataug's batches hold synthetic samples besides.

    Args:
        model: The trained model; it stays as it is.
        at: Where it is cut.
        loader: Real ``(images, masks)``; for a fair pair one that repeats itself, such as ``data.seeded_loader``.
        validate: The model to its figures.
        config: Of the training.
        generator: Trained for this cut; ``None`` for the control.
        masks: Mask source of the synthetic samples.
        example: For ``split``, of a model that does not take images of 128 x 128.
        ratio, label_smoothing: See ``FeatureMixer``.
        ignore_index: Label of void.
        update_bn: Measure BatchNorm's running statistics anew on one pass over ``loader`` after training, in either arm: with
            synthetic features in the batches they are no longer those of real ones.
        output: Folder for checkpoints, from which an interrupted run goes on.
        device, progress: As for ``Finetuner``.

    Returns:
        The trained copy, and its figures with ``seconds``; with ``update_bn`` also ``as_trained``, the figures before it.
    """
    began = time.monotonic()
    model = copy.deepcopy(model)
    cut = mixer = None
    if generator is not None:
        cut = split(model, at, example=example)
        mixer = FeatureMixer(
            generator,
            masks,
            ratio,
            label_smoothing,
            ignore_index=ignore_index,
            cut=cut,
            seed=config.seed,
            aux_weight=config.aux_weight,
        )
    tuner = Finetuner(model, config, mixer=mixer, cut=cut, output=output, device=device, progress=progress)
    figures = tuner.fit(loader, validate, ignore_index=ignore_index)[-1]
    if update_bn:
        tuner.update_bn(loader)
        figures = validate(model.eval()) | {"as_trained": figures}
    return model, figures | {"seconds": round(time.monotonic() - began, 1)}


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Mean of ``second - first`` over pairs, with its 95 % interval by Student's t; no interval for a single pair.

    Example:
        >>> result = difference([50.0, 51.0, 49.0], [51.0, 52.5, 49.5])
        >>> {name: round(value, 2) for name, value in result.items()}
        {'mean': 1.0, 'low': -0.24, 'high': 2.24}
    """
    check_number("difference", "number of pairs", len(first), low=1, integer=True)
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    n = len(gaps)
    mean = sum(gaps) / n
    if n == 1:
        return {"mean": mean, "low": None, "high": None}
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (n - 1) / n)
    t = _T95[n - 2] if n - 2 < len(_T95) else 1.96 + 2.372 / (n - 1) + 2.823 / (n - 1) ** 2
    return {"mean": mean, "low": mean - t * spread, "high": mean + t * spread}


def differences(control: Sequence[dict[str, Any]], feataug: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """``difference`` in each of the four measures, in points, feataug minus control."""
    return {name: difference([c[name] for c in control], [f[name] for f in feataug]) for name in MEASURES}
