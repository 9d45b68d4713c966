"""How fast does a flow learn? Its loss on held-out images, by learning rate and length of training.

    python -m studies.own.learning_rates --data DIR --dataset camvid --half [--images 4800 16000] [--rates 0.004 0.008 0.016]

Crops are encoded once, so that a run takes a minute for every 5,000 images at half resolution; no run reads them more than once, but for a last
batch. The flows are not distilled.
Figures go to ``studies/results/learning-rates-DATASET.json`` after every run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from feataug import FeatureBank, FeatureGenerator, GeneratorTrainer
from feataug.data import seeded_loader
from feataug.io.atomic import write_json
from feataug.training.device import keep_freed_memory
from studies.lib.setups import arguments, parse
from studies.own.protocol import Protocol


class LearningRates(Protocol):
    """One base model, one set of encoded crops, and a flow for each rate and length."""

    def bank(self) -> FeatureBank:
        """Encoded training crops: as many as the longest training sees."""
        crops = seeded_loader(self.train, self.batch, seed=1)
        return FeatureBank.write(self.output / "bank", self.cut(), crops, max(self.args.images), device=self.device)

    def flow(self, rate: float, images: int) -> dict[str, Any]:
        """Train a flow and measure it."""
        cut, config = self.cut(), replace(self.generator_configs[0], lr=rate, num_images=images, distill_share=0.0)
        torch.manual_seed(0)
        generator = FeatureGenerator(len(self.classes), cut.spec)
        folder = self.output / f"flow-{rate:g}-{images}"
        trainer = GeneratorTrainer(generator, cut, config, output=folder, device=self.args.device, progress=f"{rate:g}, {images:,}")
        found = trainer.fit(seeded_loader(self.bank(), self.batch, seed=1), self.val_windows())[-1]
        return {"lr": rate, "images": images} | {name: found[name] for name in ("held_out", "ratio", "diversity")}

    def run(self) -> list[dict[str, Any]]:
        """Every rate and length, the shortest first; the result is written after each."""
        self.run_base()
        shared = self.generator_configs[0].to_dict() | {"distill_share": 0.0}
        # Every run has its own.
        del shared["lr"], shared["num_images"]
        about = {"data": self.args.dataset, "half": self.args.half, "model": self.name, "at": self.at, "batch": self.batch, "generator": shared}
        runs: list[dict[str, Any]] = []
        for images in sorted(self.args.images):
            for rate in self.args.rates:
                settings = self.generator_settings() | {"lr": rate, "images": images, "crops": max(self.args.images)}
                runs.append(self.stage(f"flow-{rate:g}-{images}", lambda r=rate, n=images: self.flow(r, n), settings))
                write_json(self.args.result, {"runs": runs, "settings": about})
        return runs


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``argv``."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[4_800, 16_000], help="lengths of training")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.004, 0.008, 0.016], help="learning rates")
    parser.set_defaults(steps=None)
    return parse(parser, "learning-rates", argv)


def main() -> None:
    keep_freed_memory()
    for run in LearningRates(options()).run():
        print(run)


if __name__ == "__main__":
    main()
