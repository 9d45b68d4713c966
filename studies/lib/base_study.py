"""Does feataug help on CamVid? A base model, a generator, then control against feataug on paired seeds.

    python -m studies.lib.base_study --data DIR [--eval-split val|test] [--seeds 0 1 2] [--device cpu] [--output runs/camvid]

Stages that are done are not done again, and one that was stopped goes on from its last checkpoint. The figures go to
``studies/results/camvid.json`` (``--result``); ``docs/results.md`` is drawn from it by ``python -m docs.drawing.results``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from feataug import (
    DatasetMasks,
    FeatureGenerator,
    FinetuneConfig,
    Finetuner,
    GeneratorConfig,
    GeneratorTrainer,
    HardNegativeSampler,
    Inference,
    evaluate,
    fit_class_bias,
    recognition,
    split,
)
from feataug.core.crop_sizes import note_size
from feataug.core.devices import device_of
from feataug.data import CamVid, eval_transforms, seeded_loader, train_transforms
from feataug.evaluation import differences, mean_figures, train_arm
from feataug.io.results import by_class, recognition_summary
from feataug.models import PSPNet
from feataug.reporting.tables import table
from feataug.training.device import keep_freed_memory
from studies.lib.backbone import load_imagenet_weights

SIZE = (240, 320)
BATCH = 16
SCALE = (0.525, 1.5)
AT = "encoder.blocks.4"
CLASSES = 11
# 22 steps are an epoch.
BASE = FinetuneConfig(num_steps=36 * 22, lr=0.05, lr_scale={"encoder": 0.3}, eval_every=66, save_every=22, seed=0)
# The weights that this study was run with, before studies/own/generator.py found better ones.
EARLIER: dict[str, Any] = {"l1_weight": 10.0, "task_balance": 0.0, "critic_masks": "aspp"}
# Two phases: the first with a strong mode-seeking term (recognition 0.755 of the real one, diversity 0.55), the second with less of it
# and more of the task loss, which trades variety for features that the decoder recognises.
GENERATOR = (
    GeneratorConfig(
        **EARLIER,
        num_images=3_600,
        lr=5e-4,
        diversity_weight=0.3,
        task_weight=1.0,
        eval_images=1_200,
        snapshot_images=400,
        log_images=160,
        seed=0,
    ),
    GeneratorConfig(
        **EARLIER,
        num_images=2_400,
        lr=5e-4,
        diversity_weight=0.1,
        task_weight=2.0,
        eval_images=1_200,
        snapshot_images=400,
        log_images=160,
        seed=1,
    ),
)
FURTHER = FinetuneConfig(num_steps=3 * 22, lr=0.01, lr_scale={"encoder": 0.3}, save_every=22)
ARMS = ("control", "feataug")


class Study:
    """PSPNet on CamVid; another model is a subclass with other settings, ``model``, ``keep`` and ``trained``."""

    name = "PSPNet, tf_efficientnet_lite0 (ImageNet), output stride 16, head 128"
    at, size, batch, scale = AT, SIZE, BATCH, SCALE
    # Whole images in a batch, where something is measured.
    whole = BATCH
    base_config, generator_configs, further = BASE, GENERATOR, FURTHER

    def data(self) -> tuple[Any, Any, Any]:
        """Training images, augmented; some of them as they are; and those to measure on."""
        root, measured = self.args.data, eval_transforms(self.size)
        train = CamVid(root, "train", transforms=train_transforms(self.size, scale=self.scale))
        plain = CamVid(root, "train", transforms=measured)
        return train, plain, CamVid(root, self.args.eval_split, transforms=measured)

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.output = args, args.output
        self.train, self.plain, self.val = self.data()
        self.classes = self.val.classes
        self.val_loader = seeded_loader(self.val, self.whole, shuffle=False)
        self.seconds: dict[str, float] = {}
        self.resumed: list[str] = []

    @property
    def device(self) -> torch.device:
        """Where to measure: what ``--device`` comes to."""
        return torch.device("cuda" if self.args.device != "cpu" and torch.cuda.is_available() else "cpu")

    def training_loader(self, seed: int) -> Any:
        """Batches to train a base model or a generator on."""
        return seeded_loader(self.train, self.batch, seed=seed, num_workers=getattr(self.args, "workers", 0))

    def stage(self, name: str, run: Any) -> dict[str, Any]:
        """Run a stage, or read what it left: its figures are written only when it is through."""
        done = self.output / f"{name}.json"
        if not done.exists():
            began, resumed = time.monotonic(), any(self.output.glob(f"{name}*"))
            figures = run()
            # Of a stage that was stopped and went on, only the last part is counted.
            figures |= {"seconds": round(time.monotonic() - began, 1), "resumed": resumed}
            done.parent.mkdir(parents=True, exist_ok=True)
            done.with_suffix(".partial").write_text(json.dumps(figures, indent=1))
            done.with_suffix(".partial").replace(done)
        figures = json.loads(done.read_text())
        self.seconds[name] = figures.pop("seconds")
        if figures.pop("resumed"):
            self.resumed.append(name)
        return figures

    def base(self) -> dict[str, Any]:
        model = self.model()
        tuner = Finetuner(model, self.base_config, output=self.output / "base", device=self.args.device, progress="base")
        history = tuner.fit(self.training_loader(0), lambda trained: evaluate(self.predicted(trained), self.val_loader, len(self.classes)))
        self.keep(model)
        curve = [{"step": entry["progress"], "miou": entry["miou"]} for entry in history]
        return by_class(history[-1], self.classes) | {"curve": curve}

    def generator(self) -> dict[str, Any]:
        cut = self.cut()
        torch.manual_seed(0)
        generator = FeatureGenerator(len(self.classes), cut.spec)
        curve, before = [], 0
        for number, config in enumerate(self.generator_configs, start=1):
            folder, text = self.output / f"generator-{number}", f"generator {number}"
            trainer = GeneratorTrainer(generator, cut, config, output=folder, device=self.args.device, progress=text)
            history = trainer.fit(self.training_loader(number), self.val_loader)
            curve += [{"images": before + e["progress"], "ratio": e["ratio"], "diversity": e["diversity"]} for e in history]
            before += config.num_images
        generator.save_pretrained(self.output / "generator-model")
        seen = recognition(cut, generator, self.some_plain(), device=trainer.accelerator.device, window=self.size)
        return {
            self.args.eval_split: recognition_summary(history[-1], self.classes),
            "train": recognition_summary(seen, self.classes),
            "curve": curve,
        }

    def some_plain(self) -> Any:
        """Training images as they are, as many as there are to measure on, spread over the set."""
        every = max(1, round(len(self.plain) / len(self.val)))
        return seeded_loader(torch.utils.data.Subset(self.plain, range(0, len(self.plain), every)), self.whole, shuffle=False)

    def predicted(self, model: torch.nn.Module, **settings: Any) -> Inference:
        """The model's prediction by windows of the size of its training crops."""
        return Inference(model, window=self.size, **settings)

    def measured(self, model: torch.nn.Module) -> dict[str, Any]:
        """Figures by windows after a class bias that is fitted on training images; ``before_bias`` and ``class_bias`` besides."""
        predict, count = self.predicted(model), len(self.classes)
        bias = fit_class_bias(predict, self.some_plain(), count)
        before = evaluate(predict, self.val_loader, count)
        after = evaluate(self.predicted(model, class_bias=bias).to(device_of(model)), self.val_loader, count)
        return after | {"before_bias": before, "class_bias": bias.tolist()}

    def arm(self, name: str, seed: int) -> dict[str, Any]:
        config = FinetuneConfig.from_dict(self.further.to_dict() | {"seed": seed})
        mixed: dict[str, Any] = {}
        if name == "feataug":
            generator = FeatureGenerator.from_pretrained(self.output / "generator-model")
            masks = HardNegativeSampler(DatasetMasks(self.train), candidates=64, keep=16, refresh_every=22)
            mixed = {"generator": generator, "masks": masks}
        folder = self.output / f"seed-{seed}" / name
        base = self.trained()

        loader = seeded_loader(self.train, self.batch, seed=100 + seed)
        device, text = self.args.device, f"{name} {seed}"
        _, figures = train_arm(base, self.at, loader, self.measured, config, output=folder, device=device, progress=text, **mixed)
        as_trained = by_class(figures["as_trained"], self.classes)
        return by_class(figures, self.classes) | {"as_trained": as_trained, "before_bias": by_class(figures["before_bias"], self.classes)}

    def model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        model = PSPNet("tf_efficientnet_lite0", len(self.classes), output_stride=16, width=128)
        load_imagenet_weights(model.encoder)
        return model

    def keep(self, model: Any) -> None:
        model.save_pretrained(self.output / "base-model")

    def trained(self) -> torch.nn.Module:
        """The base model, as it was kept; what judges it goes by the size of its crops."""
        model = PSPNet.from_pretrained(self.output / "base-model")
        note_size(model, self.size)
        return model

    def cut(self) -> Any:
        return split(self.trained(), at=self.at)

    def run(self) -> dict[str, Any]:
        base = self.stage("base", self.base)
        curve = base.pop("curve")
        recognised = self.stage("generator", self.generator)
        seeds: list[dict[str, Any]] = []
        for seed in self.args.seeds:
            arms = {arm: self.stage(f"seed-{seed}/{arm}", lambda a=arm, s=seed: self.arm(a, s)) for arm in ARMS}
            seeds.append({"seed": seed, **arms})
            result = self.result(base, curve, recognised, seeds)
            # Written after every seed, so that nothing that is finished can be lost.
            self.args.result.parent.mkdir(parents=True, exist_ok=True)
            self.args.result.write_text(json.dumps(result, indent=1) + "\n")
        return result

    def result(
        self, base: dict[str, Any], curve: list[Any], recognised: dict[str, Any], seeds: list[dict[str, Any]]
    ) -> dict[str, Any]:
        arms = {name: [entry[name] for entry in seeds] for name in ARMS}
        raw = {name: [run["as_trained"] for run in runs] for name, runs in arms.items()}
        score = recognised[self.args.eval_split]
        return {
            "base": base,
            **{name: mean_figures(runs) for name, runs in arms.items()},
            "recognition": score | {"on_training_masks": recognised["train"], "curve": recognised["curve"]},
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
                "mixer": {"ratio": 0.3, "label_smoothing": 1e-4, "masks": "HardNegativeSampler(64, 16, 22)"},
                "device": self.args.device, "torch": torch.__version__, "threads": torch.get_num_threads(),
            },
        }  # fmt: skip


def arguments(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all studies on CamVid share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder, with train/ trainannot/ val/ valannot/")
    parser.add_argument("--eval-split", choices=("val", "test"), default="val")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=Path("runs") / name, help="checkpoints and finished stages")
    parser.add_argument("--result", type=Path, default=Path("studies/results") / f"{name}.json")
    return parser


def main() -> None:
    args = arguments(__doc__, "camvid").parse_args()
    keep_freed_memory()
    result = Study(args).run()
    print(table({name: result[name] for name in ("base", *ARMS)}))
    print(json.dumps(result["difference"], indent=1))


if __name__ == "__main__":
    main()
