"""Compare cuts of a model: statistics of the features, and how well a briefly trained generator reproduces them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_batch, check_features, check_loader, check_masks, check_number, check_sequence
from feataug.core.copying import copy_model
from feataug.core.modes import eval_mode
from feataug.core.rng import derive_seed, seeded
from feataug.cutting.cut import Cut, split
from feataug.cutting.layer_lookup import layer_names
from feataug.errors import ConfigError, DataError, FeatAugWarning
from feataug.evaluation.stage_selection.candidates import candidates
from feataug.evaluation.stage_selection.class_histograms import ClassHistograms, activations
from feataug.generation.generator import FeatureGenerator
from feataug.inference.recognition import recognition
from feataug.training.config import GeneratorConfig
from feataug.training.device import make_accelerator
from feataug.training.generator_trainer import GeneratorTrainer

# The required share of the best stage's recognition. With it the rule finds the best cut of the paper's Table 4.
RECOGNISED = 0.85
# Below this share of the real score, the comparison shows mainly how far the generators are trained.
RAW = 0.5


def stages(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    at: Sequence[str | Sequence[str]] | None = None,
    count: int = 6,
    example: Any = None,
    num_images: int = 3000,
    bins: int = 32,
    min_cells: int = 100,
    generator_images: int = 0,
    config: GeneratorConfig | None = None,
    val_loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    ignore_index: int = 255,
    device: str | torch.device | None = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Compare the layers at which a model can be cut: by statistics of the features and, optionally, by how well they can be generated.

    All stages are sampled at the same grid points of the same patches: the centres of the cells of the coarsest stage. Histograms of few
    values are narrower and overlap less than those of many; with all positions of each stage, this would be most of the difference.
    Patches are scaled to an L2 norm of 100. Void, and classes with fewer than ``min_cells`` grid points, are left out.

    Trade-off: a stage's figures depend on the coarsest stage in the call.

    Args:
        model: The trained model; it is not changed.
        loader: Yields labelled training patches ``(images, masks)``. It is read twice for the statistics, and to train generators.
        num_classes: The number of classes.
        at: The candidates: layer names as for ``split``, or lists of several. By default the images themselves (if only the first layer
            reads them), and ``count`` cut points of ``feataug.cuts``: bottlenecks, at which no more values cross than at the cut points
            before and after, spread evenly over all of them.
        count: The number of cut points of ``feataug.cuts``.
        example: The example for ``split``.
        num_images: The largest number of patches (the paper: 3,000).
        bins: The number of bins of each histogram; see ``ClassHistograms``.
        min_cells: The number of grid points that a class must have.
        generator_images: The number of images on which a generator is trained at each stage, to measure its recognition score; 0 for none.
        config: Settings of these generators, which are flows by default; ``GeneratorConfig.bicyclegan()`` trains U-Nets. Their length is
            replaced, and the moving average covers at most a tenth of it.
        val_loader: Yields the pairs to measure recognition on (at most ``num_images``); by default those of ``loader``, as in the paper.
        ignore_index: The label of void.
        device, progress: As for ``GeneratorTrainer``.

    Returns:
        Plain values, for JSON; ``reporting.tables.stages_table`` shows them. ``stages`` has a dictionary for each stage: ``at``; ``levels``
        (what crosses the cut); ``decoder_share`` (share of the parameters after the cut); ``entropy`` (bits, at most ``log2(bins)``; mean
        over classes and channels); ``hist_iou`` (intersection over union of two classes' histograms; mean over pairs of classes and
        channels; ``None`` for a single class); ``recognition`` (``real`` and ``synthetic`` mIoU in percent, ``ratio``, ``diversity``,
        ``seconds``; ``None`` without generators). Further keys: ``recommended`` (an ``at`` or ``None``), ``why``, ``images``, ``stride``
        (of the grid), ``cells`` (grid points of each class), ``classes`` (those with enough grid points) and ``settings``.

    Raises:
        ConfigError: a number is out of range, ``at`` is empty or repeats a candidate, or only tokens cross.
        SplitError: the model has no cut point, or leaks at a candidate.
        DataError: the loader yields nothing, or less the second time; no class has enough grid points; features are not finite.

    Note:
        The recommendation is a rule of thumb; see ``recommend``. Statistics of two calls are comparable if their coarsest stage, patches
        and bins are the same. They are not comparable with the paper's, which names neither bins nor logarithm.

    Source:
        Sec. 4.4, Table 4. Ours: equal grid points, ranges and bins, the rule.
    """
    numbers = {"num_classes": num_classes, "count": count, "num_images": num_images, "min_cells": min_cells}
    for name, value in numbers.items():
        check_number("stages", name, value, low=1, integer=True)
    check_number("stages", "bins", bins, low=2, high=2**16, integer=True)
    check_number("stages", "generator_images", generator_images, low=0, integer=True)
    model = copy_model(model).eval()
    named = _check_candidates(at) if at is not None else candidates(model, example, count)
    stage_cuts = [split(model, name, example=example) for name in named]
    for cut, name in zip(stage_cuts, named, strict=True):
        if all(level.tokens for level in cut.spec):
            needed = "at least one feature map, whose cells have a class"
            raise ConfigError("stages: only tokens cross.", given=f"at={name!r}: {cut.spec}", needed=needed)
    where = make_accelerator(device, "no").device
    model.to(where)

    def patches(source: Any) -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for batch in check_loader("stages", source):
            images, masks = check_batch("stages", batch, model)
            masks = check_masks("stages", masks, num_classes, ignore_index)[: num_images - seen]
            seen += len(masks)
            yield images[: len(masks)].to(where, memory_format=torch.channels_last), masks.to(where)
            if seen >= num_images:
                return

    settings = {"num_images": num_images, "bins": bins, "min_cells": min_cells, "generator_images": generator_images}
    result = _statistics(stage_cuts, lambda: patches(loader), num_classes, bins, min_cells, ignore_index)
    rows = result.pop("stages")
    for cut, name, row in zip(stage_cuts, named, rows, strict=True):
        row["recognition"] = None
        if generator_images:
            trained = _shorten(config or GeneratorConfig(), generator_images)
            text = f"generator at {cut.label}" if progress else False
            measured = patches(loader if val_loader is None else val_loader)
            row["recognition"] = _train_and_recognise(cut, loader, measured, num_classes, trained, ignore_index, device, text)
        row["at"] = name if isinstance(name, str) else list(name)
    best, why = recommend(rows)
    return {"stages": rows, "recommended": best, "why": why} | result | {"settings": settings}


