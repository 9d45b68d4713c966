"""Where to cut? What the features of several stages look like, and how well a briefly trained generator makes them."""

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
from feataug.errors import ConfigError, DataError, FeatAugWarning, message
from feataug.evaluation.stage_selection.candidates import candidates
from feataug.evaluation.stage_selection.class_histograms import ClassHistograms, activations
from feataug.generation.generator import FeatureGenerator
from feataug.inference.recognition import recognition
from feataug.training.config import GeneratorConfig
from feataug.training.device import make_accelerator
from feataug.training.generator_trainer import GeneratorTrainer

# Of the best stage's recognition. On the paper's Table 4 it finds the cut that gained most.
RECOGNISED = 0.85
# Below this share of the real score it is the generators' training that is compared.
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
    """Compare the places where a model can be cut: statistics of the features and, if asked for, how well they can be generated.

    All stages are looked at in the same places of the same patches: the centres of the cells of the coarsest stage. Histograms of few values
    are narrower and overlap less than those of many; with all pixels of an early stage and a hundredth of them of a late one, that would be
    most of the difference. Patches are scaled to an L2 norm of 100; void, and classes with fewer than ``min_cells`` places, are left out.

    Args:
        model: The trained model; it stays as it is.
        loader: Labelled training patches: ``(images, masks)``, read twice for the statistics, and to train generators.
        num_classes: Number of classes.
        at: Candidates: layers' names as ``split`` takes them, or lists of several. By default the images themselves (if the first layer
            alone reads them), and ``count`` places of ``feataug.cuts``: bottlenecks, where no more values cross than at the places
            before and after, spread evenly over the list of them.
        count: How many places of ``feataug.cuts``.
        example: As for ``split``.
        num_images: Look at so many patches at most (the paper: 3,000).
        bins: Of each histogram, over the channel's own range in all classes; see ``evaluation.histograms.ClassHistograms``.
        min_cells: Places that a class must have.
        generator_images: Train a generator on so many images at each stage, and measure its recognition score; 0 for none.
        config: Of these generators, but for their length, and with a moving average over a tenth of it at most.
        val_loader: Pairs to measure recognition on (``num_images`` of them at most); by default those of ``loader``, as the paper does.
        ignore_index: Label of void.
        device, progress: As for ``GeneratorTrainer``.

    Returns:
        Plain values, for JSON; ``report.stages_table`` shows them. ``stages``, a dictionary each: ``at``; ``levels`` (what crosses);
        ``decoder_share`` (parameters after the cut, of all); ``entropy`` (bits, at most ``log2(bins)``; mean over classes and channels);
        ``hist_iou`` (intersection over union of two classes' histograms; mean over pairs of classes and channels; ``None`` for a single
        class); ``recognition`` (``real`` and ``synthetic`` mIoU in percent, ``ratio``, ``diversity``, ``seconds``; ``None`` without
        generators). Beside them ``recommended`` (an ``at``, or ``None``) and ``why``; ``images``, ``stride`` (of the places), ``cells``
        (places of each class), ``classes`` (those with enough of them) and ``settings``.

    Raises:
        ConfigError: a number is out of range, ``at`` is empty or names a place twice, or only tokens cross.
        SplitError: the model has no place to cut, or leaks where it was to be cut.
        DataError: the loader yields nothing, or nothing the second time; no class has enough places; features are not finite.

    Note:
        The recommendation is a rule of thumb; see ``recommend``. Statistics of two calls can be compared if their coarsest stage, patches
        and bins are the same, and not with the paper's, which gives neither bins nor logarithm.

    Source:
        Sec. 4.4, Table 4. Ours: equal places, ranges and bins, the rule.
    """
    numbers = {"num_classes": num_classes, "count": count, "num_images": num_images, "min_cells": min_cells}
    for name, value in numbers.items():
        check_number("stages", name, value, low=1, integer=True)
    check_number("stages", "bins", bins, low=2, high=2**16, integer=True)
    check_number("stages", "generator_images", generator_images, low=0, integer=True)
    model = copy_model(model).eval()
    named = _given(at) if at is not None else candidates(model, example, count)
    halves = [split(model, name, example=example) for name in named]
    for cut, name in zip(halves, named, strict=True):
        if all(level.tokens for level in cut.spec):
            needed = "at least one feature map, whose places have a class"
            raise ConfigError(message("stages: only tokens cross.", given=f"at={name!r}: {cut.spec}", needed=needed))
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
    result = _statistics(halves, lambda: patches(loader), num_classes, bins, min_cells, ignore_index)
    rows = result.pop("stages")
    for cut, name, row in zip(halves, named, rows, strict=True):
        row["recognition"] = None
        if generator_images:
            trained = _brief(config or GeneratorConfig(), generator_images)
            text = f"generator at {cut.label}" if progress else False
            measured = patches(loader if val_loader is None else val_loader)
            row["recognition"] = _recognised(cut, loader, measured, num_classes, trained, ignore_index, device, text)
        row["at"] = name if isinstance(name, str) else list(name)
    best, why = recommend(rows)
    return {"stages": rows, "recommended": best, "why": why} | result | {"settings": settings}


