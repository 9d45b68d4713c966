"""Does it help my model? The control and feataug on paired seeds, equal steps, equal real batches and an equal way to predict."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.copying import copy_model
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import architecture, describe_callable, describe_data, describe_filter, describe_masks
from feataug.cutting.layer_lookup import layer_names
from feataug.errors import ConfigError, message
from feataug.evaluation.arm_measures import prepare
from feataug.evaluation.comparison.arms import Arm, train_arm, weights_alone
from feataug.evaluation.comparison.leakage import check_leaks
from feataug.evaluation.comparison.verdicts import CEILING, WEIGHTS, summary
from feataug.evaluation.finished_runs import kept_run, old_fingerprint
from feataug.evaluation.repeatability import check_repeats, check_seeds
from feataug.generation.generator import FeatureGenerator
from feataug.io.results import by_class, write_result
from feataug.io.samples import SAMPLES, keep_samples
from feataug.training.config import FinetuneConfig
from feataug.training.device import make_accelerator
from feataug.training.run_folder import folder_lock


def compare(
    model: nn.Module,
    at: str | Sequence[str],
    generator: FeatureGenerator,
    masks: Any,
    loader: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    val_loader: Iterable[tuple[Tensor, Tensor]],
    config: FinetuneConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    baselines: Mapping[str, Arm] | None = None,
    ceiling: Callable[[int], Iterable[tuple[Tensor, Tensor]]] | None = None,
    plain_loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    crop_size: Sequence[int] | str | None = "auto",
    window: Sequence[int] | str | None = "auto",
    bias: bool = True,
    ratio: float = 0.3,
    label_smoothing: float = 1e-4,
    pixel_filter: Any = None,
    class_weights: Tensor | None = None,
    bank: int = 0,
    weights_arm: bool = True,
    update_bn: bool = True,
    classes: Sequence[str] | None = None,
    example: Any = None,
    output: str | Path | None = None,
    device: str | torch.device | None = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Train the model further with and without synthetic features, several times, and tell whether they help.

    In each pair both arms start from ``model``, take ``config.num_steps`` steps and see the same real batches in the same order;
    feataug's batches hold synthetic samples besides. The control is what the paper leaves out. All arms are predicted with in one way, the one
    that the model was trained for, and are compared after a class bias: what a bias gives as well is no merit of an arm.

    Args:
        model: The trained model; it stays as it is.
        at: Where it is cut.
        generator: Trained for this cut.
        masks: Mask source of the synthetic samples. Its state is put back before every arm.
        loader: A seed to the loader of real ``(images, masks)`` for that seed, one that repeats itself:
            ``lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)``.
        val_loader: Pairs to measure on. None of their images may be in any of the other loaders.
        config: Of the training; its ``seed`` is replaced by each of ``seeds``.
        seeds: One pair of runs each; at least two for an interval.
        baselines: Further arms by name, each against the control: ``(model, loader, config, folder) -> trained model``.
        ceiling: A positive control: a seed to the loader of labelled images, of the training crops' size, which the other arms do not see. The
            arm ``"ceiling"`` trains as feataug does, with the encoder's features of these images and their true masks in the place of
            synthetic samples. What it does not gain, no generator can be shown to gain here.
        plain_loader: Labelled training images as images are predicted: whole, without random crops or colours. The choice between windows and
            whole images and all class biases are made on it; fifty images are enough. Without it the first 64 crops that ``loader`` yields
            for the first seed stand in for the biases, and windows are taken where validation images are larger than the crops.
        crop_size: Rows and columns of the crops that the model is trained on. ``"auto"``: of the first images that ``loader`` yields for the
            first seed. ``None`` where training sees whole images.
        window: Rows and columns of a sliding window for the base and all arms, or ``None`` for whole images. ``"auto"``: the crops' size where
            validation images have another size and the base model does better so on ``plain_loader`` by more than a point of mIoU.
        bias: Whether to fit a class bias (``fit_class_bias``) to the base and to every trained arm.
        ratio, label_smoothing, pixel_filter, class_weights, bank: See ``FeatureMixer``.
        weights_arm: Where there are ``class_weights``, train a third arm, ``"class weights"``, which has them and no synthetic features: what
            feataug gains over *that* is the synthetic features' own.
        update_bn: Measure BatchNorm anew on real images in the end, in every arm.
        classes: Names; numbers by default.
        example: For ``split``.
        output: Folder. Arms that are done are not run again, one that was stopped goes on; ``result.json`` is written after every seed;
            ``feataug report`` makes a page of it all.
        device, progress: As for ``Finetuner``.

    Returns:
        ``base`` (figures before), ``seeds`` (every run), ``arms`` (means), ``difference`` (feataug minus control in points: ``mean``,
        ``low`` and ``high`` of each measure, a 95 % interval by Student's t, and ``per_class``), ``differences`` (the same for every
        arm), ``beyond_weights`` (feataug minus the arm ``"class weights"``, where there is one), ``verdict`` (in words) and ``settings``, with
        ``prediction`` (``window`` and what decided it) and ``leak_check`` (``"files"``, ``"images"`` or ``"not possible"``). With ``bias`` all
        of these are after the bias; each run's figures also have ``before_bias`` and ``class_bias``, and the result has
        ``arms_before_bias`` and ``differences_before_bias``. ``as_trained`` is before the bias and before ``update_bn``. With ``ceiling``,
        ``ceiling`` holds its ``difference`` and ``share_of_ceiling``: for every other arm the share of the ceiling's mean gain, ``None`` in
        measures where the ceiling's gain is not shown.

    Raises:
        ConfigError: no seeds, seeds that repeat, a loader that takes no seed, or a baseline named as one of our arms.
        ShapeError: ``window`` or ``crop_size`` is no size.
        CheckpointError: ``output`` holds runs with other settings, measured in another way, or of another model, generator, mask source, data
            set or validation set.
        DataError: the loader gives other batches when it is read again with the same seed; the masks to measure on hold one class and
            void only; or an image to measure on is also in ``loader``, ``plain_loader`` or ``ceiling``, as far as that can be found out
            (``evaluation.leakage``).

    Source:
        Ours. Post-hoc class biases: Menon et al. (2021).
    """
    ignore_index = generator.ignore_index
    alone: dict[str, Arm] = {}
    if weights_arm and class_weights is not None:
        alone[WEIGHTS] = weights_alone(class_weights, ignore_index=ignore_index, device=device, progress=progress)
    above = (CEILING,) if ceiling is not None else ()
    _check(loader, seeds, baselines or {}, ("control", "feataug", "base", CEILING, *alone))
    baselines = alone | dict(baselines or {})
    folder = Path(output) if output is not None else None
    names = list(classes) if classes is not None else [str(number) for number in range(generator.num_classes)]
    old = {"model": partial(old_fingerprint, model), "generator": partial(old_fingerprint, generator)}
    # Before anything is measured: it may start the processes' group.
    on = make_accelerator(device, config.mixed_precision).device
    once = partial(kept_run, "compare", folder, on, old)
    sample = loader(seeds[0])
    trained_on = {"loader": sample} | ({"plain_loader": plain_loader} if plain_loader is not None else {})
    leaks = check_leaks(val_loader, trained_on | ({CEILING: ceiling(seeds[0])} if ceiling is not None else {}))
    start = copy.deepcopy(masks.state_dict()) if hasattr(masks, "state_dict") else None
    common_mixing: dict[str, Any] = {"ratio": ratio, "label_smoothing": label_smoothing}
    mixing = common_mixing | ({"bank": bank} if bank else {})
    base_model = functools.cache(lambda: copy_model(model).to(on))

    def run(name: str, seed: int, unread: list[Any]) -> dict[str, Any]:
        if not checked:
            checked.append(seed)
            check_repeats(loader, seed)
        if start is not None:
            masks.load_state_dict(copy.deepcopy(start))
        own = FinetuneConfig.from_dict(config.to_dict() | {"seed": seed})
        where = folder / f"seed-{seed}" / name if folder is not None else None
        mixed: dict[str, Any] = {}
        if name == "feataug":
            mixed = {"generator": generator, "masks": masks, "pixel_filter": pixel_filter, "class_weights": class_weights, **mixing}
        elif name in above and ceiling is not None:
            mixed = {"generator": generator, "ceiling": ceiling(seed), "class_weights": class_weights, **common_mixing}
        text = f"{name} {seed}" if progress else False
        real = unread.pop() if unread else loader(seed)
        trained, figures = train_arm(
            model, at, real, measuring.before, own, update_bn=update_bn, example=example, ignore_index=ignore_index, output=where,
            device=device, progress=text, baseline=baselines.get(name), measure=measuring.full, **mixed,
        )  # fmt: skip
        if where is not None and seed == seeds[0]:
            predict = measuring.predictor(trained, figures.get("class_bias"))
            keep_samples(where / SAMPLES, val_loader, {name: predict}, classes=names, ignore_index=ignore_index)
        return figures | ({"as_trained": by_class(figures["as_trained"], names)} if "as_trained" in figures else {})

    checked: list[int] = []
    with folder_lock(folder):
        measured: dict[str, Any] = {"model": fingerprint(model)}
        measuring = prepare(
            base_model, sample, val_loader, plain_loader, window=window, crop_size=crop_size, bias=bias, classes=names,
            ignore_index=ignore_index, once=once, identity=measured,
        )  # fmt: skip
        measured |= {"val_data": describe_data(val_loader, measured=True), "classes": names, "ignore_index": ignore_index, **measuring.method}
        trained_as = {"config": {key: value for key, value in config.to_dict().items() if key != "seed"}, "update_bn": update_bn}
        common = measured | trained_as | {"at": at if isinstance(at, str) else list(layer_names(at))}
        weighted = common | {"class_weights": class_weights.tolist() if class_weights is not None else None}
        settings = weighted | mixing | {
            "masks": type(masks).__name__,
            "pixel_filter": getattr(pixel_filter, "factor", pixel_filter is not None),
            "generator": fingerprint(generator),
            "architecture": architecture(generator),
            "mask_source": describe_masks(masks),
            "filter": describe_filter(pixel_filter) if pixel_filter is not None else None,
        }  # fmt: skip
        base = once("base", measured, lambda: measuring.full(base_model()))
        arms = ["control", "feataug", *above, *baselines]
        kept = {"feataug": settings} | dict.fromkeys(alone, weighted)
        kept |= {name: common | {"baseline": describe_callable(arm)} for name, arm in baselines.items() if name not in alone}
        finished: list[dict[str, Any]] = []
        result: dict[str, Any] = {}
        for seed in seeds:
            runs = {}
            # The first arm that is run takes it; each of the others takes one of its own.
            unread = [loader(seed)]
            data = {"data": describe_data(unread[0])}
            if ceiling is not None:
                kept[CEILING] = weighted | common_mixing | {"ceiling_data": describe_data(ceiling(seed))}
            for name in arms:
                # Neither the control nor a baseline depends on how feataug mixes: with other settings only its own arm is run again.
                runs[name] = once(f"seed-{seed}/{name}", kept.get(name, common) | data, partial(run, name, seed, unread))
            finished.append({"seed": seed} | runs)
            result = summary(base, finished, arms, bool(alone))
            result |= {"settings": settings | {"prediction": measuring.found, "leak_check": leaks}}
            if folder is not None:
                write_result(folder, result)
    return result


def _check(loader: Any, seeds: Sequence[int], baselines: Mapping[str, Arm], ours: Sequence[str]) -> None:
    check_seeds("compare", loader, seeds, "the arms of a pair")
    taken = sorted(set(ours) & set(baselines))
    if taken:
        advice = "Or leave ours out: weights_arm=False." if WEIGHTS in taken else None
        raise ConfigError(
            message(
                "compare: a baseline has the name of one of our arms.", given=", ".join(taken), needed="another name", advice=advice
            )
        )
