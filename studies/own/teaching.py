"""What do features teach? Fresh decoders on generated features alone, on class Gaussians and on real features.

    python -m studies.own.teaching --data DIR --dataset camvid --half [--model fpn] [--seeds 0 1] [--decoder-steps 400] [--generators FOLDER ...]

The encoder is the base model's, frozen. The layers after the cut start from ImageNet weights where there are any, the heads from random
ones; 400 steps of 12 training crops. Decoders are measured on validation images by windows of the crops' size, before and after a class
bias that is fitted on every sixth training image. Sources of features: real images; the generator; class
Gaussians; with ``--bicyclegan`` a BicycleGAN. Further generators (folders of ``save_pretrained``) are compared on the same seeds. The result
also holds the generator's ``recognition`` and ``feature_quality``. Figures go to ``studies/results/teaching-DATASET.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feataug import FeatureGenerator, FinetuneConfig, feature_quality, match_covariance, split, teaching_score
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import architecture, describe_masks
from feataug.data import seeded_loader
from feataug.evaluation import ClassGaussians
from feataug.evaluation.teaching.decoder_training import first_batches
from feataug.evaluation.teaching.teaching_score import SOURCES
from feataug.io.atomic import write_json
from feataug.models import PSPNet
from feataug.reporting.tables import teaching_table
from feataug.training.device import keep_freed_memory, make_accelerator
from feataug.training.flow_matching import FlowObjective
from studies.lib.backbone import load_imagenet_weights, phase_dilations
from studies.lib.feature_arms import FIT_BATCHES
from studies.lib.kept_alternatives import alternatives, frequency_weights
from studies.lib.kept_features import HalfAndHalf, KeptFeatures
from studies.lib.other_models import ViTSegmenter, fpn
from studies.lib.setups import arguments, parse
from studies.own.protocol import FPN, Protocol, ViT

STEPS = FinetuneConfig(num_steps=400, lr=0.05, lr_scale={"encoder": 0.3}, save_every=50)
SEEDS = [0, 1]


class GeneratorSource(nn.Module):
    """A generator's samples as a source of features, half of them for masks of another source if there is one."""

    def __init__(self, folder: Path, source: Any = None) -> None:
        super().__init__()
        self.generator, self.source = FeatureGenerator.from_pretrained(folder), source

    def forward(self, masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> Any:
        """Features of the masks, and the masks."""
        if self.source is not None:
            masks = torch.cat([masks[::2], self.source.draw(len(masks) // 2, rng).to(masks.device)])
        return tuple(self.generator(masks, self.generator.draw_z(masks, rng))), masks

    def settings(self) -> dict[str, Any]:
        """Identify this source. The same weights may sample in another number of steps."""
        about = {"generator": fingerprint(self.generator), "architecture": architecture(self.generator)}
        return about | {"masks": describe_masks(self.source) if self.source is not None else None}


def fresh_pspnet(classes: int, cpu: bool, seed: int) -> nn.Module:
    """The studies' PSPNet with ImageNet weights and heads drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PSPNet("tf_efficientnet_lite0", classes, output_stride=16, width=128)
    load_imagenet_weights(model.encoder)
    if cpu:
        phase_dilations(model)
    return model


def fresh_fpn(classes: int, seed: int) -> nn.Module:
    """The studies' FPN with ImageNet weights and a decoder drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        return fpn(classes, seed)


def fresh_vit(classes: int, size: tuple[int, int], seed: int) -> nn.Module:
    """The studies' ViT, all weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTSegmenter(classes, size)


class Teaching(Protocol):
    """All sources of features on one base model."""

    def __init__(self, args: argparse.Namespace, number: int = 0) -> None:
        super().__init__(args, number)
        if args.distill_share is not None:
            self.generator_configs = tuple(replace(config, distill_share=args.distill_share) for config in self.generator_configs)
        if args.colored_noise:
            self.generator_configs = tuple(replace(config, colored_noise=True) for config in self.generator_configs)
        if args.generator_images and not args.quick:
            self.generator_configs = tuple(replace(config, num_images=args.generator_images) for config in self.generator_configs)

    def cut(self) -> Any:
        """The trained base model, cut. The example is a crop: a pyramid's levels need one of a fitting size."""
        return split(self.load_base(), at=self.at, example=torch.zeros(1, 3, *self.size))

    def fresh(self) -> Callable[[int], nn.Module]:
        """Makes the model before training, with heads drawn by a seed. It holds nothing of the study: the score's settings describe it."""
        return partial(fresh_pspnet, len(self.classes), self.args.device != "cuda")

    def decoder_loader(self, seed: int) -> Any:
        """Training crops for a fresh decoder."""
        return seeded_loader(self.train, self.batch, seed=300 + seed)

    def scores(self) -> dict[str, Any]:
        args = self.args
        config = replace(STEPS, num_steps=10 if args.quick else args.decoder_steps)
        generators = ({"bicyclegan": self.output / "bicyclegan-model"} if args.bicyclegan else {}) | self.given_generators()
        others: dict[str, Callable[[], nn.Module]] = {name: partial(GeneratorSource, folder) for name, folder in generators.items()}
        others |= self.kept() if args.kept else {}
        others |= {"generator, matched": lambda: GeneratorSource(self.matched())} if args.matched else {}
        others |= {f"generator, {name} masks": lambda name=name: GeneratorSource(self.own(), self.masks(name)) for name in args.masks}  # type: ignore[misc]
        self.check_only({*SOURCES, *others})
        return teaching_score(
            self.load_base(), self.at, self.load_generator() if self.wanted("generator") else None,
            self.decoder_loader, self.val_loader, config, fresh=self.fresh(), seeds=args.seeds,
            window=self.size, bias_loader=self.bias_loader(), classes=self.classes, example=torch.zeros(1, 3, *self.size),
            sources=[name for name in SOURCES if self.wanted(name)], num_classes=len(self.classes),
            others={name: make() for name, make in others.items() if self.wanted(name)},
            output=self.output / ("teaching" if args.decoder_steps == STEPS.num_steps else f"teaching-{args.decoder_steps}"), device=args.device,
        )  # fmt: skip

    def own(self) -> Path:
        """The folder of the study's own generator."""
        return Path(self.output / "generator-model")

    def matched(self) -> Path:
        """The folder of the study's own generator with matched covariances."""
        folder = Path(self.output / "generator-matched-model")
        if not folder.exists():
            generator = self.load_generator()
            match_covariance(generator, self.cut(), seeded_loader(self.train, self.batch, seed=500), device=self.device)
            generator.save_pretrained(folder)
        return folder

    def given_generators(self) -> dict[str, Path]:
        """The folders of ``--generators``, by name."""
        return {folder.name.removesuffix("-model"): folder for folder in self.args.generators}

    def wanted(self, name: str) -> bool:
        """Whether a source is measured."""
        return not self.args.only or name in ("real", *self.args.only)

    def check_only(self, names: Iterable[str]) -> None:
        """End with an error if ``--only`` names a source that there is not."""
        if unknown := [name for name in self.args.only if name not in names]:
            raise SystemExit(f"--only: no such sources: {', '.join(unknown)}. There are {', '.join(sorted(names))}.")

    def kept(self) -> dict[str, Callable[[], nn.Module]]:
        """Features of a few crops of each image, encoded once: alone, mirrored, and with the generator or class Gaussians beside them."""
        cut, crops = self.cut(), chain.from_iterable(seeded_loader(self.train, self.batch, seed=500 + view) for view in range(self.args.kept))
        kept = KeptFeatures.encode(cut, crops)
        cut.remove()
        self.kept_bytes = kept.bytes_in_float16

        def beside(folder: Path) -> nn.Module:
            return HalfAndHalf(kept, GeneratorSource(folder))

        def beside_gaussians() -> nn.Module:
            cut, crops = self.cut(), seeded_loader(self.train, self.batch, seed=501)
            fitted = ClassGaussians.fit(cut, first_batches(crops, FIT_BATCHES), len(self.classes))
            cut.remove()
            return HalfAndHalf(kept, fitted)

        found: dict[str, Callable[[], nn.Module]] = {
            "kept": lambda: kept,
            "kept and generator": partial(beside, self.own()),
            "kept and gaussians": beside_gaussians,
            "kept, mirrored": lambda: KeptFeatures(kept.features, kept.masks, flipped=True),
        }
        found |= {f"kept and {name}": partial(beside, folder) for name, folder in self.given_generators().items()}
        if self.args.alternatives:
            others = alternatives(kept, frequency_weights(kept.masks, len(self.classes)))
            found |= {name: partial(others.__getitem__, name) for name in others}
        return found

    def held_out(self) -> dict[str, float]:
        """The loss of each flow on windows of validation images, with the same noise; of a distilled one, as its training measured it."""
        cut, config, found = self.cut(), self.generator_configs[0], {}
        for name, folder in ({"generator": self.own()} | self.given_generators()).items():
            generator = FeatureGenerator.from_pretrained(folder).eval()
            if generator.preset != "flow":
                continue
            if generator.distilled_steps is None:
                objective = FlowObjective(generator, cut, config)
                objective.prepare(make_accelerator(self.args.device, "no"))
                found[name] = objective.held_out(generator, self.val_windows())
            elif name == "generator":
                # It has no velocities any more.
                found[name] = self.run_generator()["curve"][-1]["held_out"]
        return found

    def quality(self) -> dict[str, Any]:
        """Distances, precision and recall in feature space, and the memory test: training crops against windows of validation images."""
        crops = seeded_loader(self.train, self.batch, seed=400)
        return feature_quality(self.cut(), self.load_generator(), crops, self.val_windows(), device=self.device)


class TeachingFPN(FPN, Teaching):
    at = "encoder"

    def fresh(self) -> Callable[[int], nn.Module]:
        return partial(fresh_fpn, len(self.classes))


class TeachingViT(ViT, Teaching):
    at = "vit.blocks.3"

    def fresh(self) -> Callable[[int], nn.Module]:
        return partial(fresh_vit, len(self.classes), self.size)


MODELS = {"pspnet": Teaching, "fpn": TeachingFPN, "vit": TeachingViT}


def options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.add_argument("--model", choices=tuple(MODELS), default="pspnet")
    parser.add_argument("--steps", type=int, help="steps of the base model, if other than in the other studies")
    parser.add_argument("--decoder-steps", type=int, default=STEPS.num_steps, help="steps of each fresh decoder")
    parser.add_argument("--generator-images", type=int, help="images that the flow is trained on, if other than in the other studies")
    parser.add_argument("--distill-share", type=float, help="the last part of the flow's training, if other than the default")
    parser.add_argument(
        "--colored-noise", action="store_true", help="the flow starts from noise with the features' correlations, as by default in the library"
    )
    parser.add_argument("--matched", action="store_true", help="also measure the flow after match_covariance")
    parser.add_argument("--bicyclegan", action="store_true", help="also measure the BicycleGAN")
    parser.add_argument(
        "--masks", nargs="+", default=[], choices=("balanced", "composed"), help="also measure the generator with half of its masks from there"
    )
    parser.add_argument(
        "--kept", type=int, default=0, help="also measure features of so many crops of each image that were encoded once, and the same with others"
    )
    parser.add_argument("--alternatives", action="store_true", help="with --kept: also CutMix, ClassMix, noise on them, and other losses")
    parser.add_argument("--only", nargs="+", default=[], metavar="SOURCE", help="measure these sources alone, and real features")
    parser.add_argument("--generators", nargs="+", type=Path, default=[], help="folders of further generators, each named after its folder")
    parser.set_defaults(seeds=SEEDS)
    args = parse(parser, "teaching", None, _ending)
    if args.alternatives and not args.kept:
        parser.error("--alternatives needs features to apply them to: --kept 1")
    return args


def _ending(args: argparse.Namespace) -> str:
    """Other models, other lengths, the alternatives, colored noise and matched covariances have result files of their own."""
    model = f"-{args.model}" if args.model != "pspnet" else ""
    steps = f"-{args.decoder_steps}" if args.decoder_steps != STEPS.num_steps else ""
    others = {"alternatives": args.alternatives, "colored": args.colored_noise, "matched": args.matched}
    return model + steps + "".join(f"-{name}" for name, there in others.items() if there)


def main() -> None:
    args = options(arguments(__doc__))
    keep_freed_memory()
    study = MODELS[args.model](args)
    study.run_base()
    found = {}
    if not args.only or any("generator" in name for name in args.only):
        found["generator"] = study.run_generator()
        found["quality"] = study.stage("quality", study.quality, study.generator_settings())
        found["held_out"] = study.held_out()
    if args.bicyclegan:
        found["bicyclegan"] = study.run_bicyclegan()
    result = study.scores()
    settings = {
        "data": args.dataset, "half": args.half, "eval_split": args.eval_split, "size": study.size, "batch": study.batch,
        "images": len(study.train), "model": study.name, "at": study.at, "base": study.base_config.to_dict(),
        "steps": result["settings"]["config"], "seeds": args.seeds,
        "generator": [config.to_dict() for config in study.generator_configs] if "generator" in found else [],
        "seconds": study.seconds, "seconds_of_the_last_part_only": study.resumed, "device": args.device, "torch": torch.__version__,
    }  # fmt: skip
    if args.kept:
        settings["kept"] = {"views": args.kept, "bytes": study.kept_bytes}
    if args.bicyclegan:
        settings["bicyclegan"] = [config.to_dict() for config in study.bicyclegan_configs]
    write_json(args.result, {"teaching": result} | found | {"settings": settings})
    print(teaching_table(result))
    print(f"written: {args.result}")


if __name__ == "__main__":
    main()
