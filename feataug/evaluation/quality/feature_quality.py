"""Measure whether synthetic features are varied and realistic, and whether they are copies."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_number
from feataug.core.devices import device_of
from feataug.core.modes import eval_mode
from feataug.errors import DataError
from feataug.evaluation.quality.feature_samples import Gathered, gather
from feataug.evaluation.quality.fidelity import frechet, kth_distance, precision_recall
from feataug.evaluation.quality.memory_test import memory_test

# A class needs this many cells; a Gaussian needs twice as many cells as channels.
FEWEST = 50
# The memory test needs this many maps.
FEWEST_MAPS = 10

_FIGURES = ("frechet", "precision", "recall")
_DISTANCES = ("synthetic", "held_out", "real", "ratio", "nearer", "copied", "copies", "samples")


@torch.no_grad()
def feature_quality(
    cut: Any,
    generator: Any,
    train_loader: Iterable[tuple[Tensor, Tensor]],
    val_loader: Iterable[tuple[Tensor, Tensor]],
    *,
    ignore_index: int = 255,
    cells: int = 10_000,
    images: int = 256,
    neighbours: int = 3,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Compare synthetic features with real ones as two sets of vectors, and test whether the generator copies training features.

    A vector is a cell of a feature map, in the generator's standardised units (each channel has mean 0 and variance 1 on training images).
    Its class is the one that covers most of the cell; cells that are mostly void are left out. Real features of held-out images are
    compared with synthetic features of the same masks, at the same cells. The reference replaces the generator by the truth: real
    features of training images are compared with those of held-out images.

    Args:
        cut: A cut of the trained model.
        generator: A ``FeatureGenerator`` for it.
        train_loader: Yields ``(images, masks)`` that the generator was trained on. They may be augmented; the features of the augmented
            images count as training features.
        val_loader: Yields held-out ``(images, masks)``.
        ignore_index: The label of void.
        cells: The largest number of cells of each set, drawn evenly from all labelled cells.
        images: The largest number of images of each loader; the first ones are read. Shuffle a loader that has more.
        neighbours: The number of neighbours that decides the radii for precision and recall.
        seed: Seeds the noise and the draw of cells.
        device: The device for images and masks; the model's by default.

    Returns:
        Plain values, for JSON; ``reporting.tables.quality_table`` shows them. ``frechet``, ``precision``, ``recall``: see
        ``quality.fidelity``. ``reference``: the same three for real training features. ``cells``: the number of cells compared.
        ``per_class``: the same by label; an entry is ``None`` for a class with fewer than 50 cells, ``frechet`` is ``None`` for fewer than
        two cells for each channel, and ``reference`` is ``None`` for too few training features. ``memory``: the tests ``cells`` and
        ``maps`` of single cells and of whole maps (``None`` for fewer than 10), see ``quality.memory_test``, and ``copies``, whether
        either finds copies. If several maps cross the cut, these are means over them (``copies``: any of them), and ``levels`` lists each
        with its ``level`` and ``channels``. Class and register tokens have no position in an image and are left out. ``settings``: the
        arguments.

    Raises:
        ConfigError: a number is out of range, or ``ignore_index`` is a class.
        DataError: a loader yields no pair, or too few cells with a class; features are not finite.
        DtypeError, LabelError, ShapeError: images, masks or features do not fit; a mask holds a value that is no class.

    Note:
        Figures depend on the number of cells and channels: compare them only for one cut, data set and ``cells``, each with its reference.
        Copies of images beyond the first ``images`` are not found, unless their masks are among them.

    Source:
        Heusel et al. (2017), Kynkäänniemi et al. (2019), Meehan et al. (2020). Ours: cells of features, the memory test's reference.
    """
    check_number("feature_quality", "cells", cells, low=FEWEST, integer=True)
    check_number("feature_quality", "images", images, low=1, integer=True)
    check_number("feature_quality", "neighbours", neighbours, low=1, high=FEWEST - 1, integer=True)
    check_number("feature_quality", "seed", seed, low=0, integer=True)
    given = {"images": images, "cells": cells, "ignore_index": ignore_index, "seed": seed}
    device = device_of(cut.model) if device is None else device
    with eval_mode(cut.model), eval_mode(generator):
        train, val = (
            gather("feature_quality", name, cut, generator, loader, device=device, **given)
            for name, loader in (("train_loader", train_loader), ("val_loader", val_loader))
        )
    levels = [_level(a, b, generator.num_classes, neighbours) for a, b in zip(train, val, strict=True)]
    return _average_levels(levels) | {"levels": levels, "settings": given | {"neighbours": neighbours}}


