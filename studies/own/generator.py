"""What makes a generator better? One change at a time, equal numbers of images, measured on masks that no generator saw.

    python -m studies.own.generator --data DIR --dataset camvid [--variants default class ...] [--images 1200]

Needs the base model that ``studies.own.compare --until base`` leaves. For every variant: recognition on validation masks (overall and by
class), the diversity ratio, the share of synthetic pixels that the filter rejects, and the distance of synthetic from real features.
Figures go to ``studies/results/generator-camvid.json`` after every variant.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from feataug import FeatureGenerator, GeneratorConfig, GeneratorTrainer, recognition
from feataug.core.modes import eval_mode
from feataug.io.atomic import write_json
from feataug.io.results import recognition_summary
from feataug.training.device import keep_freed_memory
from studies.lib.comparison import Comparison
from studies.lib.setups import arguments, parse
from studies.lib.stage_settings import read_result
from studies.own.camvid import EARLIER

# The settings that every variant starts from. The package's defaults have since become the best of the variants.
START = EARLIER | {"task_weight": 1.0, "diversity_weight": 0.3, "ema_images": 400}
# (settings of the generator, settings of its training). The committed results hold three more variants, whose code was removed because they
# were worse: "joint" gave every class its own function of z in every norm, and the segmenting critic was OASIS's with K + 1 classes.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the paper's losses": ({"modulation": "none"}, {"task_weight": 0.0, "diversity_weight": 0.0, "lr": 2e-4}),
    "latent": ({"modulation": "latent"}, {}),
    "class": ({"modulation": "class"}, {}),
    "latent, no task": ({"modulation": "latent"}, {"task_weight": 0.0}),
    "latent, balanced task": ({"modulation": "latent"}, {"task_balance": 0.5}),
    "latent, balanced task 4": ({"modulation": "latent"}, {"task_balance": 0.5, "task_weight": 4.0}),
    "latent, balanced task 4, l1 3": ({"modulation": "latent"}, {"task_balance": 0.5, "task_weight": 4.0, "l1_weight": 3.0}),
    "latent, balanced task 4, critics on shares": (
        {"modulation": "latent"},
        {"task_balance": 0.5, "task_weight": 4.0, "critic_masks": "shares"},
    ),
    "latent, balanced task 4, no gan": ({"modulation": "latent"}, {"task_balance": 0.5, "task_weight": 4.0, "gan_weight": 0.0}),
    "latent, balanced task 4, less diversity": (
        {"modulation": "latent"},
        {"task_balance": 0.5, "task_weight": 4.0, "diversity_weight": 0.1},
    ),
}


@torch.no_grad()
def distances(cut: Any, generator: FeatureGenerator, loader: Any) -> dict[str, float]:
    """Distances of synthetic from real features: standardised, with cells as samples, averaged over levels.

    ``frechet`` is that of two normal distributions, per channel (Heusel et al., 2017, without Inception); ``means`` and ``spread`` are the
    mean absolute difference of the channels' means, and the ratio of their standard deviations.
    """
    rng = torch.Generator().manual_seed(0)
    sums: list[list[Any]] = [[[0, 0.0, 0.0] for _ in range(2)] for _ in cut.spec]
    with eval_mode(cut.model), eval_mode(generator):
        device = generator.fitted.device
        for images, masks in loader:
            pairs = (cut.encode(images.to(device)), generator(masks.to(device), generator.draw_z(masks, rng)))
            for kind, features in enumerate(pairs):
                for level, x in enumerate(generator.standardize(features)):
                    flat = x.transpose(0, 1).flatten(1).double()
                    total = sums[level][kind]
                    total[0] += flat.shape[1]
                    total[1] = total[1] + flat.sum(1)
                    total[2] = total[2] + flat @ flat.T
    results: list[Tensor] = []
    for level in sums:
        (m1, c1), (m2, c2) = (_moments(*total) for total in level)
        # tr sqrt(C1 C2) by the eigenvalues of sqrt(C1) C2 sqrt(C1), which is symmetric.
        values, vectors = torch.linalg.eigh(c1)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        cross = torch.linalg.eigvalsh(root @ c2 @ root).clamp(min=0).sqrt().sum()
        frechet = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * cross
        spread = (c2.diagonal().clamp(min=0).sqrt() / c1.diagonal().clamp(min=1e-12).sqrt()).mean()
        results.append(torch.stack([frechet / len(m1), (m1 - m2).abs().mean(), spread]))
    mean = torch.stack(results).mean(0).tolist()
    return dict(zip(("frechet", "means", "spread"), mean, strict=True))


def _moments(count: int, total: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    mean = total / count
    return mean, square / count - mean[:, None] * mean


class Ablation(Comparison):
    """One generator for each variant."""

    def run_variant(self, name: str) -> dict[str, Any]:
        """A variant's figures; its generator is trained where it has not been yet."""
        return self.stage(self.key(name), lambda: self.train_variant(name), self.variant_settings() | {"variant": VARIANTS[name]})

    def variant_settings(self) -> dict[str, Any]:
        """The settings that all variants share."""
        return self.base_settings() | {"at": self.at, "start": START, "images": self.args.images}

    @staticmethod
    def key(name: str) -> str:
        """The stage of a variant."""
        return f"variants/{name.replace(' ', '-')}"

    def train_variant(self, name: str) -> dict[str, Any]:
        """Train a variant's generator and measure it."""
        of_generator, of_training = VARIANTS[name]
        cut = self.cut()
        torch.manual_seed(0)
        generator = FeatureGenerator(len(self.classes), cut.spec, "bicyclegan", **of_generator)
        config = GeneratorConfig.bicyclegan(
            **START | {"num_images": self.args.images, "snapshot_images": 600, "log_images": 240, "seed": 0} | of_training
        )
        folder = self.output / "variants" / name.replace(" ", "-")
        trainer = GeneratorTrainer(generator, cut, config, output=folder, device=self.args.device, progress=name)
        trainer.fit(self.training_loader(1))
        scores = recognition(cut, generator, self.val_loader, device=self.device, window=self.size)
        summary = recognition_summary(scores, self.classes)
        return summary | distances(cut, generator, self.val_loader) | {"rejected": self.rejected_share(generator)}

    def rejected_share(self, generator: FeatureGenerator) -> float:
        """The share of synthetic pixels on validation masks that the filter rejects."""
        pixel_filter = self.pixel_filter(1.25)
        rng, shares = torch.Generator().manual_seed(1), []
        with torch.no_grad():
            for _, masks in self.val_loader:
                masks = masks.to(self.device)
                pixel_filter(generator(masks, generator.draw_z(masks, rng)), masks)
                shares.append(float(pixel_filter.rejected))
        return sum(shares) / len(shares)


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``argv``."""
    parser = arguments(__doc__)
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--images", type=int, default=1_200, help="number of images that each generator is trained on")
    return parse(parser, "generator", argv)


def main() -> None:
    keep_freed_memory()
    run(Ablation(options()))


def run(study: Ablation) -> None:
    """Every chosen variant; the result is written after each."""
    args = study.args
    for name in args.variants:
        figures = study.run_variant(name)
        result = read_result(args.result, study.variant_settings()) or {"images": args.images, "variants": {}}
        result["variants"][name] = figures | {"settings": VARIANTS[name], "seconds": study.seconds[study.key(name)]}
        write_json(args.result, result | {"settings": study.variant_settings()})
        print(
            f"{name:<28}"
            + "".join(f" {key} {figures[key]:.3f}" for key in ("ratio", "diversity", "rejected", "frechet", "spread")),
            flush=True,
        )


if __name__ == "__main__":
    main()
