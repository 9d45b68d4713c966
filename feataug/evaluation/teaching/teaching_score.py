"""What do features teach? Fresh decoders, trained on synthetic features alone, measured on real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from feataug.core.checks import check_number, check_sequence, check_size, describe
from feataug.core.compatibility import check_spec
from feataug.core.copying import copy_model
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import architecture, describe_callable, describe_data
from feataug.cutting.cut import Cut
from feataug.cutting.layer_lookup import layer_names
from feataug.errors import ConfigError, message
from feataug.evaluation.arm_measures import first_images, size_of
from feataug.evaluation.class_bias import fit_class_bias
from feataug.evaluation.finished_runs import kept_run
from feataug.evaluation.paired_differences import differences, interval, mean_figures
from feataug.evaluation.repeatability import check_repeats, check_seeds
from feataug.evaluation.teaching.class_gaussians import ClassGaussians
from feataug.evaluation.teaching.decoder_training import Source, first_batches, teach
from feataug.evaluation.teaching.fresh_decoder import fresh_decoder
from feataug.generation.generator import FeatureGenerator
from feataug.inference.evaluate import evaluate
from feataug.inference.inference import Inference
from feataug.io.results import by_class, write_result
from feataug.training.batches import part_of
from feataug.training.config import FinetuneConfig
from feataug.training.device import make_accelerator
from feataug.training.run_folder import folder_lock

SOURCES = ("real", "generator", "gaussians")
# Batches that class Gaussians are fitted to, or one pass, if that is less.
_FIT_BATCHES = 100


def teaching_score(
    model: nn.Module,
    at: str | Sequence[str],
    generator: FeatureGenerator | None,
    loader: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    val_loader: Iterable[tuple[Tensor, Tensor]],
    config: FinetuneConfig,
    *,
    fresh: Callable[[int], nn.Module] | None = None,
    seeds: Sequence[int] = (0, 1),
    sources: Sequence[str] = SOURCES,
    others: Mapping[str, Source] | None = None,
    window: Sequence[int] | Literal["auto"] | None = "auto",
    bias_loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    bn_batches: int = 21,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    classes: Sequence[str] | None = None,
    example: Any = None,
    output: str | Path | None = None,
    device: str | torch.device | None = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Train fresh decoders on features from several sources, and tell how well each does on real images.

    ``recognition`` asks whether a trained decoder knows the synthetic features; a generator that returns one prototype for each class
    passes. This asks the reverse: does a decoder that has seen nothing else know real features? Only features as varied as real ones, class
    by class, teach that. The encoder is the trained one, frozen and in eval mode. For each seed, the decoders of all sources start from
    the same weights and see the same masks in the same order, for ``config.num_steps`` steps. After training, their BatchNorm is measured
    again on features of the source that they were trained on.

    A source is a function ``source(masks, real, rng) -> features``. ``masks`` are ``(B, H, W)`` int64 training masks; ``real`` are the
    features of their images, a tuple with one ``(B, channels, h, w)`` tensor for each level; ``rng`` is a CPU ``torch.Generator``, seeded by
    the seed and the step, which a source draws all of its noise from. The result is such a tuple as ``real``. A source that is a module is
    copied, put into eval mode and sent to the device.

    Args:
        model: The trained model; it stays as it is.
        at: Where it is cut.
        generator: Trained for this cut; ``None`` where ``sources`` does not name it.
        loader: A seed to the loader of real training ``(images, masks)`` for that seed, one that repeats itself:
            ``lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)``.
        val_loader: Real pairs to measure on.
        config: Settings of the training. Its ``seed`` is replaced by each of ``seeds``; the prefixes of ``lr_scale`` are names in ``model``.
        fresh: A seed to a model of the same architecture as it is before training, such as one with ImageNet weights and random heads. Its
            encoder is replaced by the trained one. ``None`` re-initialises all layers after the cut by their ``reset_parameters()``.
        seeds: One run of every source for each; at least two for an interval.
        sources: Which of the built-in sources to run: ``"real"`` (features of the images; always needed), ``"generator"``, and
            ``"gaussians"`` (``evaluation.ClassGaussians``, fitted to at most 100 batches of the seed's loader).
        others: Further sources by name.
        window: Rows and columns of the sliding windows that images are predicted with. ``"auto"``: the size of the training images, where the
            first validation images are larger: a fresh decoder knows no larger context. ``None`` for whole images.
        bias_loader: Labelled *training* images that the class bias is fitted to, at the size of prediction. By default the first
            ``bn_batches`` batches of training crops.
        bn_batches: Batches on which BatchNorm is measured after training, or one pass, if that is less.
        num_classes, ignore_index: Those of the generator by default; without one, ``num_classes`` is needed, and void is 255.
        classes: The classes' names; numbers by default.
        example: For ``split``.
        output: Folder. Finished runs are kept there and not run again; a run that was stopped goes on from its last checkpoint;
            ``result.json`` is written after every seed.
        device, progress: As for ``Finetuner``.

    Returns:
        Plain values, for JSON. ``sources``: by name, the means over seeds ``before`` and ``after`` the class bias (the four measures in
        percent, ``per_class``, ``absent``). ``score``: by name, the share of the real features' mIoU that the source teaches, ``before`` and
        ``after``, as the mean over seeds. ``differences``: by name, the source minus real features in points, ``before`` and ``after``, with
        95 % intervals by Student's t. ``seeds``: every run, with its ``class_bias`` and ``seconds``. ``verdict``: in words. ``settings``.

    Raises:
        ConfigError: no seeds, or seeds that repeat; an unknown source, none but real features, or no real features; no generator;
            ``fresh`` does not fit, or is needed.
        CheckpointError: ``output`` holds runs with other settings, or of another model, generator or data set.
        DataError: the loader gives other batches when it is read again with the same seed.
        ShapeError, DtypeError: the generator was made for another cut, or a source's features do not fit it.
        TrainingError: a loss is not finite; or a weight is used on both sides of the cut.

    Source:
        Shmelkov, Schmid, Alahari (2018), GAN-train; Ravuri, Vinyals (2019), classification accuracy score. Ours: for decoders and features.
    """
    check_number("teaching_score", "bn_batches", bn_batches, low=1, integer=True)
    names = _check(loader, seeds, sources, others or {}, generator)
    num_classes = getattr(generator, "num_classes", None) if num_classes is None else num_classes
    ignore_index = getattr(generator, "ignore_index", 255) if ignore_index is None else ignore_index
    check_number("teaching_score", "num_classes", num_classes, low=2, integer=True)
    assert num_classes is not None
    size = _window(window, loader(seeds[0]), val_loader)
    titles = list(classes) if classes is not None else [str(number) for number in range(num_classes)]
    folder = Path(output) if output is not None else None
    about = {name: _about(name, generator, others or {}) for name in names}
    settings: dict[str, Any] = {
        "at": at if isinstance(at, str) else list(layer_names(at)),
        "config": {key: value for key, value in config.to_dict().items() if key != "seed"},
        "model": fingerprint(model),
        "architecture": architecture(model),
        "fresh": describe_callable(fresh),
        "window": list(size) if size else None,
        "bn_batches": bn_batches,
        "bias_data": describe_data(bias_loader, measured=True),
        "val_data": describe_data(val_loader, measured=True),
        "classes": titles,
        "ignore_index": ignore_index,
    }
    where = make_accelerator(device, config.mixed_precision).device
    checked: list[int] = []

    def run(name: str, seed: int) -> dict[str, Any]:
        began = time.monotonic()
        if not checked:
            checked.append(seed)
            check_repeats(loader, seed, "teaching_score")
        own = replace(config, seed=seed)
        cut = fresh_decoder(model, at, seed, fresh, example)
        if "generator" in names:
            # Before the first run, not after it.
            check_spec("teaching_score", generator.spec, cut.spec)  # type: ignore[union-attr]
        cut.model.to(where)
        source = _source(name, cut, generator, others or {}, first_batches(loader(seed), _FIT_BATCHES), num_classes, ignore_index, where)
        trained = teach(
            cut, source, partial(loader, seed), own, num_classes, name=name, about=about[name], bn_batches=bn_batches,
            ignore_index=ignore_index, output=folder / f"seed-{seed}" / name if folder is not None else None, device=device,
            progress=f"{name} {seed}" if progress else False,
        )  # fmt: skip
        measured = partial(_measured, val_loader, num_classes, titles, ignore_index, where)
        predict = Inference(trained, window=size)
        labelled = bias_loader if bias_loader is not None else first_batches(loader(seed), bn_batches)
        bias = fit_class_bias(predict, labelled, num_classes, ignore_index=ignore_index, seed=seed, device=where)
        figures = {"before": measured(predict), "after": measured(Inference(trained, window=size, class_bias=bias))}
        return figures | {"class_bias": bias.tolist(), "seconds": round(time.monotonic() - began, 1)}

    finished: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    with folder_lock(folder):
        for seed in seeds:
            data = {"data": describe_data(loader(seed))}
            runs = {
                name: kept_run(
                    "teaching_score", folder, where, {}, f"seed-{seed}/{name}", settings | about[name] | data, partial(run, name, seed)
                )
                for name in names
            }
            finished.append({"seed": seed} | runs)
            result = summary(finished, names, settings | {"sources": about})
            if folder is not None:
                write_result(folder, result)
    return result


