"""Does it help my model? The control and feataug on paired seeds, equal steps and equal real batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feataug.checks import check_number, check_sequence
from feataug.errors import ConfigError, message
from feataug.evaluation.arms import Arm, train_arm, weights_alone
from feataug.evaluation.intervals import differences, mean_figures, verdict
from feataug.evaluation.kept_runs import kept_run, old_fingerprint
from feataug.evaluation.repeats import check_repeats
from feataug.fingerprints import fingerprint
from feataug.generator import FeatureGenerator
from feataug.identity import architecture, describe_callable, describe_data, describe_filter, describe_masks
from feataug.locating import layer_names
from feataug.metrics import evaluate
from feataug.report import by_class, write_result
from feataug.samples import SAMPLES, keep_samples
from feataug.training.batches import part_of
from feataug.training.config import FinetuneConfig
from feataug.training.run import held, make_accelerator

# The arm that has the class weights and no synthetic features.
WEIGHTS = "class weights"


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
    rivals: Mapping[str, Arm] | None = None,
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
    feataug's batches hold synthetic samples besides. The control is what the paper leaves out.

    Args:
        model: The trained model; it stays as it is.
        at: Where it is cut.
        generator: Trained for this cut.
        masks: Mask source of the synthetic samples. Its state is put back before every arm.
        loader: A seed to the loader of real ``(images, masks)`` for that seed, one that repeats itself:
            ``lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)``.
        val_loader: Pairs to measure on.
        config: Of the training; its ``seed`` is replaced by each of ``seeds``.
        seeds: One pair of runs each; at least two for an interval.
        rivals: Further arms by name, each against the control: ``(model, loader, config, folder) -> trained model``.
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
        arm), ``beyond_weights`` (feataug minus the arm ``"class weights"``, where there is one), ``verdict`` (in words) and ``settings``.

    Raises:
        ConfigError: no seeds, seeds that repeat, a loader that takes no seed, or a rival named as one of our arms.
        CheckpointError: ``output`` holds runs with other settings, or of another model, generator, mask source, data set or validation set.
        DataError: the loader gives other batches when it is read again with the same seed; or the masks to measure on hold one class and
            void only.

    Source:
        Ours.
    """
    ignore_index = generator.ignore_index
    alone: dict[str, Arm] = {}
    if weights_arm and class_weights is not None:
        alone[WEIGHTS] = weights_alone(class_weights, ignore_index=ignore_index, device=device, progress=progress)
    _check(loader, seeds, rivals or {}, ("control", "feataug", "base", *alone))
    rivals = alone | dict(rivals or {})
    folder = Path(output) if output is not None else None
    names = list(classes) if classes is not None else [str(number) for number in range(generator.num_classes)]
    common = {
        "at": at if isinstance(at, str) else list(layer_names(at)),
        "update_bn": update_bn,
        "config": {key: value for key, value in config.to_dict().items() if key != "seed"},
        "model": fingerprint(model),
        "val_data": describe_data(val_loader, measured=True),
        "classes": names,
        "ignore_index": ignore_index,
    }
    old = {"model": partial(old_fingerprint, model), "generator": partial(old_fingerprint, generator)}
    mixing: dict[str, Any] = {"ratio": ratio, "label_smoothing": label_smoothing} | ({"bank": bank} if bank else {})
    settings = {
        **common,
        **mixing,
        "masks": type(masks).__name__,
        "pixel_filter": getattr(pixel_filter, "factor", pixel_filter is not None),
        "class_weights": class_weights.tolist() if class_weights is not None else None,
        "generator": fingerprint(generator),
        "architecture": architecture(generator),
        "mask_source": describe_masks(masks),
        "filter": describe_filter(pixel_filter) if pixel_filter is not None else None,
    }
    start = copy.deepcopy(masks.state_dict()) if hasattr(masks, "state_dict") else None

    # Before anything is measured: it may start the processes' group.
    once = partial(kept_run, "compare", folder, make_accelerator(device, config.mixed_precision).device, old)

    def validate(trained: nn.Module) -> dict[str, Any]:
        where = next(trained.parameters()).device
        return evaluate(trained, part_of(val_loader), len(names), ignore_index=ignore_index, device=where)

    checked: list[int] = []

    def run(name: str, seed: int, unread: list[Any]) -> dict[str, Any]:
        if not checked:
            checked.append(seed)
            check_repeats(loader, seed)
        if start is not None:
            masks.load_state_dict(copy.deepcopy(start))
        own = FinetuneConfig.from_dict(config.to_dict() | {"seed": seed})
        where = folder / f"seed-{seed}" / name if folder is not None else None
        mixed = (
            {"generator": generator, "masks": masks, "pixel_filter": pixel_filter, "class_weights": class_weights, **mixing}
            if name == "feataug"
            else {}
        )
        text = f"{name} {seed}" if progress else False
        real = unread.pop() if unread else loader(seed)
        trained, figures = train_arm(
            model, at, real, validate, own, update_bn=update_bn, example=example, ignore_index=ignore_index, output=where,
            device=device, progress=text, rival=rivals.get(name), **mixed,
        )  # fmt: skip
        if where is not None and seed == seeds[0]:
            keep_samples(where / SAMPLES, val_loader, {name: trained}, classes=names, ignore_index=ignore_index)
        extra = {"as_trained": by_class(figures["as_trained"], names)} if "as_trained" in figures else {}
        return by_class(figures, names) | extra | {"seconds": figures["seconds"]}

    with held(folder):
        measured = {name: common[name] for name in ("model", "val_data", "classes", "ignore_index")}
        base = once("base", measured, lambda: by_class(validate(model), names))
        arms = ["control", "feataug", *rivals]
        kept = {"feataug": settings} | {name: common | {"class_weights": settings["class_weights"]} for name in alone}
        kept |= {name: common | {"rival": describe_callable(arm)} for name, arm in rivals.items() if name not in alone}
        finished: list[dict[str, Any]] = []
        result: dict[str, Any] = {}
        for seed in seeds:
            runs = {}
            # The first arm that is run takes it; each of the others takes one of its own.
            unread = [loader(seed)]
            data = {"data": describe_data(unread[0])}
            for name in arms:
                # Neither the control nor a rival depends on how feataug mixes: with other settings only its own arm is run again.
                runs[name] = once(f"seed-{seed}/{name}", kept.get(name, common) | data, partial(run, name, seed, unread))
            finished.append({"seed": seed} | runs)
            result = _summary(base, finished, arms, settings, bool(alone))
            if folder is not None:
                write_result(folder, result)
    return result


