"""How much depends on how a model is predicted: whole images or windows of the crops' size, with a class bias or without.

    python -m studies.own.protocol --data DIR --dataset camvid|idd [--half] [--model pspnet|fpn|vit] [--bases 0 1] [--steps 1500] [--larger]

One base model for each of ``--bases``, trained on crops as in all studies. It is measured on validation images, whole and by windows, before and
after a class bias that is fitted on every sixth training image; and on those training images, by which ``fit_inference`` decides.
``--larger`` also trains the first base 200 steps further, on the same crops and on crops of whole images' size: the gain of changing the
training instead. ``fpn`` is segmentation_models_pytorch's on tf_efficientnet_lite0, ``vit`` a small ViT from random weights; both have crops
of about the same size. Figures go to ``studies/results/protocol-DATASET.json`` after every base.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from feataug import FinetuneConfig, Finetuner, Inference, evaluate, fit_class_bias
from feataug.core.measures import TITLES
from feataug.core.windows import tiles
from feataug.data import seeded_loader, train_transforms
from feataug.io.atomic import write_json
from feataug.io.results import by_class
from feataug.training.device import keep_freed_memory
from studies.lib.comparison import Comparison
from studies.lib.other_models import FPN_NAME, VIT_NAME, ViTSegmenter, WeightsFile, fpn
from studies.lib.setups import arguments, parse

EVERY = 6
LARGER = FinetuneConfig(num_steps=200, lr=0.01, lr_scale={"encoder": 0.3, "vit": 0.3}, save_every=50)


class Protocol(Comparison):
    """Base models of one data set, each with a folder of its own."""

    divisor = 1

    def __init__(self, args: argparse.Namespace, number: int = 0) -> None:
        super().__init__(args)
        self.number = number
        if args.steps is not None and not args.quick:
            self.base_config = replace(self.base_config, num_steps=args.steps, eval_every=args.steps)
        if number:
            # Base 0 is where the other studies have it.
            self.output = self.output / f"base-{number}"
            self.base_config = replace(self.base_config, seed=number)

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return super().model()

    def training_loader(self, seed: int) -> Any:
        return super().training_loader(seed + 1000 * self.number)

    def bias_loader(self) -> Any:
        """The images that class biases are fitted on: every sixth training image, without augmentation."""
        return seeded_loader(torch.utils.data.Subset(self.plain, range(0, len(self.plain), EVERY)), self.whole, shuffle=False)

    def predictions(self, model: nn.Module, size: Sequence[int]) -> dict[str, Inference]:
        """Both ways to predict."""
        return {"whole": Inference(model, divisor=self.divisor), "windows": Inference(model, window=size)}

    def measure_ways(self, model: nn.Module, size: Sequence[int] | None = None, ways: Any = None) -> dict[str, Any]:
        """Figures on validation and training images, before and after the class bias, for each way to predict."""
        count, training = len(self.classes), list(self.bias_loader())
        model.to(self.device, memory_format=torch.channels_last)
        figures: dict[str, Any] = {}
        for name, predict in (ways or self.predictions)(model, size or self.size).items():
            bias = fit_class_bias(predict, training, count, device=self.device)
            biased = Inference(model, **predict.settings() | {"class_bias": bias})
            figures[name] = by_class(evaluate(predict, self.val_loader, count, device=self.device), self.classes)
            figures[f"{name}, bias"] = by_class(evaluate(biased, self.val_loader, count, device=self.device), self.classes)
            figures[f"{name}, bias"]["class_bias"] = bias.tolist()
            figures[f"{name}, training images"] = by_class(evaluate(predict, training, count, device=self.device), self.classes)
            figures[f"{name}, bias, training images"] = by_class(evaluate(biased, training, count, device=self.device), self.classes)
        return figures

    def val_windows(self) -> list[Any]:
        """Validation images and masks by windows of the crops' size."""
        return [(part, mask) for images, masks in self.val_loader for part, mask, _ in tiles(images, masks, self.size, 255)]

    def padded(self, model: nn.Module, size: Sequence[int]) -> dict[str, Inference]:
        """Whole images, padded to multiples of the output stride."""
        return {"padded": Inference(model, divisor=16)}

    def larger(self, size: Sequence[int]) -> dict[str, Any]:
        """Train the base further on crops of that size, and measure it."""
        model, folder = self.load_base(), self.output / f"further-{size[0]}x{size[1]}"
        # Scales are relative to the crops' size. Adapted to larger crops, objects keep the size that they have in the measured images.
        low, high = (scale * self.size[0] / size[0] for scale in self.scale)
        crops = self.read("train", train_transforms(tuple(size), scale=(low, high)))
        if len(crops) != len(self.train):
            raise SystemExit("--larger takes all training images: leave out --fraction and --quick")
        loader = seeded_loader(crops, self.batch, seed=500 + self.number)
        text = f"crops of {size[0]} x {size[1]}"
        Finetuner(model, LARGER, output=folder, device=self.args.device, progress=text).fit(loader)
        return self.measure_ways(model, size)

    def figures(self) -> dict[str, Any]:
        """All figures of one base."""
        base, settings = self.run_base(), self.base_settings()
        found = {"base": self.stage("protocol", lambda: self.measure_ways(self.load_base()), settings), "base_curve": base["curve"]}
        if self.divisor == 1:
            found["base"] |= self.stage("protocol-padded", lambda: self.measure_ways(self.load_base(), ways=self.padded), settings)
        if self.args.larger and self.number == self.args.bases[0]:
            rows, columns = self.val[0][1].shape[-2:]
            sizes = {"same crops": self.size, "larger crops": (rows // 8 * 8, columns // 8 * 8)}
            for name, size in sizes.items():
                further = settings | {"further": LARGER.to_dict(), "crops": size}
                found[name] = self.stage(f"protocol-{size[0]}x{size[1]}", lambda s=size: self.larger(s), further) | {"size": list(size)}
        return found


class InWindows(WeightsFile, Protocol):
    """A model that takes no whole images of this size: its generator is measured on windows, as the model itself is."""

    def generator_pairs(self) -> Any:
        return self.val_windows()


class FPN(InWindows):
    name, divisor = FPN_NAME, 32

    def __init__(self, args: argparse.Namespace, number: int = 0) -> None:
        super().__init__(args, number)
        # Multiples of 32, the nearest above.
        self.size = (-(-self.size[0] // 32) * 32, -(-self.size[1] // 32) * 32)
        self.train = self.read("train", train_transforms(self.size, scale=self.scale))

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return fpn(len(self.classes))


class ViT(InWindows):
    name, divisor = VIT_NAME, 16

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ViTSegmenter(len(self.classes), self.size)


MODELS = {"pspnet": Protocol, "fpn": FPN, "vit": ViT}


def mean_of_bases(bases: Sequence[Mapping[str, Any]], of: str) -> dict[str, dict[str, float]]:
    """Each way's four measures, averaged over the bases that have them."""
    bases = [base for base in bases if of in base]
    ways = [way for way in bases[0][of] if isinstance(bases[0][of][way], Mapping)]
    return {way: {m: sum(base[of][way][m] for base in bases) / len(bases) for m in TITLES} for way in ways}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", choices=tuple(MODELS), default="pspnet")
    parser.add_argument("--bases", type=int, nargs="+", default=[0, 1], help="seeds of the base models")
    parser.add_argument("--steps", type=int, help="steps of the base models, if other than in the other studies")
    parser.add_argument("--larger", action="store_true", help="also train further on crops of the images' size")
    args = parse(parser, "protocol", None)
    if args.steps is not None:
        args.output = args.output.with_name(f"{args.output.name}-{args.steps}")
    if args.model != "pspnet":
        args.output = args.output.with_name(f"{args.output.name}-{args.model}")
        args.result = args.result.with_name(f"{args.result.stem}-{args.model}.json")
    keep_freed_memory()
    bases: list[dict[str, Any]] = []
    for number in args.bases:
        study = MODELS[args.model](args, number)
        bases.append(study.figures() | {"number": number})
        write_json(
            args.result,
            {
                "bases": bases,
                "means": {of: mean_of_bases(bases, of) for of in ("base", "same crops", "larger crops") if of in bases[0]},
                "settings": {
                    "data": args.dataset, "half": args.half, "eval_split": args.eval_split, "size": study.size, "batch": study.batch,
                    "images": len(study.train), "model": study.name, "base": study.base_config.to_dict(), "further": LARGER.to_dict(),
                    "bias_images": len(range(0, len(study.plain), EVERY)), "device": args.device, "torch": torch.__version__,
                },
            },
        )  # fmt: skip
        for way, figures in bases[-1]["base"].items():
            print(f"base {number}, {way:<32}" + "".join(f"{TITLES[m]} {figures[m]:6.2f}  " for m in TITLES), flush=True)
    print(f"written: {args.result}")


if __name__ == "__main__":
    main()