def _level(train: Gathered, val: Gathered, num_classes: int, neighbours: int) -> dict[str, Any]:
    if min(len(train.labels), len(val.labels)) < FEWEST:
        raise DataError(
            f"feature_quality: too few cells have a class at level {val.level.name!r}.",
            given=f"{len(train.labels)} in train_loader, {len(val.labels)} in val_loader",
            needed=f"{FEWEST}",
            advice="Pass loaders of more or larger images.",
        )
    found = _compare(train.real, val.real, val.synthetic, neighbours)
    by_class = []
    for number in range(num_classes):
        # Labels are on the CPU, features where the model is.
        in_train, in_val = ((x.labels == number).to(x.real.device) for x in (train, val))
        by_class.append(_compare(train.real[in_train], val.real[in_val], val.synthetic[in_val], neighbours))
    tests: dict[str, Any] = {
        "cells": memory_test((train.synthetic, train.real), (val.synthetic, val.real)),
        "maps": None,
    }
    sides = [(x.synthetic_maps, x.real_maps) for x in (train, val)]
    if min(len(x) for x, _ in sides) >= FEWEST_MAPS:
        tests["maps"] = memory_test(*sides)
    tests["copies"] = any(test["copies"] for test in tests.values() if test)
    return {"level": val.level.name, "channels": val.level.channels, **(found or {}), "per_class": by_class, "memory": tests}


def _compare(train: Tensor, real: Tensor, synthetic: Tensor, neighbours: int) -> dict[str, Any] | None:
    """Compare synthetic features and real training features with held-out ones, with equal numbers of each."""
    if len(real) < FEWEST:
        return None
    count = min(len(real), len(train)) if len(train) >= FEWEST else len(real)
    real, synthetic = real[:count], synthetic[:count]
    radii = kth_distance(real, neighbours)

    def figures(other: Tensor) -> dict[str, float | None]:
        enough = len(real) >= 2 * real.shape[1]
        precision, recall = precision_recall(real, other, neighbours, radii)
        return {"frechet": frechet(real, other) if enough else None, "precision": precision, "recall": recall}

    reference = figures(train[:count]) if len(train) >= FEWEST else None
    return figures(synthetic) | {"reference": reference, "cells": count}


def _average_levels(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = _means(levels) | {"per_class": [_means(rows) for rows in zip(*(x["per_class"] for x in levels), strict=True)]}
    tests = {name: _average([x["memory"][name] for x in levels if x["memory"][name]], _DISTANCES) for name in ("cells", "maps")}
    return found | {"memory": tests | {"copies": any(x["memory"]["copies"] for x in levels)}}


def _means(rows: Sequence[Any]) -> Any:
    kept = [row for row in rows if row]
    if not kept:
        return None
    reference = _average([row["reference"] for row in kept if row["reference"]], _FIGURES)
    return _average(kept, (*_FIGURES, "cells")) | {"reference": reference}  # type: ignore[operator]


def _average(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any] | None:
    """Average known values by name. Counts take the minimum, and ``copies`` is true if any is."""
    if not rows:
        return None
    known = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    merge: dict[str, Any] = {"cells": min, "samples": min, "copies": any}
    return {name: merge.get(name, statistics.fmean)(values) if values else None for name, values in known.items()}