def _summary(
    base: dict[str, Any], finished: list[dict[str, Any]], arms: list[str], settings: dict[str, Any], weighted: bool
) -> dict[str, Any]:
    by_arm = {name: [entry[name] for entry in finished] for name in arms}
    gaps = {name: differences(by_arm["control"], by_arm[name]) for name in arms[1:]}
    said, beyond = verdict(gaps["feataug"]), {}
    if weighted:
        beyond = {"beyond_weights": differences(by_arm[WEIGHTS], by_arm["feataug"])}
        said += f" Over the class weights alone: {verdict(beyond['beyond_weights'])}" if len(finished) > 1 else ""
    return {
        "base": base,
        "seeds": finished,
        "arms": {name: mean_figures(runs) for name, runs in by_arm.items()},
        "difference": gaps["feataug"],
        "differences": gaps,
        **beyond,
        "verdict": said,
        "settings": settings,
    }


def _check(loader: Any, seeds: Sequence[int], rivals: Mapping[str, Arm], ours: Sequence[str]) -> None:
    if not callable(loader):
        raise ConfigError(
            message(
                "compare: loader takes no seed.",
                given=type(loader).__name__,
                needed="a function of the seed that returns a loader, so that the arms of a pair see the same batches",
                advice="loader=lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)",
            )
        )
    check_sequence("compare", "seeds", seeds, "one or more different integers")
    for seed in seeds:
        check_number("compare", "one of seeds", seed, low=0, integer=True)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(message("compare: seeds must differ.", given=repr(tuple(seeds)), needed="one or more different integers"))
    taken = sorted(set(ours) & set(rivals))
    if taken:
        advice = "Or leave ours out: weights_arm=False." if WEIGHTS in taken else None
        raise ConfigError(
            message(
                "compare: a rival has the name of one of our arms.", given=", ".join(taken), needed="another name", advice=advice
            )
        )
