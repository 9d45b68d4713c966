"""Does feataug help on CamVid? Our first study: a base model, a generator, then control against feataug on paired seeds.

    python -m studies.own.camvid --data DIR [--eval-split val|test] [--seeds 0 1 2] [--device cpu] [--output runs/camvid]

Figures go to ``studies/results/camvid.json`` (``--result``) after every seed. The committed ones are in ``studies/results/whole-images``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from feataug import DatasetMasks, FinetuneConfig, GeneratorConfig, HardNegativeSampler
from feataug.data import CamVid, eval_transforms, seeded_loader, train_transforms
from feataug.evaluation import differences, mean_figures, train_arm
from feataug.io.atomic import write_json
from feataug.io.results import by_class
from feataug.reporting.tables import table
from feataug.training.device import keep_freed_memory
from studies.lib.base_study import Study

SIZE, BATCH, SCALE, CLASSES = (240, 320), 16, (0.525, 1.5), 11
STEPS_PER_EPOCH = 22
# The weights that this study was run with, before studies/own/generator.py found better ones.
EARLIER: dict[str, Any] = {"l1_weight": 10.0, "task_balance": 0.0, "critic_masks": "aspp"}
INTERVALS = {"eval_images": 1_200, "snapshot_images": 400, "log_images": 160}
# Two phases: the first with a strong mode-seeking term (recognition 0.755 of the real one, diversity 0.55), the second with less of it
# and more of the task loss, which trades variety for features that the decoder recognises.
GENERATOR = (
    GeneratorConfig.bicyclegan(**EARLIER, **INTERVALS, num_images=3_600, lr=5e-4, diversity_weight=0.3, task_weight=1.0, seed=0),
    GeneratorConfig.bicyclegan(**EARLIER, **INTERVALS, num_images=2_400, lr=5e-4, diversity_weight=0.1, task_weight=2.0, seed=1),
)
ARMS = ("control", "feataug")
RATIO, LABEL_SMOOTHING = 0.3, 1e-4
MINING = {"candidates": 64, "keep": 16, "refresh_every": 22}


class CamVidStudy(Study):
    """Control against feataug on CamVid."""

    size, batch, scale, whole = SIZE, BATCH, SCALE, BATCH
    base_config = FinetuneConfig(
        num_steps=36 * STEPS_PER_EPOCH, lr=0.05, lr_scale={"encoder": 0.3}, eval_every=66, save_every=STEPS_PER_EPOCH, seed=0
    )
    generator_configs = GENERATOR
    further = FinetuneConfig(num_steps=3 * STEPS_PER_EPOCH, lr=0.01, lr_scale={"encoder": 0.3}, save_every=STEPS_PER_EPOCH)

    def data(self) -> tuple[Any, Any, Any]:
        root, whole = self.args.data, eval_transforms(self.size)
        train = CamVid(root, "train", transforms=train_transforms(self.size, scale=self.scale))
        return train, CamVid(root, "train", transforms=whole), CamVid(root, self.args.eval_split, transforms=whole)

    def train_arm(self, name: str, seed: int) -> dict[str, Any]:
        """Train one arm further and measure it."""
        config = FinetuneConfig.from_dict(self.further.to_dict() | {"seed": seed})
        mixing: dict[str, Any] = {}
        if name == "feataug":
            mixing = {"generator": self.load_generator(), "masks": HardNegativeSampler(DatasetMasks(self.train), **MINING)}
        _, figures = train_arm(
            self.load_base(), self.at, seeded_loader(self.train, self.batch, seed=100 + seed), self.measure, config,
            output=self.output / f"seed-{seed}" / name, device=self.args.device, progress=f"{name} {seed}", **mixing,
        )  # fmt: skip
        parts = {part: by_class(figures[part], self.classes) for part in ("as_trained", "before_bias")}
        return by_class(figures, self.classes) | parts

    def run(self) -> dict[str, Any]:
        """Every stage; the result is written after every seed."""
        base = self.run_base()
        curve = base.pop("curve")
        recognised = self.run_generator()
        settings = self.generator_settings() | {"further": self.further.to_dict(), "mining": MINING}
        seeds: list[dict[str, Any]] = []
        for seed in self.args.seeds:
            arms = {arm: self.stage(f"seed-{seed}/{arm}", lambda a=arm, s=seed: self.train_arm(a, s), settings) for arm in ARMS}
            seeds.append({"seed": seed, **arms})
            result = self.result(base, curve, recognised, seeds)
            write_json(self.args.result, result)
        return result

    def result(
        self, base: dict[str, Any], curve: list[Any], recognised: dict[str, Any], seeds: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The figures so far, with the settings that led to them."""
        arms = {name: [entry[name] for entry in seeds] for name in ARMS}
        raw = {name: [run["as_trained"] for run in runs] for name, runs in arms.items()}
        return {
            "base": base,
            **{name: mean_figures(runs) for name, runs in arms.items()},
            "recognition": recognised[self.args.eval_split] | {"on_training_masks": recognised["train"], "curve": recognised["curve"]},
            "difference": differences(arms["control"], arms["feataug"]),
            "as_trained": {name: mean_figures(runs) for name, runs in raw.items()}
            | {"difference": differences(raw["control"], raw["feataug"])},
            "seconds": self.seconds | {"total": round(sum(self.seconds.values()), 1)},
            "seconds_of_the_last_part_only": self.resumed,
            "seeds": seeds,
            "base_curve": curve,
            "settings": {
                "data": "CamVid, train (367 images)", "eval_split": self.args.eval_split, "size": self.size, "scale": SCALE, "batch": self.batch,
                "model": self.name, "at": self.at, "levels": self.cut().spec.to_dict()["levels"],
                "base": self.base_config.to_dict(), "generator": [config.to_dict() for config in self.generator_configs],
                "further": self.further.to_dict(),
                "mixer": {"ratio": RATIO, "label_smoothing": LABEL_SMOOTHING, "masks": "HardNegativeSampler(64, 16, 22)"},
                "device": self.args.device, "torch": torch.__version__, "threads": torch.get_num_threads(),
            },
        }  # fmt: skip


def arguments(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options of the studies that run on CamVid alone."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder, with train/ trainannot/ val/ valannot/")
    parser.add_argument("--eval-split", choices=("val", "test"), default="val")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=Path("runs") / name, help="folder of checkpoints and finished stages")
    parser.add_argument("--result", type=Path, default=Path("studies/results") / f"{name}.json")
    return parser


def main() -> None:
    args = arguments(__doc__, "camvid").parse_args()
    keep_freed_memory()
    result = CamVidStudy(args).run()
    print(table({name: result[name] for name in ("base", *ARMS)}))
    print(json.dumps(result["difference"], indent=1))


if __name__ == "__main__":
    main()