def recommend(rows: Sequence[Mapping[str, Any]]) -> tuple[str | list[str] | None, str]:
    """Choose among stages by a rule of thumb, and say why.

    Of the stages whose synthetic features are recognised at least 0.85 times as well as those of the best stage, the one that leaves the
    most parameters to the decoder. A ratio above 1 counts as 1. Nothing is chosen where no generator comes to half of the real score, nor
    without generators: in the paper's table neither entropy nor overlap finds the cuts that gained (the smallest entropy is that of
    conv1_3, which lost).

    Args:
        rows: Of ``stages``: ``at``, ``decoder_share`` and ``recognition`` with its ``ratio``, or ``None``.

    Returns:
        What ``at`` was, or ``None``; and the reason.

    Example:
        >>> scores = {"layer2": (0.9, 0.61), "layer3": (0.7, 0.86), "layer4": (0.3, 0.97)}
        >>> recommend([{"at": at, "decoder_share": d, "recognition": {"ratio": r}} for at, (d, r) in scores.items()])[0]
        'layer3'

    Source:
        Sec. 4.4: conv4_12 gained more than conv4_23, which is recognised best, since that one "can boost less layers". Ours: both bounds;
        the first was chosen so that the rule finds conv4_12 in Table 4, and has not been tried on other tables.
    """
    ratios = [(min(row["recognition"]["ratio"], 1.0), row) for row in rows if row["recognition"] is not None]
    ratios = [(ratio, row) for ratio, row in ratios if not math.isnan(ratio)]
    if not ratios:
        return None, (
            "No recommendation: entropy and overlap do not tell by themselves which cut helps (in the paper's Table 4 they do not). "
            "Train generators, too: generator_images."
        )
    top, best = max(ratios, key=lambda pair: pair[0])
    if top < RAW:
        return None, (
            f"No recommendation: the best generator, at {label(best['at'])}, is recognised {top:.2f} times as well as real features. "
            f"Train them on more images: below {RAW:g} they are too raw to be compared."
        )
    near = [(ratio, row) for ratio, row in ratios if ratio >= RECOGNISED * top]
    ratio, chosen = max(near, key=lambda pair: pair[1]["decoder_share"])
    other = "the best of all" if chosen is best else f"{label(best['at'])}, the best: {top:.2f}"
    return chosen["at"], (
        f"Recommended: {label(chosen['at'])}. Its synthetic features are recognised {ratio:.2f} times as well as real ones ({other}), and "
        f"{chosen['decoder_share']:.0%} of the parameters lie after it. A rule of thumb: of the cuts with {RECOGNISED:g} times the best "
        f"ratio or more ({len(near)} of {len(ratios)}), the one that leaves most to the decoder."
    )


def label(at: str | Sequence[str]) -> str:
    """A place's layers, for people."""
    return at if isinstance(at, str) else ", ".join(at)


def _given(at: Any) -> list[Any]:
    check_sequence("stages", "at", at, "layers' names, such as ['encoder.layer2', 'encoder.layer3']")
    names = [name if isinstance(name, str) else list(layer_names(name)) for name in at]
    if not names or any(name in names[:number] for number, name in enumerate(names)):
        needed = "one or more different places, such as ['encoder.layer2', 'encoder.layer3']"
        raise ConfigError(message("stages: candidates must be named once.", given=f"at={at!r}", needed=needed))
    return names


