"""The comparison that most studies inherit: control, feataug and further arms on one base model and one generator."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from feataug import (
    ClassBalancedMasks,
    DatasetMasks,
    FeatureGenerator,
    FinetuneConfig,
    GeneratorConfig,
    GeneratorTrainer,
    HardNegativeSampler,
    LayoutComposer,
    PixelFilter,
    compare,
    deficit_weights,
    recognition,
    split,
)
from feataug.core.modes import eval_mode
from feataug.data import eval_transforms, seeded_loader, train_transforms
from feataug.io.atomic import write_json
from feataug.io.results import recognition_summary
from studies.lib.backbone import phase_dilations
from studies.lib.base_study import Study
from studies.lib.baselines import BASELINES
from studies.lib.cached_batches import CachedBatches
from studies.lib.setups import SETUPS, FractionOf, in_memory


class Comparison(Study):
    """A base model and a generator for one data set and one share of its labels, then all arms."""

    batch = 12
    # The settings of `feataug.recommended`: the paper's ratio, masks drawn evenly, and no class weights, which a class bias replaces.
    feataug: ClassVar[dict[str, Any]] = {"masks": "random", "power": 0.0, "filter": 1.25, "ratio": 0.3}
    # Power of the class weights' arm: the best on CamVid in studies/own/screen.py, without a class bias.
    weights_power = 1.5
    input_cut = "encoder.conv_stem:input"
    image_generator_images = 1_800
    further = FinetuneConfig(num_steps=100, lr=0.01, lr_scale={"encoder": 0.3}, save_every=25)
    # White noise, which nearly all committed figures were measured with; on lite0's features colored noise teaches as much.
    generator_configs = (GeneratorConfig(num_images=24_000, snapshot_images=1_200, log_images=240, colored_noise=False, seed=0),)
    # Trained for as long: an image costs about as much as three of a flow's.
    bicyclegan_configs = (
        GeneratorConfig.bicyclegan(
            num_images=7_200, critic_masks="shares", task_weight=4.0, task_balance=0.5, l1_weight=5.0, diversity_weight=0.2,
            eval_images=1_800, snapshot_images=240, log_images=240, seed=0,
        ),
    )  # fmt: skip

    def __init__(self, args: argparse.Namespace) -> None:
        self.setup = SETUPS[args.dataset]
        self.size, self.scale, self.whole = self.setup.size, self.setup.scale, self.setup.whole
        steps = self.setup.base_steps if args.fraction > 0.3 else self.setup.base_steps // 2
        self.base_config = FinetuneConfig(
            num_steps=steps, lr=0.05, lr_scale={"encoder": 0.3}, eval_every=steps // 6, save_every=25, seed=0
        )
        # On a GPU, checkpoints would take longer than the steps between them. A base model is trained alone, and contiguous maps need fewer
        # kernel launches. Arms are trained many at once and wait for the kernels themselves, so they keep channels_last.
        if args.device == "cuda":
            self.base_config = replace(self.base_config, channels_last=False, save_every=250)
            self.further = replace(self.further, save_every=0)
        if args.half:
            self.size = (self.size[0] // 2, self.size[1] // 2)
            # With a quarter of the cells, twice the images are still half of the time, and the held-out loss still falls.
            self.generator_configs = tuple(replace(config, num_images=2 * config.num_images) for config in self.generator_configs)
        if args.quick:
            self.shrink()
        super().__init__(args)
        if args.in_memory:
            self.val_loader = list(self.val_loader)

    def shrink(self) -> None:
        """Settings of ``--quick``: small crops, a few steps, and some of the images, to see in minutes whether everything runs."""
        self.size = (96, 128)
        self.base_config = replace(self.base_config, num_steps=60, eval_every=0)
        self.further, self.image_generator_images = replace(self.further, num_steps=5), 24
        self.generator_configs = tuple(replace(config, num_images=120, eval_images=0) for config in self.generator_configs)
        self.bicyclegan_configs = tuple(replace(config, num_images=120, eval_images=0) for config in self.bicyclegan_configs)

    def data(self) -> tuple[Any, Any, Any]:
        train = self.read("train", train_transforms(self.size, scale=self.scale))
        whole = eval_transforms(self.evaluation_size())
        plain, val = self.read("train", whole), self.read(self.args.eval_split, whole)
        share = self.args.fraction
        if self.args.quick:
            share, val = min(share, 120 / len(train)), FractionOf(val, min(1, 24 / len(val)))
        if share < 1:
            train, plain = FractionOf(train, share), FractionOf(plain, share)
        return train, plain, val

    def evaluation_size(self) -> tuple[int, int] | None:
        """Rows and columns that images are measured at; ``None`` for their own."""
        if self.args.quick:
            return 2 * self.size[0], 2 * self.size[1]
        if self.args.half:
            rows, columns = self.read("train", None).image(0).shape[-2:]
            return rows // 2, columns // 2
        return None

    def read(self, part: str, transforms: Any) -> Any:
        """The images and masks of a part of the data set."""
        dataset = self.setup.reader(self.args.data, part, transforms=transforms)
        return in_memory(dataset) if self.args.in_memory else dataset

    def left_out(self, transforms: Any) -> FractionOf:
        """The training images that ``--fraction`` leaves out."""
        return FractionOf(self.read("train", transforms), self.args.fraction, rest=True)

    def loader(self, seed: int) -> Any:
        """The real batches that all arms of a seed are trained on."""
        loader = seeded_loader(self.train, self.batch, seed=100 + seed)
        return CachedBatches(loader, self.output / "batches" / f"seed-{seed}") if self.args.in_memory else loader

    def ceiling_loader(self, seed: int) -> Any:
        """Labelled crops that no other arm sees, for the positive control."""
        return seeded_loader(self.left_out(train_transforms(self.size, scale=self.scale)), self.batch, seed=200 + seed)

    def masks(self, source: str) -> Any:
        """A mask source by name: ``random``, ``balanced``, ``composed`` (rare objects pasted), ``both``; ``mined-`` before it."""
        if source.startswith("mined"):
            return HardNegativeSampler(self.masks(source.removeprefix("mined").removeprefix("-") or "random"), 64, 16, 25)
        plain = DatasetMasks(self.masked())
        if source == "random":
            return plain
        balanced = ClassBalancedMasks(self.masked(), len(self.classes))
        if source == "balanced":
            return balanced
        return LayoutComposer(balanced if source == "both" else plain, balanced, self.rare_classes(), objects=8)

    def masked(self) -> Any:
        """The data set whose masks synthetic samples have."""
        return self.train

    def rare_classes(self) -> list[int]:
        """Classes that cover less than a quarter of an equal share of the training pixels."""
        masks = [torch.as_tensor(self.plain.mask(index)) for index in range(0, len(self.plain), 4)]
        counts = sum(torch.bincount(mask.flatten(), minlength=256)[: len(self.classes)] for mask in masks)
        return (counts / counts.sum() < 0.25 / len(self.classes)).nonzero().flatten().tolist()

    def pixel_filter(self, factor: float) -> PixelFilter:
        """A filter by the base model. The classes' mean losses are a stage: they are measured once."""
        cut = self.cut()

        def run() -> dict[str, Any]:
            fitted = PixelFilter.fit(cut, self.plain_subset_loader(), len(self.classes), device=self.device)
            return {"losses": fitted.class_loss.tolist()}

        losses = self.stage("class-losses", run, self.base_settings() | {"at": self.at})
        cut.model.requires_grad_(False).eval()
        return PixelFilter(cut, torch.tensor(losses["losses"]), factor=factor)

    def class_weights(self, power: float | None = None) -> torch.Tensor:
        """The base model's deficits to a power. The ratios are a stage: they are measured once, by windows of the crops' size."""

        def run() -> dict[str, Any]:
            ratios = deficit_weights(self.load_base(), self.plain_loader(), len(self.classes), 1.0, device=self.device)
            return {"ratios": ratios.tolist()}

        return torch.tensor(self.stage("deficits", run, self.base_settings())["ratios"]) ** (self.weights_power if power is None else power)

    def plain_loader(self) -> Any:
        """All training images, without augmentation."""
        return seeded_loader(self.plain, self.whole, shuffle=False)

    def generator_distance(self) -> torch.Tensor:
        """For each channel, the standard deviation of Gaussian noise whose mean size is the distance of synthetic from real features."""

        def run() -> dict[str, Any]:
            cut, generator, rng = self.cut(), self.load_generator().eval().to(self.device), torch.Generator().manual_seed(0)
            cut.model.to(self.device)
            gaps = []
            with torch.no_grad(), eval_mode(cut.model):
                for images, masks in self.plain_subset_loader():
                    made: Any = generator(masks.to(self.device), generator.draw_z(masks, rng))
                    (real,), (made,) = cut.encode(images.to(self.device)), made
                    gaps.append((real - made).abs().mean((0, 2, 3)))
            return {"scale": (torch.stack(gaps).mean(0) * math.sqrt(math.pi / 2)).tolist()}

        return torch.tensor(self.stage("generator-distance", run, self.generator_settings())["scale"])

    def image_generator(self) -> FeatureGenerator:
        """A generator of images, for the model cut at its input."""
        folder = self.output / "image-generator-model"

        def run() -> dict[str, Any]:
            cut = split(self.load_base(), self.input_cut)
            torch.manual_seed(0)
            generator = FeatureGenerator(len(self.classes), cut.spec, "bicyclegan")
            config = GeneratorConfig.bicyclegan(num_images=self.image_generator_images, snapshot_images=240, log_images=240, seed=0)
            where, text = self.output / "image-generator", "image generator"
            trainer = GeneratorTrainer(generator, cut, config, output=where, device=self.args.device, progress=text)
            trainer.fit(self.training_loader(1))
            generator.save_pretrained(folder)
            return recognition_summary(recognition(cut, generator, self.val_loader, device=self.device, window=self.size), self.classes)

        settings = self.base_settings() | {"at": self.input_cut, "images": self.image_generator_images}
        self.stage("image-generator", run, settings)
        return FeatureGenerator.from_pretrained(folder)

    def baselines(self) -> dict[str, Any]:
        """The arms of ``--arms`` besides control and feataug."""
        return {name: BASELINES[name](self) for name in self.args.arms if name not in ("control", "feataug")}

    def run_arms(self) -> dict[str, Any]:
        """Every arm on every seed; the result is written after each."""
        baselines = self.baselines()
        result: dict[str, Any] = {}
        for count in range(1, len(self.args.seeds) + 1):
            result = self.compare_arms(self.args.seeds[:count], baselines)
            write_json(self.args.result, self.with_context(result))
        return result

    def compare_arms(self, seeds: Sequence[int], arms: Mapping[str, Any], output: Path | None = None) -> dict[str, Any]:
        """Control, feataug and ``arms`` on some seeds. Arms whose figures are in ``output`` are not run again."""
        mixing = {k: v for k, v in self.feataug.items() if k not in ("masks", "filter", "power")}
        return compare(
            self.load_base(), self.at, self.load_generator(), self.masks(self.feataug["masks"]), self.loader, self.val_loader, self.further,
            seeds=seeds, baselines=arms, pixel_filter=self.pixel_filter(self.feataug["filter"]) if self.feataug["filter"] else None,
            # The paper's tables and figures are variants of this comparison and have no ceiling.
            plain_loader=self.plain_subset_loader(), ceiling=self.ceiling_loader if getattr(self.args, "ceiling", False) else None,
            class_weights=self.class_weights(self.feataug["power"]) if self.feataug["power"] else None, weights_arm=False, classes=self.classes,
            output=output or self.output / "arms", device=self.args.device, **mixing,
        )  # fmt: skip

    def run_recognition(self) -> dict[str, Any]:
        """Recognition and diversity, by windows of the crops' size."""

        def run() -> dict[str, Any]:
            scores = {
                name: recognition(self.cut(), self.load_generator(), loader, window=self.size, device=self.device)
                for name, loader in (("val", self.val_loader), ("train", self.plain_subset_loader()))
            }
            summary = {name: recognition_summary(score, self.classes) for name, score in scores.items()}
            return summary["val"] | {"on_training_masks": summary["train"]}

        return self.stage("recognition-by-windows", run, self.generator_settings())

    def with_context(self, result: dict[str, Any]) -> dict[str, Any]:
        """The comparison with the base model, the generator and the settings that led to it."""
        base, trained = self.run_base(), self.run_generator()
        return result | {
            "base_curve": base["curve"],
            "recognition": self.run_recognition() | {"curve": trained["curve"]},
            "seconds": self.seconds,
            "seconds_of_the_last_part_only": self.resumed,
            "settings": result["settings"] | {
                "data": self.args.dataset, "images": len(self.train), "fraction": self.args.fraction, "eval_split": self.args.eval_split,
                "size": self.size, "scale": self.scale, "half": self.args.half, "batch": self.batch, "model": self.name,
                "base": self.base_config.to_dict(),
                "generator": [config.to_dict() for config in self.generator_configs], "feataug": self.feataug,
                "device": self.args.device, "torch": torch.__version__, "threads": torch.get_num_threads(),
            },
        }  # fmt: skip

    def model(self) -> torch.nn.Module:
        model = super().model()
        if self.args.device != "cuda":
            phase_dilations(model)
        return model

    def load_base(self) -> torch.nn.Module:
        model = super().load_base()
        phase_dilations(model)
        return model
