"""One arm of a comparison: the model trained further, with synthetic features or without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.copying import copy_model
from feataug.cutting.cut import split
from feataug.evaluation.comparison.ceiling import EncodedImages, LabelledPairs
from feataug.generation.generator import FeatureGenerator
from feataug.losses import segmentation_loss
from feataug.mixing.mixer import FeatureMixer
from feataug.training.batch_norm import moved_norms, statistics_of
from feataug.training.config import FinetuneConfig
from feataug.training.finetuner import Finetuner

# A baseline maps (a copy of the model, the loader, the settings, a folder for checkpoints) to the trained model.
Arm = Callable[[nn.Module, Iterable[Any], FinetuneConfig, Path | None], nn.Module]


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
    pixel_filter: Any = None,
    class_weights: Tensor | None = None,
    bank: int = 0,
    ignore_index: int = 255,
    update_bn: bool = True,
    baseline: Arm | None = None,
    ceiling: Iterable[tuple[Tensor, Tensor]] | None = None,
    measure: Callable[[nn.Module], dict[str, Any]] | None = None,
    output: str | Path | None = None,
    device: str | torch.device | None = "auto",
    progress: bool | str = True,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a copy of ``model`` further: the control without ``generator``, feataug with it.

    Both arms see the same real batches and take the same number of steps; feataug's batches contain synthetic samples in addition.

    Args:
        model: The trained model; it is not changed.
        at: The layer or layers to cut at.
        loader: Yields real ``(images, masks)``; for a fair pair it must repeat itself, as ``data.seeded_loader`` does.
        validate: Measures a model and returns its figures.
        config: Settings of the training.
        generator: A generator trained for this cut; ``None`` for the control.
        masks: The mask source of the synthetic samples.
        example: The example for ``split``, for a model that does not take images of 128 x 128.
        ratio, label_smoothing, pixel_filter, class_weights, bank: See ``FeatureMixer``.
        ignore_index: The label of void.
        update_bn: After training, measure BatchNorm's running statistics on one pass over ``loader``, in either arm: synthetic features
            have changed them. Norms that training did not touch stay as they are; in a baseline's model these are the norms with unchanged
            statistics.
        baseline: Trains the copy instead of ``Finetuner``: ``(model, loader, config, folder) -> model``.
        ceiling: Labelled pairs whose real features replace synthetic ones. ``masks`` is then unused, and ``generator`` only names the cut
            and the classes.
        measure: Measures the trained model at the end; ``validate`` by default. ``compare`` fits a class bias here.
        output: The folder for checkpoints, from which an interrupted run resumes.
        device, progress: As for ``Finetuner``.

    Returns:
        The trained copy, and its figures with ``seconds``; with ``update_bn`` also ``as_trained``, the figures before it.
    """
    began = time.monotonic()
    model = copy_model(model)
    cut = mixer = None
    if generator is not None:
        cut = split(model, at, example=example)
        source: Any = generator
        if ceiling is not None:
            masks = LabelledPairs(ceiling)
            source = EncodedImages(cut, masks, generator)
        mixer = FeatureMixer(
            source,
            masks,
            ratio,
            label_smoothing,
            ignore_index=ignore_index,
            cut=cut,
            pixel_filter=pixel_filter,
            class_weights=class_weights,
            bank=bank,
            seed=config.seed,
            aux_weight=config.aux_weight,
        )
    tuner = Finetuner(model, config, mixer=mixer, cut=cut, output=output, device=device, progress=progress)
    if baseline is None:
        measured: list[bool] = []

        def noted(trained: nn.Module) -> dict[str, Any]:
            measured.append(True)
            return validate(trained)

        figures = tuner.fit(loader, noted, ignore_index=ignore_index)[-1]
        if not measured:
            # The run was finished already, and its figures may have been measured in another way.
            figures = validate(model.eval())
    else:
        start = {name: value.detach().clone() for name, value in statistics_of(model).items()}
        model = tuner.model = baseline(model, loader, config, Path(output) if output is not None else None)
        # Unknown code may leave the model in any mode.
        tuner.trained_modes(moved_norms(model, start))
        figures = validate(model.eval())
    as_trained = {"as_trained": figures} if update_bn else {}
    if update_bn:
        tuner.update_bn(loader)
    if update_bn or measure is not None:
        figures = (measure or validate)(model.eval()) | as_trained
    return model, figures | {"seconds": round(time.monotonic() - began, 1)}


def weights_alone(class_weights: Tensor, *, ignore_index: int = 255, device: str | torch.device | None = "auto", progress: bool = True) -> Arm:
    """Make an arm with feataug's class weights but without synthetic features, to measure the effect of the weights alone.

    Args:
        class_weights: ``(K,)``, as for ``FeatureMixer``.
        ignore_index: The label of void.
        device, progress: As for ``Finetuner``.

    Source:
        Ours: a class bias gains as much without training (docs/results.md).
    """

    def arm(model: nn.Module, loader: Iterable[Any], config: FinetuneConfig, folder: Path | None) -> nn.Module:
        def loss(out: Any, masks: Tensor) -> Tensor:
            return segmentation_loss(
                out, masks, class_weights=class_weights, aux_weight=config.aux_weight, ignore_index=ignore_index
            )

        text = f"class weights {config.seed}" if progress else False
        Finetuner(model, config, loss=loss, output=folder, device=device, progress=text).fit(loader, ignore_index=ignore_index)
        return model

    return arm
