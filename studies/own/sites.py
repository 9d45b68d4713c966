"""Two sites that may not share images: a decoder from generators and masks of both, against each site's own and against the real images of both.

    python -m studies.own.sites --camvid DIR --idd DIR [--seeds 0 1 2] [--output runs/sites]

CamVid and IDD-Lite at half their resolution, in IDD-Lite's seven classes. Both use one frozen encoder with ImageNet weights, up to
``encoder.blocks.4``. Each site trains a generator on its own features, and hands out the generator and its masks. Fresh decoders are then trained
on features of: each site's real images; both sites' real images (the ceiling); both generators; class Gaussians of both sites, fitted at each site.
They are measured on validation images of both sites, by windows of the crops' size and after a class bias that each site fits on every sixth of its
training images, for all arms alike. Figures go to ``studies/results/sites.json`` after every seed; finished stages are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from feataug import FeatureGenerator, FinetuneConfig, GeneratorConfig, GeneratorTrainer, Inference, evaluate, fit_class_bias, split
from feataug.core.latents import draw_latents
from feataug.data import CamVid, IDDLite, eval_transforms, seeded_loader, train_transforms
from feataug.data.idd import CLASSES
from feataug.evaluation import ClassGaussians
from feataug.evaluation.paired_differences import differences, mean_figures
from feataug.evaluation.teaching.decoder_training import Source, first_batches, teach
from feataug.evaluation.teaching.fresh_decoder import fresh_decoder
from feataug.io.atomic import write_json
from feataug.io.results import by_class
from feataug.training.device import keep_freed_memory
from studies.lib.feature_arms import FIT_BATCHES
from studies.lib.stages import Stages
from studies.own.teaching import fresh_pspnet

AT, SIZE, BATCH = "encoder.blocks.4", (112, 144), 12
# CamVid's classes as IDD-Lite's: sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist.
AS_IDD = (6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 2)
SITES = ("camvid", "idd")
ARMS = ("camvid alone", "idd alone", "real images of both", "generators of both", "class Gaussians of both")
STEPS = FinetuneConfig(num_steps=400, lr=0.05, lr_scale={"encoder": 0.3}, save_every=0)
GENERATOR = GeneratorConfig(num_images=24_000, snapshot_images=1_200, log_images=240, colored_noise=False, seed=0)
EVERY = 6


class Relabelled(Dataset):
    """A data set with other numbers for its classes; void stays."""

    def __init__(self, dataset: Any, numbers: tuple[int, ...], classes: Any) -> None:
        self.dataset, self.classes = dataset, classes
        self.table = torch.full((256,), 255)
        self.table[: len(numbers)] = torch.tensor(numbers)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.dataset[index]
        return image, self.table[mask]


class Sites(Stages):
    """Both data sets, their generators, and the arms."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args.output)
        self.args = args
        self.classes = CLASSES
        self.train, self.plain, self.val = {}, {}, {}
        for site, reader, rows, scale in (("camvid", CamVid, (180, 240), (1.0, 2.5)), ("idd", IDDLite, (113, 160), (0.75, 1.75))):
            root = getattr(args, site)
            parts = {
                "train": reader(root, "train", transforms=train_transforms(SIZE, scale=scale)),
                "plain": reader(root, "train", transforms=eval_transforms(rows)),
                "val": reader(root, "val", transforms=eval_transforms(rows)),
            }
            for name, dataset in parts.items():
                getattr(self, name)[site] = Relabelled(dataset, AS_IDD, self.classes) if site == "camvid" else dataset
        if args.quick:
            self.plain = {site: Subset(data, range(0, len(data), len(data) // 24)) for site, data in self.plain.items()}
            self.val = {site: Subset(data, range(12)) for site, data in self.val.items()}

    def fresh(self, seed: int) -> torch.nn.Module:
        """The studies' PSPNet with ImageNet weights and heads drawn by the seed."""
        return fresh_pspnet(len(self.classes), self.args.device != "cuda", seed)

    def cut(self) -> Any:
        """The frozen encoder that both sites have."""
        return split(self.fresh(0).eval().requires_grad_(False), AT)

    def generator(self, site: str) -> FeatureGenerator:
        """A site's generator; it is trained where it has not been yet."""
        folder, config = self.output / f"{site}-generator", GENERATOR
        if self.args.quick:
            config = GeneratorConfig(num_images=120, log_images=60, seed=0)

        def run() -> dict[str, Any]:
            cut = self.cut()
            torch.manual_seed(0)
            generator = FeatureGenerator(len(self.classes), cut.spec)
            trainer = GeneratorTrainer(generator, cut, config, output=self.output / f"{site}-training", device=self.args.device, progress=site)
            # Nothing is measured here: no decoder has been trained yet that could recognise features.
            trainer.fit(seeded_loader(self.train[site], BATCH, seed=1))
            generator.save_pretrained(folder)
            return {}

        self.stage(f"{site}-generator", run, {"config": config.to_dict(), "images": len(self.train[site])})
        return FeatureGenerator.from_pretrained(folder).eval()

    def loader(self, seed: int) -> Any:
        """Batches of 12 crops of CamVid, then 12 of IDD-Lite; shuffled loaders drop incomplete batches."""
        return Both(*(seeded_loader(self.train[site], BATCH, seed=300 + seed) for site in SITES))

    def source(self, arm: str) -> Source:
        """Which features and masks of a batch of both sites an arm is trained on: 12 in all."""
        first, second = slice(0, BATCH // 2), slice(BATCH, BATCH + BATCH // 2)

        def rows(parts: Any, which: Any) -> tuple[Tensor, ...]:
            return tuple(torch.cat([level[part] for part in which]) for level in parts)

        if arm in ("camvid alone", "idd alone"):
            own = slice(0, BATCH) if arm.startswith("camvid") else slice(BATCH, 2 * BATCH)
            return lambda masks, real, rng: (rows(real, [own]), masks[own])
        if arm == "real images of both":
            return lambda masks, real, rng: (rows(real, [first, second]), rows([masks], [first, second])[0])
        made: list[Callable[[Tensor, Any, torch.Generator], tuple[Tensor, ...]]] = []
        for site in SITES:
            if arm.startswith("generators"):
                generator = self.generator(site)
                made.append(lambda masks, real, rng, g=generator: g(masks, draw_latents(g, masks, rng)))  # type: ignore[misc]
            else:
                batches = first_batches(seeded_loader(self.train[site], BATCH, seed=300), FIT_BATCHES)
                made.append(ClassGaussians.fit(self.cut(), batches, len(self.classes)))

        def mixed(masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> Any:
            parts = [make(masks[which], rows(real, [which]), rng) for make, which in zip(made, (first, second), strict=True)]
            return tuple(torch.cat(level) for level in zip(*parts, strict=True)), torch.cat([masks[first], masks[second]])

        return mixed

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train and measure one arm."""
        config = FinetuneConfig.from_dict(STEPS.to_dict() | {"seed": seed} | ({"num_steps": 10} if self.args.quick else {}))

        def measure() -> dict[str, Any]:
            cut = fresh_decoder(self.fresh(0), AT, seed, self.fresh)
            trained = teach(
                cut, self.source(arm), lambda: self.loader(seed), config, len(self.classes), name=arm, device=self.args.device,
                progress=f"{arm} {seed}",
            )  # fmt: skip
            found = {}
            for site in SITES:
                windows = Inference(trained, window=SIZE)
                few = seeded_loader(Subset(self.plain[site], range(0, len(self.plain[site]), 1 if self.args.quick else EVERY)), BATCH, shuffle=False)
                bias = fit_class_bias(windows, few, len(self.classes), device=self.args.device)
                val = seeded_loader(self.val[site], BATCH, shuffle=False)
                for when, predict in (("before", windows), ("after", Inference(trained, window=SIZE, class_bias=bias))):
                    figures = evaluate(predict, val, len(self.classes), device=self.args.device, crop_size=None)
                    found.setdefault(when, {})[site] = by_class(figures, self.classes)
            return found

        return self.stage(f"seed-{seed}/{arm}", measure, {"config": config.to_dict(), "arm": arm, "classes": list(self.classes)})


class Both:
    """Batches of two seeded loaders, one after the other; a pass is as long as the shorter one."""

    def __init__(self, first: Any, second: Any) -> None:
        self.loaders = (first, second)

    @property
    def batch_sampler(self) -> Any:
        """What trainers tell the epoch, here for both loaders."""
        return SimpleNamespace(set_epoch=lambda epoch: [loader.batch_sampler.set_epoch(epoch) for loader in self.loaders])

    def __len__(self) -> int:
        return min(map(len, self.loaders))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (images, masks), (other_images, other_masks) in zip(*self.loaders, strict=False):
            yield torch.cat([images, other_images]), torch.cat([masks, other_masks])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of each arm on each site, and paired differences of the generators' arm from every other, after the class bias."""
    means = {arm: {site: mean_figures([run[arm]["after"][site] for run in runs]) for site in SITES} for arm in ARMS}
    ours = "generators of both"
    gaps = {
        arm: {site: differences([run[arm]["after"][site] for run in runs], [run[ours]["after"][site] for run in runs]) for site in SITES}
        for arm in ARMS
        if arm != ours
    }
    return {"arms": means, f"{ours} minus": gaps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True, help="CamVid's folder")
    parser.add_argument("--idd", type=Path, required=True, help="IDD-Lite's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="check in minutes that everything runs; the figures mean nothing")
    parser.add_argument("--output", type=Path, help="folder of finished stages; runs/sites by default, runs/quick-sites with --quick")
    parser.add_argument("--result", type=Path, help="the JSON file of figures; studies/results/sites.json by default")
    args = parser.parse_args()
    args.output = args.output or Path("runs") / ("quick-sites" if args.quick else "sites")
    args.result = args.result or (args.output if args.quick else Path("studies/results")) / "sites.json"
    keep_freed_memory()
    study, runs = Sites(args), []
    for seed in args.seeds:
        runs.append({arm: study.run(arm, seed) for arm in ARMS})
        settings = {"steps": STEPS.to_dict(), "generator": GENERATOR.to_dict(), "size": SIZE, "batch": BATCH, "torch": torch.__version__}
        found = summary(runs) | {"seeds": args.seeds[: len(runs)], "runs": runs, "seconds": study.seconds, "settings": settings}
        write_json(args.result, found)
    for arm, sites in found["arms"].items():
        print(f"{arm}: " + ", ".join(f"{site} mIoU {figures['miou']:.1f}" for site, figures in sites.items()))
    print(f"written: {args.result}")


if __name__ == "__main__":
    main()
