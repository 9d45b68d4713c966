"""Where to cut? The paper's Table 4: statistics, recognition and gain at several stages, from the image itself to the encoder's end.

    python -m studies.paper.table4 --data DIR --dataset camvid|idd|folder [--quick] [--seeds 0 1 2] [--device cpu] [--output runs/compare-camvid]

Takes the base model that ``studies.own.compare --until base`` leaves in ``--output``, or trains one. At each stage of the encoder: entropy and
overlap of the features, a generator and its recognition score, and then the model trained further with synthetic features of that stage,
against one control for all stages. These arms have no class weights and no filter, so that rows differ by the cut alone. ``--quick`` takes
small crops, few images and cheaper losses, and trains no arms: a first look, in minutes on two cores. Finished stages are not run again.
Figures go to ``studies/results/table4-camvid.json`` (``--result``) after each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Subset

from feataug import DatasetMasks, FeatureGenerator, FinetuneConfig, GeneratorConfig, GeneratorTrainer, recognition, split, stages
from feataug.data import seeded_loader, train_transforms
from feataug.evaluation import differences, mean_figures, recommend, train_arm
from feataug.io.atomic import write_json
from feataug.io.results import by_class, recognition_summary
from feataug.reporting.tables import stages_table
from feataug.training.device import keep_freed_memory
from studies.lib.comparison import Comparison
from studies.lib.setups import arguments, parse

# Outputs of the encoder's stages, before the next convolution. lite0's blocks end without an activation, as the paper's features do.
PLACES = {
    "images": "encoder.conv_stem:input",
    **{f"blocks.{number}": f"encoder.blocks.{number}" for number in range(7)},
}


class Table4(Comparison):
    """A row for each stage."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.places = tuple(args.places or self.places)

    folder, places = "table4", tuple(PLACES)
    num_images, min_cells, measured_crops = 3_000, 100, None
    generator_config = replace(Comparison.generator_configs[0], num_images=1_200, eval_images=0, ema_images=400)

    @property
    def statistics_key(self) -> str:
        """The statistics' stage. It is named after the places, because statistics depend on the coarsest of them."""
        return f"{self.folder}/statistics" + ("" if self.places == type(self).places else "-of-" + "-".join(self.places))

    def recognition_key(self, name: str) -> str:
        """The stage of a generator's recognition."""
        return f"{self.folder}/{name}/recognition"

    def arm_key(self, name: str, seed: int) -> str:
        """The stage of an arm."""
        return f"{self.folder}/seed-{seed}/{name}"

    def patches(self) -> Any:
        """The training patches of the statistics, the same in every pass."""
        return self.training_loader(1)

    def measured_loader(self) -> Any:
        """Labelled images that no generator has seen."""
        return self.val_loader

    def statistics(self) -> dict[str, Any]:
        """Entropy and overlap of every stage."""
        at = [PLACES[name] for name in self.places]
        given = {"num_images": self.num_images, "min_cells": self.min_cells, "device": self.args.device, "progress": False}
        return stages(self.load_base(), self.patches(), len(self.classes), at=at, **given)

    def train_generator_at(self, name: str) -> dict[str, Any]:
        """Train a generator for one place and measure its recognition."""
        cut = split(self.load_base(), PLACES[name])
        torch.manual_seed(0)
        generator = FeatureGenerator(len(self.classes), cut.spec)
        where, text = self.output / self.folder / name / "generator", f"generator, {name}"
        trainer = GeneratorTrainer(generator, cut, self.generator_config, output=where, device=self.args.device, progress=text)
        trainer.fit(self.training_loader(1))
        generator.save_pretrained(self.output / self.folder / name / "generator-model")
        score = recognition(cut, generator, self.measured_loader(), device=trainer.accelerator.device, window=self.size)
        return recognition_summary(score, self.classes)

    def train_arm_at(self, name: str, seed: int) -> dict[str, Any]:
        """Train the model further with synthetic features of one place, or without any for ``control``."""
        config = FinetuneConfig.from_dict(self.further.to_dict() | {"seed": seed})
        mixed: dict[str, Any] = {}
        if name != "control":
            generator = FeatureGenerator.from_pretrained(self.output / self.folder / name / "generator-model")
            mixed = {"generator": generator, "masks": DatasetMasks(self.train), "ratio": 0.3}

        where, text = self.output / self.folder / f"seed-{seed}" / name, f"{name} {seed}"
        at = PLACES.get(name, self.at)
        _, figures = train_arm(
            self.load_base(), at, self.loader(seed), self.measure, config, output=where, device=self.args.device, progress=text, **mixed
        )
        return by_class(figures, self.classes)

    def run_statistics(self) -> dict[str, Any]:
        settings = {"places": self.places, "num_images": self.num_images, "min_cells": self.min_cells}
        return self.stage(self.statistics_key, self.statistics, self.base_settings() | settings)

    def run_recognition_at(self, name: str) -> dict[str, Any]:
        settings = self.base_settings() | {"place": name, "generator": self.generator_config.to_dict()}
        return self.stage(self.recognition_key(name), lambda: self.train_generator_at(name), settings)

    def run_arm_at(self, name: str, seed: int) -> dict[str, Any]:
        settings = self.base_settings() | {"place": name, "generator": self.generator_config.to_dict(), "further": self.further.to_dict()}
        return self.stage(self.arm_key(name, seed), lambda: self.train_arm_at(name, seed), settings)

    def rows(self) -> dict[str, Any]:
        """Every place's statistics and recognition; the result is written after each."""
        found = self.run_statistics()
        table = [row | {"name": name} for name, row in zip(self.places, found["stages"], strict=True)]
        # Late places first: early ones take the longest.
        for row in reversed(table):
            row["recognition"] = self.run_recognition_at(row["name"])
            row["recognition"]["seconds"] = self.seconds[self.recognition_key(row["name"])]
            best, why = recommend([done for done in table if done["recognition"] is not None])
            result = found | {"stages": table, "recommended": best, "why": why, "study": self.described_settings()}
            write_json(self.args.result, result)
        return result

    def gains(self, result: dict[str, Any]) -> dict[str, Any]:
        """Every place's arm against the control, seed by seed."""
        runs: dict[str, list[dict[str, Any]]] = {}
        for seed in self.args.seeds:
            for name in ("control", *self.places):
                runs.setdefault(name, []).append(self.run_arm_at(name, seed))
            result["seeds"] = self.args.seeds[: len(runs["control"])]
            result["control"] = mean_figures(runs["control"])
            for row in result["stages"]:
                row["gain"] = differences(runs["control"], runs[row["name"]])
            write_json(self.args.result, result)
        return result

    def described_settings(self) -> dict[str, Any]:
        """The settings behind the table."""
        return {
            "quick": self.args.quick, "data": self.args.dataset, "images": len(self.train), "fraction": self.args.fraction,
            "eval_split": self.args.eval_split, "size": self.size, "scale": self.scale, "half": self.args.half, "batch": self.batch,
            "model": self.name,
            "measured": self.measured_crops, "generator": self.generator_config.to_dict(), "further": self.further.to_dict(),
            "device": self.args.device, "torch": torch.__version__, "threads": torch.get_num_threads(),
        }  # fmt: skip