def recommend(rows: Sequence[Mapping[str, Any]]) -> tuple[str | list[str] | None, str]:
    """Choose a stage by a rule of thumb, with the reason.

    Among the stages whose recognition ratio is at least 0.85 times the best, the rule takes the one with the most parameters in the
    decoder. A ratio above 1 counts as 1. Nothing is chosen if no generator reaches half of the real score, or without generators: in the
    paper's table neither entropy nor overlap finds the cuts that gained (conv1_3 has the smallest entropy and lost).

    Args:
        rows: The ``stages`` of the result, with ``at``, ``decoder_share`` and ``recognition`` (with its ``ratio``, or ``None``).

    Returns:
        The chosen ``at`` or ``None``, and the reason.

    Example:
        >>> scores = {"layer2": (0.9, 0.61), "layer3": (0.7, 0.86), "layer4": (0.3, 0.97)}
        >>> recommend([{"at": at, "decoder_share": d, "recognition": {"ratio": r}} for at, (d, r) in scores.items()])[0]
        'layer3'

    Source:
        Sec. 4.4: conv4_12 gained more than conv4_23, which is recognised best but "can boost less layers". Ours: both bounds. The first
        was chosen so that the rule finds conv4_12 in Table 4; it has not been tested on other tables.
    """
    ratios = [(min(row["recognition"]["ratio"], 1.0), row) for row in rows if row["recognition"] is not None]
    ratios = [(ratio, row) for ratio, row in ratios if not math.isnan(ratio)]
    if not ratios:
        return None, (
            "No recommendation: entropy and overlap alone do not show which cut helps (in the paper's Table 4 they do not). "
            "Train generators as well: generator_images."
        )
    top, best = max(ratios, key=lambda pair: pair[0])
    if top < RAW:
        return None, (
            f"No recommendation: the best generator, at {label(best['at'])}, is recognised {top:.2f} times as well as real features. "
            f"Train the generators on more images: below {RAW:g} they are not trained enough to be compared."
        )
    near = [(ratio, row) for ratio, row in ratios if ratio >= RECOGNISED * top]
    ratio, chosen = max(near, key=lambda pair: pair[1]["decoder_share"])
    other = "the best of all" if chosen is best else f"{label(best['at'])}, the best: {top:.2f}"
    return chosen["at"], (
        f"Recommended: {label(chosen['at'])}. Its synthetic features are recognised {ratio:.2f} times as well as real ones ({other}), and "
        f"{chosen['decoder_share']:.0%} of the parameters lie after it. A rule of thumb: among the cuts with at least {RECOGNISED:g} times "
        f"the best ratio ({len(near)} of {len(ratios)}), the one with the most parameters in the decoder."
    )


def label(at: str | Sequence[str]) -> str:
    """Format the layers of a cut."""
    return at if isinstance(at, str) else ", ".join(at)


def _check_candidates(at: Any) -> list[Any]:
    check_sequence("stages", "at", at, "layers' names, such as ['encoder.layer2', 'encoder.layer3']")
    names = [name if isinstance(name, str) else list(layer_names(name)) for name in at]
    if not names or any(name in names[:number] for number, name in enumerate(names)):
        needed = "one or more different candidates, such as ['encoder.layer2', 'encoder.layer3']"
        raise ConfigError("stages: candidates must be named once.", given=f"at={at!r}", needed=needed)
    return names