def summary(finished: Sequence[Mapping[str, Any]], names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``teaching_score`` returns, from the figures of every seed."""
    moments = ("before", "after")
    runs = {name: {moment: [entry[name][moment] for entry in finished] for moment in moments} for name in names}
    score = {
        name: {
            moment: sum(x["miou"] / max(r["miou"], 1e-9) for x, r in zip(runs[name][moment], runs["real"][moment], strict=True))
            / len(finished)
            for moment in moments
        }
        for name in names
    }
    gaps = {
        name: {moment: differences(runs["real"][moment], runs[name][moment]) for moment in moments} for name in names if name != "real"
    }
    means = {name: {moment: mean_figures(runs[name][moment]) for moment in moments} for name in names}
    return {
        "sources": means,
        "score": score,
        "differences": gaps,
        "seeds": list(finished),
        "verdict": _verdict(means, score, gaps, runs),
        "settings": dict(settings),
    }


def _verdict(means: Any, score: Any, gaps: Any, runs: Any) -> str:
    """What was found, in words."""
    said = [f"After the class bias, real features teach a fresh decoder {means['real']['after']['miou']:.2f} mIoU."]
    for name, gap in gaps.items():
        points = interval(gap["after"]["miou"])
        said.append(f"{name}: {means[name]['after']['miou']:.2f} mIoU, {score[name]['after']:.0%} of that ({points} points).")
    if {"generator", "gaussians"} <= gaps.keys():
        gap = differences(runs["gaussians"]["after"], runs["generator"]["after"])["miou"]
        found = "no difference is shown between the generator and class Gaussians"
        if gap["low"] is None:
            found = "one seed does not tell the generator from class Gaussians"
        elif gap["low"] > 0 or gap["high"] < 0:
            found = f"the generator teaches {'more' if gap['low'] > 0 else 'less'} than class Gaussians"
        said.append(f"{found[0].upper()}{found[1:]} ({interval(gap)} points).")
    return " ".join(said)


def _window(window: Any, loader: Any, val_loader: Any) -> tuple[int, int] | None:
    """Rows and columns of the windows to predict by."""
    if not isinstance(window, str):
        return check_size("teaching_score", "window", window) if window is not None else None
    if window != "auto":
        raise ConfigError(
            message("teaching_score: window is not offered.", given=repr(window), needed='"auto", None, or rows and columns')
        )
    crop, measured = (size_of(first_images(batches)) for batches in (loader, val_loader))
    return crop if crop and measured and (measured[0] > crop[0] or measured[1] > crop[1]) else None


def _measured(
    loader: Any, num_classes: int, names: Sequence[str], ignore_index: int, device: torch.device, predict: nn.Module
) -> dict[str, Any]:
    return by_class(evaluate(predict, part_of(loader), num_classes, ignore_index=ignore_index, device=device, crop_size=None), names)


def _about(name: str, generator: Any, others: Mapping[str, Source]) -> dict[str, Any]:
    """What tells a source from others."""
    if name == "generator":
        return {"source": {"name": name, "generator": fingerprint(generator), "architecture": architecture(generator)}}
    return {"source": {"name": name} | ({"function": describe_callable(others[name])} if name in others else {})}


def _source(
    name: str, cut: Cut, generator: Any, others: Mapping[str, Source], batches: Any, num_classes: int, ignore_index: int, device: Any
) -> Source:
    """A source by its name, on the device."""
    if name == "real":
        return lambda masks, real, rng: real
    if name == "gaussians":
        return ClassGaussians.fit(cut, batches, num_classes, ignore_index=ignore_index, device=device)
    if name == "generator":
        made = copy_model(generator).to(device).eval()
        return lambda masks, real, rng: made(masks, made.draw_z(len(masks), rng))
    source = others[name]
    return copy_model(source).to(device).eval() if isinstance(source, nn.Module) else source


def _check(loader: Any, seeds: Any, sources: Any, others: Mapping[str, Any], generator: Any) -> list[str]:
    """The sources' names, in the order in which they run."""
    check_seeds("teaching_score", loader, seeds, "all sources")
    check_sequence("teaching_score", "sources", sources, f"some of {SOURCES}")
    unknown = [name for name in sources if name not in SOURCES]
    if unknown or "real" not in sources or len(set(sources)) < len(sources):
        raise ConfigError(
            message(
                "teaching_score: sources do not fit.",
                given=repr(tuple(sources)),
                needed=f"'real', which the others are compared with, and any of {', '.join(map(repr, SOURCES[1:]))}, each once",
                advice="Sources of your own go into others={name: source}." if unknown else None,
            )
        )
    for name, source in others.items():
        if name in SOURCES or not callable(source):
            raise ConfigError(
                message(
                    "teaching_score: a source of others does not fit.",
                    given=f"{name!r}: {describe(source)}",
                    needed="another name than those of our sources, and a function (masks, real, rng) -> features",
                )
            )
    if "generator" in sources and generator is None:
        raise ConfigError(
            message(
                "teaching_score: there is no generator.",
                given="generator=None",
                needed="a FeatureGenerator trained for this cut",
                advice="Without one, leave it out: sources=('real', 'gaussians'), num_classes=...",
            )
        )
    return [*sorted(sources, key=SOURCES.index), *others]
