"""Compare training with and without feataug: paired seeds, equal steps, equal real batches and the same way to predict."""

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
from feataug.errors import ConfigError
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
    """Train the model further with and without synthetic features, several times, and report whether they help.

    In each pair both arms start from ``model``, take ``config.num_steps`` steps and see the same real batches in the same order;
    feataug's batches contain synthetic samples in addition. The paper has no such control. All arms predict in the same way, the one that
    the model was trained for. They are compared after a class bias, because an arm deserves no credit for what a bias gains as well.

    Args:
        model: The trained model; it is not changed.
        at: The layer or layers to cut at.
        generator: A generator trained for this cut.
        masks: The mask source of the synthetic samples. Its state is restored before every arm.
        loader: Makes the loader of real ``(images, masks)`` for a seed. It must repeat itself:
            ``lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)``.
        val_loader: Yields the pairs to measure on. None of their images may be in any other loader.
        config: Settings of the training. Each of ``seeds`` replaces its ``seed``.
        seeds: One pair of runs for each seed; an interval needs at least two.
        baselines: Further arms by name, each compared with the control: ``(model, loader, config, folder) -> trained model``.
        ceiling: A positive control: makes for a seed the loader of labelled images, in the size of the training crops, that the other arms
            do not see. The arm ``"ceiling"`` trains like feataug, but with the encoder's features of these images and their true masks
            instead of synthetic samples. If it does not gain in a measure, no generator can be shown to gain there.
        plain_loader: Yields labelled training images in the form of later images: whole, without random crops or colours. It decides
            between windows and whole images, and class biases are fitted on it; fifty images are enough. Without it, the first 64 crops of
            ``loader`` for the first seed serve for the biases, and windows are used if validation images are larger than the crops.
        crop_size: Rows and columns of the training crops. ``"auto"`` takes the size of the first images of ``loader`` for the first seed;
            ``None`` means that training sees whole images.
        window: Rows and columns of a sliding window for the base and all arms, or ``None`` for whole images. ``"auto"`` takes the size of
            the crops if validation images have another size and windows gain more than a point of mIoU on ``plain_loader``.
        bias: Fit a class bias (``fit_class_bias``) to the base and to every trained arm.
        ratio, label_smoothing, pixel_filter, class_weights, bank: See ``FeatureMixer``.
        weights_arm: With ``class_weights``, train a third arm, ``"class weights"``, which has them and no synthetic features. The gain of
            feataug over *this* arm comes from the synthetic features.
        update_bn: Measure BatchNorm again on real images at the end of every arm.
        classes: The class names; numbers by default.
        example: The example for ``split``.
        output: The output folder. Finished arms are not run again, and a stopped arm resumes; ``result.json`` is written after every seed;
            ``feataug report`` makes a page of it.
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
        ConfigError: ``seeds`` are missing or repeat, the loader takes no seed, or a baseline has the name of a built-in arm.
        ShapeError: ``window`` or ``crop_size`` is no size.
        CheckpointError: ``output`` holds runs with other settings, measured in another way, or of another model, generator, mask source, data
            set or validation set.
        DataError: the loader gives other batches when it is read again with the same seed; the masks to measure on hold only one class and
            void; or an image to measure on is also in ``loader``, ``plain_loader`` or ``ceiling``, as far as ``check_leaks`` can find it.

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
    # Before any measurement: it may start the process group.
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
            # The first arm that runs takes this loader; each other arm makes its own.
            unread = [loader(seed)]
            data = {"data": describe_data(unread[0])}
            if ceiling is not None:
                kept[CEILING] = weighted | common_mixing | {"ceiling_data": describe_data(ceiling(seed))}
            for name in arms:
                # Control and baselines do not depend on feataug's mixing: with other mixing only the arm feataug runs again.
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
        advice = "Or leave the built-in arm out: weights_arm=False." if WEIGHTS in taken else None
        raise ConfigError(
            "compare: a baseline has the name of a built-in arm.", given=", ".join(taken), needed="another name", advice=advice
        )