@torch.no_grad()
def _statistics(
    halves: Sequence[Cut], patches: Any, num_classes: int, bins: int, min_cells: int, ignore_index: int
) -> dict[str, Any]:
    """Entropy and overlap of every stage, in two passes over the patches."""
    stride = max(level.reduction for cut in halves for level in cut.spec)
    found = [[ClassHistograms(num_classes, level.channels, bins) for level in cut.spec if not level.tokens] for cut in halves]

    def values() -> Iterator[tuple[int, list[tuple[ClassHistograms, Tensor, Tensor]]]]:
        for images, masks in patches():
            pairs = []
            for cut, histograms in zip(halves, found, strict=True):
                features = check_features("stages", cut.encode(images), cut.spec, (int(masks.shape[1]), int(masks.shape[2])))
                maps = [(level.reduction, x) for level, x in zip(cut.spec, features, strict=True) if not level.tokens]
                for histogram, (reduction, x) in zip(histograms, maps, strict=True):
                    pairs.append((histogram, *activations(x, reduction, masks, stride, ignore_index)))
            yield len(masks), pairs

    with eval_mode(halves[0].model):
        images = 0
        for number, pairs in values():
            images += number
            for histogram, x, _ in pairs:
                histogram.see(x)
        if not images:
            needed = "an iterable of (images, masks) that can be read again and again"
            raise DataError(message("stages: the loader yields nothing.", given="no patch", needed=needed))
        for cut, histograms in zip(halves, found, strict=True):
            if not all(histogram.finite for histogram in histograms):
                needed = "numbers; has the model diverged?"
                raise DataError(message("stages: features are not finite.", given=f"infinity or NaN at {cut.label}", needed=needed))
            for histogram in histograms:
                histogram.open()
        again = 0
        for number, pairs in values():
            again += number
            for histogram, x, labels in pairs:
                histogram.count(x, labels)
    if again < images:
        needed = "the same patches twice: a DataLoader or a list, no iterator"
        raise DataError(
            message("stages: the loader yields less the second time.", given=f"{images} patches, then {again}", needed=needed)
        )
    cells = found[0][0].cells
    classes = (cells >= min_cells).nonzero().flatten()
    if not len(classes):
        raise DataError(
            message(
                "stages: no class has enough places.",
                given=f"{int(cells.max())} places of the most frequent class in {images} patches, one in {stride} x {stride} pixels",
                needed=f"min_cells, {min_cells}, or more",
                advice="More patches, or a smaller min_cells.",
            )
        )
    rows = []
    for cut, histograms in zip(halves, found, strict=True):
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


def _brief(config: GeneratorConfig, images: int) -> GeneratorConfig:
    # A moving average that outlives the training would hold the first weights.
    ema, measured = min(config.ema_images, max(1, images // 10)), min(config.stats_images, images)
    return replace(config, num_images=images, ema_images=ema, stats_images=measured)


def _recognised(
    cut: Cut,
    loader: Iterable[tuple[Tensor, Tensor]],
    measured: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    config: GeneratorConfig,
    ignore_index: int,
    device: str | torch.device | None,
    progress: bool | str,
) -> dict[str, float]:
    """A generator trained for a stage, and its recognition score."""
    began = time.monotonic()
    with seeded(derive_seed(config.seed, "generator"), next(cut.model.parameters()).device):
        generator = FeatureGenerator(num_classes, cut.spec, ignore_index=ignore_index)
        trainer = GeneratorTrainer(generator, cut, config, device=device, progress=progress)
        with warnings.catch_warnings():
            # Brief training leaves little diversity; the figure is in the result.
            warnings.filterwarnings("ignore", "GeneratorTrainer: the generator seems to ignore z", FeatAugWarning)
            trainer.fit(loader)
    seconds = round(time.monotonic() - began, 1)
    found = recognition(cut, generator, measured, ignore_index=ignore_index, seed=config.seed, device=trainer.accelerator.device)
    scores = {name: found[name]["miou"] for name in ("real", "synthetic")}
    return scores | {"ratio": found["ratio"], "diversity": found["diversity"], "seconds": seconds}
