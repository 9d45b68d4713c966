"""Teaching score: train fresh decoders on synthetic features only, and measure them on real images."""

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
from feataug.core.latents import draw_latents, latents_on
from feataug.cutting.cut import Cut
from feataug.cutting.layer_lookup import layer_names
from feataug.errors import ConfigError
from feataug.evaluation.arm_measures import first_images, image_size
from feataug.evaluation.class_bias import fit_class_bias
from feataug.evaluation.finished_runs import kept_run
from feataug.evaluation.repeatability import check_repeats, check_seeds
from feataug.evaluation.teaching.class_gaussians import ClassGaussians
from feataug.evaluation.teaching.decoder_training import Source, first_batches, teach
from feataug.evaluation.teaching.fresh_decoder import fresh_decoder
from feataug.evaluation.teaching.teaching_summary import summary
from feataug.generation.generator import FeatureGenerator
from feataug.inference.evaluate import evaluate
from feataug.inference.inference import Inference
from feataug.io.results import by_class, write_result
from feataug.training.batches import part_of
from feataug.training.config import FinetuneConfig
from feataug.training.device import make_accelerator
from feataug.training.run_folder import folder_lock

SOURCES = ("real", "generator", "gaussians")
# Class Gaussians are fitted to this many batches, or to one pass if it is shorter.
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
    """Train fresh decoders on features from several sources, and measure each on real images.

    ``recognition`` asks whether a trained decoder knows the synthetic features; a generator that returns one prototype for each class
    passes. This score asks the reverse: does a decoder that has seen only synthetic features know real ones? Only features that vary like
    real ones within each class teach that. The encoder is the trained one, frozen and in eval mode. For each seed, the decoders of all
    sources start from the same weights and see the same masks in the same order, for ``config.num_steps`` steps. After training, their
    BatchNorm is measured again on features of their source.

    A source is a function ``source(masks, real, rng) -> features``. ``masks`` are ``(B, H, W)`` int64 training masks. ``real`` are the
    features of their images, a tuple with one ``(B, channels, h, w)`` tensor for each level. ``rng`` is a CPU ``torch.Generator``, seeded
    by the seed and the step; a source draws all its noise from it. The result is a tuple like ``real``, or a pair of such a tuple and the
    masks that it belongs to, where a source uses masks of its own; they have the size of ``masks``. A source that is a module is copied,
    put into eval mode and moved to the device. If it has a method ``decoder_loss(out, masks)``, that takes the place of the cross entropy:
    ``out`` is what the decoder returns, ``masks`` are those of its features.

    Args:
        model: The trained model; it is not changed.
        at: The layer or layers to cut at.
        generator: A generator trained for this cut; ``None`` if ``sources`` does not name it.
        loader: Makes the loader of real training ``(images, masks)`` for a seed. It must repeat itself:
            ``lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)``.
        val_loader: Yields the real pairs to measure on.
        config: Settings of the training. Each of ``seeds`` replaces its ``seed``; the prefixes of ``lr_scale`` are names in ``model``.
        fresh: Makes for a seed a model of the same architecture before training, such as one with ImageNet weights and random heads. The
            trained encoder replaces its encoder. ``None`` re-initialises all layers after the cut with their ``reset_parameters()``.
        seeds: One run of every source for each seed; an interval needs at least two.
        sources: The built-in sources to run: ``"real"`` (features of the images; always required), ``"generator"``, and
            ``"gaussians"`` (``evaluation.ClassGaussians``, fitted to at most 100 batches of the seed's loader).
        others: Further sources by name.
        window: Rows and columns of the sliding windows for prediction. ``"auto"`` takes the size of the training images if the first
            validation images are larger, since a fresh decoder knows no larger context. ``None`` predicts whole images.
        bias_loader: Labelled *training* images at the size of prediction, to fit the class bias. The default is the first ``bn_batches``
            batches of training crops.
        bn_batches: The number of batches on which BatchNorm is measured after training, or one pass if it is shorter.
        num_classes, ignore_index: By default those of the generator. Without one, ``num_classes`` is required, and void is 255.
        classes: The class names; numbers by default.
        example: The example for ``split``.
        output: The output folder. Finished runs are stored there and not run again; a stopped run resumes from its last checkpoint;
            ``result.json`` is written after every seed.
        device, progress: As for ``Finetuner``.

    Returns:
        Plain values, for JSON. ``sources``: by name, the means over seeds ``before`` and ``after`` the class bias (the four measures in
        percent, ``per_class``, ``absent``). ``score``: by name, the share of the real features' mIoU that the source teaches, ``before`` and
        ``after``, as the mean over seeds. ``differences``: by name, the source minus real features in points, ``before`` and ``after``, with
        95 % intervals by Student's t. ``seeds``: every run, with its ``class_bias`` and ``seconds``. ``verdict``: the finding in words.
        ``settings``: the settings.

    Raises:
        ConfigError: ``seeds`` are missing or repeat; ``sources`` names an unknown source, no real features or only these; the generator is
            missing; ``fresh`` does not fit or is required.
        CheckpointError: ``output`` holds runs with other settings, or of another model, generator or data set.
        DataError: the loader gives other batches when it is read again with the same seed.
        ShapeError, DtypeError: the generator was made for another cut, or a source's features do not fit it.
        TrainingError: a loss is not finite, or a weight is used on both sides of the cut.

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
    about = {name: _describe_source(name, generator, others or {}) for name in names}
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
            # Before the first run, so that no training is lost.
            check_spec("teaching_score", generator.spec, cut.spec)  # type: ignore[union-attr]
        cut.model.to(where)
        source = _make_source(name, cut, generator, others or {}, first_batches(loader(seed), _FIT_BATCHES), num_classes, ignore_index, where)
        trained = teach(
            cut, source, partial(loader, seed), own, num_classes, name=name, about=about[name], bn_batches=bn_batches,
            ignore_index=ignore_index, output=folder / f"seed-{seed}" / name if folder is not None else None, device=device,
            progress=f"{name} {seed}" if progress else False,
        )  # fmt: skip
        measure = partial(_measure, val_loader, num_classes, titles, ignore_index, where)
        predict = Inference(trained, window=size)
        labelled = bias_loader if bias_loader is not None else first_batches(loader(seed), bn_batches)
        bias = fit_class_bias(predict, labelled, num_classes, ignore_index=ignore_index, seed=seed, device=where)
        figures = {"before": measure(predict), "after": measure(Inference(trained, window=size, class_bias=bias))}
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


def _window(window: Any, loader: Any, val_loader: Any) -> tuple[int, int] | None:
    """Return rows and columns of the windows for prediction, or ``None`` for whole images."""
    if not isinstance(window, str):
        return check_size("teaching_score", "window", window) if window is not None else None
    if window != "auto":
        raise ConfigError("teaching_score: window is not offered.", given=repr(window), needed='"auto", None, or rows and columns')
    crop, measured = (image_size(first_images(batches)) for batches in (loader, val_loader))
    return crop if crop and measured and (measured[0] > crop[0] or measured[1] > crop[1]) else None


def _measure(
    loader: Any, num_classes: int, names: Sequence[str], ignore_index: int, device: torch.device, predict: nn.Module
) -> dict[str, Any]:
    return by_class(evaluate(predict, part_of(loader), num_classes, ignore_index=ignore_index, device=device, crop_size=None), names)


def _describe_source(name: str, generator: Any, others: Mapping[str, Source]) -> dict[str, Any]:
    if name == "generator":
        return {"source": {"name": name, "generator": fingerprint(generator), "architecture": architecture(generator)}}
    return {"source": {"name": name} | ({"function": describe_callable(others[name])} if name in others else {})}


def _make_source(
    name: str, cut: Cut, generator: Any, others: Mapping[str, Source], batches: Any, num_classes: int, ignore_index: int, device: Any
) -> Source:
    """Make a source by its name, on the device."""
    if name == "real":
        return lambda masks, real, rng: real
    if name == "gaussians":
        return ClassGaussians.fit(cut, batches, num_classes, ignore_index=ignore_index, device=device)
    if name == "generator":
        made = copy_model(generator).to(device).eval()
        return lambda masks, real, rng: made(masks, latents_on(device, draw_latents(made, masks, rng)))
    source = others[name]
    return copy_model(source).to(device).eval() if isinstance(source, nn.Module) else source


def _check(loader: Any, seeds: Any, sources: Any, others: Mapping[str, Any], generator: Any) -> list[str]:
    """Check the arguments and return the sources' names in the order in which they run."""
    check_seeds("teaching_score", loader, seeds, "all sources")
    check_sequence("teaching_score", "sources", sources, f"some of {SOURCES}")
    unknown = [name for name in sources if name not in SOURCES]
    if unknown or "real" not in sources or len(set(sources)) < len(sources):
        raise ConfigError(
            "teaching_score: sources do not fit.",
            given=repr(tuple(sources)),
            needed=f"'real', to compare the others with, and any of {', '.join(map(repr, SOURCES[1:]))}, each once",
            advice="Pass your own sources as others={name: source}." if unknown else None,
        )
    for name, source in others.items():
        if name in SOURCES or not callable(source):
            raise ConfigError(
                "teaching_score: a source of others does not fit.",
                given=f"{name!r}: {describe(source)}",
                needed="another name than those of our sources, and a function (masks, real, rng) -> features",
            )
    if "generator" in sources and generator is None:
        raise ConfigError(
            "teaching_score: there is no generator.",
            given="generator=None",
            needed="a FeatureGenerator trained for this cut",
            advice="Without one, leave it out: sources=('real', 'gaussians'), num_classes=...",
        )
    return [*sorted(sources, key=SOURCES.index), *others]
