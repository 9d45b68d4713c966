"""Other features within the same mixing: of other generators, and the same ones with class weights.

``FEATURE_ARMS`` maps names to functions of the study that return an arm for ``feataug.compare``. The masks, the ratio and the filter are those of
the study's own arm, so that only the features (or the weights) differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from feataug import FeatureGenerator, FeatureMixer, Finetuner, split
from feataug.evaluation import ClassGaussians
from feataug.evaluation.teaching.decoder_training import first_batches

# As in ``teaching_score``.
FIT_BATCHES = 100


class GaussianFeatures(nn.Module):
    """Class Gaussians with the interface of a generator: ``z`` seeds the noise."""

    latent_dim = 2

    def __init__(self, fitted: ClassGaussians) -> None:
        super().__init__()
        self.fitted = fitted
        self.spec, self.num_classes, self.ignore_index = fitted.spec, fitted.num_classes, fitted.ignore_index

    def forward(self, masks: Tensor, z: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        """Features of masks; each sample's noise depends on its ``z`` alone."""
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        like = tuple(torch.zeros(1, level.channels, *level.size(size)) for level in self.spec)
        made = []
        for mask, code in zip(masks, z.double().cpu(), strict=True):
            rng = torch.Generator().manual_seed(int(code.sum().view(torch.int64)) & (2**62 - 1))
            made.append(self.fitted(mask[None], like, rng))
        return tuple(torch.cat(level) for level in zip(*made, strict=True))


def gaussians(study: Any) -> Any:
    """Class Gaussians, fitted to the features of the base model on the study's own images."""

    def make() -> nn.Module:
        cut = study.cut()
        return GaussianFeatures(ClassGaussians.fit(cut, first_batches(study.training_loader(1), FIT_BATCHES), len(study.classes)))

    return _mixed(study, "gaussians", make)


def bicyclegan(study: Any) -> Any:
    """A generator with the paper's objective."""

    def make() -> nn.Module:
        study.run_bicyclegan()
        return FeatureGenerator.from_pretrained(study.output / "bicyclegan-model")

    return _mixed(study, "bicyclegan", make)


def features_and_weights(study: Any) -> Any:
    """The study's features, and class weights by deficit."""
    return _mixed(study, "features and weights", study.load_generator, weighted=True)


FEATURE_ARMS = {"gaussians": gaussians, "bicyclegan": bicyclegan, "features and weights": features_and_weights}


def _mixed(study: Any, name: str, make: Any, *, weighted: bool = False) -> Any:
    made: list[nn.Module] = []

    def arm(model: nn.Module, loader: Any, config: Any, folder: Any) -> nn.Module:
        if not made:
            made.append(make())
        settings = study.feataug
        filtered = study.pixel_filter(settings["filter"]) if settings["filter"] else None
        cut = split(model, study.at)
        mixer = FeatureMixer(
            made[0], study.masks(settings["masks"]), settings["ratio"], cut=cut, pixel_filter=filtered, seed=config.seed,
            class_weights=study.class_weights() if weighted else None, aux_weight=config.aux_weight,
        )  # fmt: skip
        Finetuner(model, config, mixer=mixer, cut=cut, output=folder, device=study.args.device, progress=f"{name} {config.seed}").fit(loader)
        cut.remove()
        return model

    return arm
