"""Are synthetic features varied and realistic, and no copies? Measures beside recognition and the teaching score."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_number
from feataug.core.modes import eval_mode
from feataug.errors import DataError, message
from feataug.evaluation.quality.feature_samples import Gathered, gather
from feataug.evaluation.quality.fidelity import frechet, kth_distance, precision_recall
from feataug.evaluation.quality.memory_test import memory_test

# Cells that a class must have; a Gaussian needs twice as many as it has channels.
FEWEST = 50
# Maps that the memory test must have.
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
    Its class is the one that covers most of it; cells that are mostly void are left out. Real features of held-out images are compared
    with synthetic features of the same masks, at the same cells. The reference is what the truth would get in the generator's place: real
    features of training images against those of held-out images.

    Args:
        cut: A cut of the trained model.
        generator: A ``FeatureGenerator`` for it.
        train_loader: Yields ``(images, masks)`` that the generator was trained on. Augmentation is allowed; the features of what the
            loader yields count as the training features.
        val_loader: Yields held-out ``(images, masks)``.
        ignore_index: Label of void.
        cells: Compare so many cells of each set at most, drawn evenly from all labelled cells.
        images: Read the first so many images of each loader at most. A loader should be shuffled if it has more.
        neighbours: Neighbours that decide the radii of the balls of precision and recall.
        seed: Seeds the noise and the choice of cells.
        device: Where images and masks are sent; where the model is by default.

    Returns:
        Plain values, for JSON; ``report.quality_table`` shows them. ``frechet``, ``precision``, ``recall``: see
        ``evaluation.fidelity``; ``reference``: the same three of real training features; ``cells``: how many were compared. ``per_class``:
        the same by label; an entry is ``None`` for a class with fewer than 50 cells, ``frechet`` is ``None`` for fewer than two cells for
        each channel, and ``reference`` where training features have too few. ``memory`` has ``cells`` and ``maps``, the test for single
        cells and for whole maps (``None`` for fewer than 10); see ``evaluation.memory.memory_test``; and ``copies``, whether either
        says so. Where several maps cross, these are means over them (``copies``: any of them), and ``levels`` lists each with its
        ``level`` and ``channels``; class and register tokens have no place in an image and are left out. ``settings`` holds the arguments.

    Raises:
        ConfigError: a number is out of range, or ``ignore_index`` is a class.
        DataError: a loader yields no pair, or too few cells with a class; features are not finite.
        DtypeError, LabelError, ShapeError: images, masks or features do not fit; a mask holds a value that is no class.

    Note:
        Figures depend on the number of cells and channels: compare those of one cut, data set and ``cells``, and each with its reference.
        Copies of images beyond the first ``images`` are not seen, unless their masks are among them.

    Source:
        Heusel et al. (2017), Kynkäänniemi et al. (2019), Meehan et al. (2020). Ours: cells of features, the memory test's reference.
    """
    check_number("feature_quality", "cells", cells, low=FEWEST, integer=True)
    check_number("feature_quality", "images", images, low=1, integer=True)
    check_number("feature_quality", "neighbours", neighbours, low=1, high=FEWEST - 1, integer=True)
    check_number("feature_quality", "seed", seed, low=0, integer=True)
    given = {"images": images, "cells": cells, "ignore_index": ignore_index, "seed": seed}
    if device is None:
        device = next((x.device for x in itertools.chain(cut.model.parameters(), cut.model.buffers())), torch.device("cpu"))
    with eval_mode(cut.model), eval_mode(generator):
        train, val = (
            gather("feature_quality", name, cut, generator, loader, device=device, **given)
            for name, loader in (("train_loader", train_loader), ("val_loader", val_loader))
        )
    levels = [_level(a, b, generator.num_classes, neighbours) for a, b in zip(train, val, strict=True)]
    return _mean(levels) | {"levels": levels, "settings": given | {"neighbours": neighbours}}


def _level(train: Gathered, val: Gathered, num_classes: int, neighbours: int) -> dict[str, Any]:
    if min(len(train.labels), len(val.labels)) < FEWEST:
        raise DataError(
            message(
                f"feature_quality: too few cells have a class at level {val.level.name!r}.",
                given=f"{len(train.labels)} in train_loader, {len(val.labels)} in val_loader",
                needed=f"{FEWEST}",
                advice="Pass loaders of more or larger images.",
            )
        )
    found = _compared(train.real, val.real, val.synthetic, neighbours)
    by_class = []
    for number in range(num_classes):
        # Labels are on the CPU, features where the model is.
        mine, theirs = ((x.labels == number).to(x.real.device) for x in (train, val))
        by_class.append(_compared(train.real[mine], val.real[theirs], val.synthetic[theirs], neighbours))
    tests: dict[str, Any] = {
        "cells": memory_test((train.synthetic, train.real), (val.synthetic, val.real)),
        "maps": None,
    }
    sides = [(x.synthetic_maps, x.real_maps) for x in (train, val)]
    if min(len(x) for x, _ in sides) >= FEWEST_MAPS:
        tests["maps"] = memory_test(*sides)
    tests["copies"] = any(test["copies"] for test in tests.values() if test)
    return {"level": val.level.name, "channels": val.level.channels, **(found or {}), "per_class": by_class, "memory": tests}


def _compared(train: Tensor, real: Tensor, synthetic: Tensor, neighbours: int) -> dict[str, Any] | None:
    """The three figures of synthetic features and of real training features, each against held-out ones; as many of each."""
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


def _mean(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means over levels."""
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
    """Means of what is known, by name; counts are the least of them, and a copy in one is a copy."""
    if not rows:
        return None
    known = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    merge: dict[str, Any] = {"cells": min, "samples": min, "copies": any}
    return {name: merge.get(name, statistics.fmean)(values) if values else None for name, values in known.items()}