class Quick(Table4):
    """A first look: small crops at the same resolution, six stages, no critics, recognition on crops of some validation images."""

    folder, batch = "table4-quick", 8
    places = ("images", "blocks.1", "blocks.3", "blocks.4", "blocks.5", "blocks.6")
    num_images, min_cells, measured_crops = 160, 50, 48
    generator_config = GeneratorConfig(num_images=320, ema_images=32, stats_images=48, log_images=80, snapshot_images=80)

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        # The base model is that of the other studies in this folder, trained on crops of the full size.
        self.full_size = Comparison(args)

    def run_base(self) -> dict[str, Any]:
        """Train the base model on crops of the full size, if it has not been trained yet."""
        return self.full_size.run_base()

    def base_settings(self) -> dict[str, Any]:
        """The settings of the base model."""
        return self.full_size.base_settings()

    def data(self) -> tuple[Any, Any, Any]:
        (rows, columns), (low, high) = self.setup.size, self.setup.scale
        self.size, self.scale = (rows // 2, columns // 2), (2 * low, 2 * high)
        return super().data()

    def measured_loader(self) -> Any:
        middle = sum(self.scale) / 2
        crops = train_transforms(self.size, scale=(middle, middle), flip=0.0, color=0.0)
        val = self.read(self.args.eval_split, crops)
        every = max(1, len(val) // self.measured_crops)
        return seeded_loader(Subset(val, range(0, len(val), every)[: self.measured_crops]), self.batch, shuffle=False)


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``argv``."""
    parser = arguments(__doc__)
    parser.add_argument("--places", nargs="+", choices=tuple(PLACES), help="places to cut at; all by default, six with --quick")
    return parse(parser, "table4", argv)


def prepare(argv: Sequence[str] | None = None) -> Table4:
    """The study; its base model is trained where it has not been yet."""
    args = options(argv)
    keep_freed_memory()
    study = (Quick if args.quick else Table4)(args)
    study.run_base()
    return study


def run(study: Table4) -> None:
    """Rows, and gains except with ``--quick``."""
    result = study.rows()
    print(stages_table(result))
    if not study.args.quick:
        result = study.gains(result)
        for row in result["stages"]:
            print(f"{row['name']:<10}" + "".join(f"  {m} {row['gain'][m]['mean']:+.2f}" for m in ("class_acc", "miou")))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