@torch.no_grad()
def _statistics(
    stage_cuts: Sequence[Cut], patches: Any, num_classes: int, bins: int, min_cells: int, ignore_index: int
) -> dict[str, Any]:
    """Compute entropy and overlap of every stage, in two passes over the patches."""
    stride = max(level.reduction for cut in stage_cuts for level in cut.spec)
    found = [[ClassHistograms(num_classes, level.channels, bins) for level in cut.spec if not level.tokens] for cut in stage_cuts]

    def values() -> Iterator[tuple[int, list[tuple[ClassHistograms, Tensor, Tensor]]]]:
        for images, masks in patches():
            pairs = []
            for cut, histograms in zip(stage_cuts, found, strict=True):
                features = check_features("stages", cut.encode(images), cut.spec, (int(masks.shape[1]), int(masks.shape[2])))
                maps = [(level.reduction, x) for level, x in zip(cut.spec, features, strict=True) if not level.tokens]
                for histogram, (reduction, x) in zip(histograms, maps, strict=True):
                    pairs.append((histogram, *activations(x, reduction, masks, stride, ignore_index)))
            yield len(masks), pairs

    with eval_mode(stage_cuts[0].model):
        images = 0
        for number, pairs in values():
            images += number
            for histogram, x, _ in pairs:
                histogram.see(x)
        if not images:
            needed = "an iterable of (images, masks) that can be read again and again"
            raise DataError("stages: the loader yields nothing.", given="no patch", needed=needed)
        for cut, histograms in zip(stage_cuts, found, strict=True):
            if not all(histogram.finite for histogram in histograms):
                needed = "numbers; has the model diverged?"
                raise DataError("stages: features are not finite.", given=f"infinity or NaN at {cut.label}", needed=needed)
            for histogram in histograms:
                histogram.open()
        again = 0
        for number, pairs in values():
            again += number
            for histogram, x, labels in pairs:
                histogram.count(x, labels)
    if again < images:
        needed = "the same patches twice: a DataLoader or a list, no iterator"
        raise DataError("stages: the loader yields less the second time.", given=f"{images} patches, then {again}", needed=needed)
    cells = found[0][0].cells
    classes = (cells >= min_cells).nonzero().flatten()
    if not len(classes):
        raise DataError(
            "stages: no class has enough grid points.",
            given=f"{int(cells.max())} of the most frequent class in {images} patches, one in {stride} x {stride} pixels",
            needed=f"min_cells, {min_cells}, or more",
            advice="Use more patches, or a smaller min_cells.",
        )
    rows = []
    for cut, histograms in zip(stage_cuts, found, strict=True):
        before, after = (sum(p.numel() for p in part) for part in (cut.encoder_parameters(), cut.decoder_parameters()))
        overlap = float(torch.cat([histogram.overlap(classes) for histogram in histograms]).mean())
        rows.append({
            "at": cut.label,
            "levels": cut.spec.to_dict()["levels"],
            "decoder_share": after / max(before + after, 1),
            "entropy": float(torch.cat([histogram.entropy(classes) for histogram in histograms]).mean()),
            "hist_iou": overlap if len(classes) > 1 else None,
        })  # fmt: skip
    return {"stages": rows, "images": images, "stride": stride, "cells": cells.tolist(), "classes": classes.tolist()}


def _shorten(config: GeneratorConfig, images: int) -> GeneratorConfig:
    # A moving average longer than the training would consist of the first weights.
    ema, measured = min(config.ema_images, max(1, images // 10)), min(config.stats_images, images)
    return replace(config, num_images=images, ema_images=ema, stats_images=measured)


def _train_and_recognise(
    cut: Cut,
    loader: Iterable[tuple[Tensor, Tensor]],
    measured: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    config: GeneratorConfig,
    ignore_index: int,
    device: str | torch.device | None,
    progress: bool | str,
) -> dict[str, float]:
    """Train a generator for a stage and measure its recognition score."""
    began = time.monotonic()
    with seeded(derive_seed(config.seed, "generator"), next(cut.model.parameters()).device):
        # Each objective has a preset of its name.
        generator = FeatureGenerator(num_classes, cut.spec, config.objective, ignore_index=ignore_index)
        trainer = GeneratorTrainer(generator, cut, config, device=device, progress=progress)
        with warnings.catch_warnings():
            # A short training gives little diversity; the result has the figure.
            warnings.filterwarnings("ignore", "GeneratorTrainer: the generator seems to ignore z", FeatAugWarning)
            trainer.fit(loader)
    seconds = round(time.monotonic() - began, 1)
    found = recognition(cut, generator, measured, ignore_index=ignore_index, seed=config.seed, device=trainer.accelerator.device)
    scores = {name: found[name]["miou"] for name in ("real", "synthetic")}
    return scores | {"ratio": found["ratio"], "diversity": found["diversity"], "seconds": seconds}
