"""The study class that all others inherit: a base model and a generator, each stage run once and kept in files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from feataug import (
    FeatureGenerator,
    FinetuneConfig,
    Finetuner,
    GeneratorConfig,
    GeneratorTrainer,
    Inference,
    evaluate,
    fit_class_bias,
    recognition,
    split,
)
from feataug.core.crop_sizes import note_size
from feataug.core.devices import device_of
from feataug.data import seeded_loader
from feataug.io.results import by_class, recognition_summary
from feataug.models import PSPNet
from studies.lib.backbone import load_imagenet_weights
from studies.lib.stages import Stages


class Study(Stages):
    """A PSPNet, a generator for it, and stages that are run once.

    A subclass gives the sizes and configurations below and ``data``; for another model also ``model``, ``save_base`` and ``load_base``.
    """

    name = "PSPNet, tf_efficientnet_lite0 (ImageNet), output stride 16, head 128"
    at = "encoder.blocks.4"
    size: tuple[int, int]
    scale: tuple[float, float]
    batch: int
    # Whole images in a batch of those that are only measured.
    whole: int
    base_config: FinetuneConfig
    generator_configs: tuple[GeneratorConfig, ...]
    bicyclegan_configs: tuple[GeneratorConfig, ...] = ()
    further: FinetuneConfig

    def data(self) -> tuple[Any, Any, Any]:
        """Augmented training images, the same images without augmentation, and the images to measure on."""
        raise NotImplementedError

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args.output)
        self.args = args
        self.train, self.plain, self.val = self.data()
        self.classes = self.val.classes
        self.val_loader = seeded_loader(self.val, self.whole, shuffle=False)

    @property
    def device(self) -> torch.device:
        """The device for measurements that ``--device`` leads to."""
        return torch.device("cuda" if self.args.device != "cpu" and torch.cuda.is_available() else "cpu")

    def training_loader(self, seed: int) -> Any:
        """Batches to train a base model or a generator on."""
        return seeded_loader(self.train, self.batch, seed=seed, num_workers=getattr(self.args, "workers", 0))

    def base_settings(self) -> dict[str, Any]:
        """Everything that figures of the base model depend on, besides the images themselves."""
        options = {name: getattr(self.args, name) for name in ("dataset", "half", "fraction", "quick", "eval_split") if hasattr(self.args, name)}
        sizes = {"size": self.size, "scale": self.scale, "batch": self.batch}
        return options | sizes | {"model": self.name, "base": self.base_config.to_dict()}

    def generator_settings(self, configs: Sequence[GeneratorConfig] | None = None) -> dict[str, Any]:
        """Everything that figures of a generator depend on; by default of the study's own."""
        return self.base_settings() | {"at": self.at, "generator": [config.to_dict() for config in configs or self.generator_configs]}

    def run_base(self) -> dict[str, Any]:
        """The base model's figures; it is trained where it has not been yet."""
        return self.stage("base", self.train_base, self.base_settings())

    def run_generator(self) -> dict[str, Any]:
        """The generator's figures; it is trained where it has not been yet."""
        return self.stage("generator", lambda: self.train_generator("generator", self.generator_configs), self.generator_settings())

    def run_bicyclegan(self) -> dict[str, Any]:
        """The figures of a generator with the paper's objective, for studies that compare the two."""
        settings = self.generator_settings(self.bicyclegan_configs)
        return self.stage("bicyclegan", lambda: self.train_generator("bicyclegan", self.bicyclegan_configs), settings)

    def train_base(self) -> dict[str, Any]:
        model = self.model()
        tuner = Finetuner(model, self.base_config, output=self.output / "base", device=self.args.device, progress="base")
        history = tuner.fit(self.training_loader(0), lambda trained: evaluate(self.inference(trained), self.val_loader, len(self.classes)))
        self.save_base(model)
        curve = [{"step": entry["progress"], "miou": entry["miou"]} for entry in history]
        return by_class(history[-1], self.classes) | {"curve": curve}

    def train_generator(self, name: str, configs: Sequence[GeneratorConfig]) -> dict[str, Any]:
        cut = self.cut()
        torch.manual_seed(0)
        generator = FeatureGenerator(len(self.classes), cut.spec, configs[0].objective)
        curve, before = [], 0
        for number, config in enumerate(configs, start=1):
            folder, text = self.output / f"{name}-{number}", f"{name} {number}"
            trainer = GeneratorTrainer(generator, cut, config, output=folder, device=self.args.device, progress=text)
            history = trainer.fit(self.training_loader(number), self.generator_pairs())
            kept = ("ratio", "diversity", "held_out")
            curve += [{"images": before + e["progress"]} | {key: e[key] for key in kept if key in e} for e in history]
            before += config.num_images
        generator.save_pretrained(self.output / f"{name}-model")
        on_training_masks = recognition(cut, generator, self.plain_subset_loader(), device=trainer.accelerator.device, window=self.size)
        return {
            self.args.eval_split: recognition_summary(history[-1], self.classes),
            "train": recognition_summary(on_training_masks, self.classes),
            "curve": curve,
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        }

    def generator_pairs(self) -> Any:
        """The pairs that a generator is measured on while it is trained."""
        return self.val_loader

    def plain_subset_loader(self) -> Any:
        """Training images without augmentation: as many as there are validation images, evenly spaced over the set."""
        every = max(1, round(len(self.plain) / len(self.val)))
        return seeded_loader(torch.utils.data.Subset(self.plain, range(0, len(self.plain), every)), self.whole, shuffle=False)

    def inference(self, model: torch.nn.Module, **settings: Any) -> Inference:
        """Prediction by windows of the size of the training crops."""
        return Inference(model, window=self.size, **settings)

    def measure(self, model: torch.nn.Module) -> dict[str, Any]:
        """Figures by windows after a class bias that is fitted on training images, with ``before_bias`` and ``class_bias``."""
        predict, count = self.inference(model), len(self.classes)
        bias = fit_class_bias(predict, self.plain_subset_loader(), count)
        before = evaluate(predict, self.val_loader, count)
        after = evaluate(self.inference(model, class_bias=bias).to(device_of(model)), self.val_loader, count)
        return after | {"before_bias": before, "class_bias": bias.tolist()}

    def model(self) -> torch.nn.Module:
        """The model before it is trained."""
        torch.manual_seed(0)
        model = PSPNet("tf_efficientnet_lite0", len(self.classes), output_stride=16, width=128)
        load_imagenet_weights(model.encoder)
        return model

    def save_base(self, model: Any) -> None:
        model.save_pretrained(self.output / "base-model")

    def load_base(self) -> torch.nn.Module:
        """The trained base model; it carries the size of its crops for those who measure it."""
        model = PSPNet.from_pretrained(self.output / "base-model")
        note_size(model, self.size)
        return model

    def load_generator(self) -> FeatureGenerator:
        """The trained generator."""
        return FeatureGenerator.from_pretrained(self.output / "generator-model")

    def cut(self) -> Any:
        """The trained base model, cut."""
        return split(self.load_base(), at=self.at)
