"""What lies in how a model is predicted: whole images or windows of the crops' size, with a class bias or without.

    python -m studies.own.protocol --data DIR --dataset camvid|idd [--half] [--model pspnet|fpn|vit] [--bases 0 1] [--steps 1500] [--larger]

One base model for each of ``--bases``, trained on crops as all studies train it. It is measured on validation images whole and by windows, before
and after a class bias that is fitted on every sixth training image; on those training images whole and by windows, too, which is what
``fit_inference`` decides by. ``--larger`` trains the first base 200 steps further, on the same crops and on crops of whole images' size: what
changing the training would gain instead. ``fpn`` is segmentation_models_pytorch's on tf_efficientnet_lite0, ``vit`` a small ViT from random
weights; both with crops of about the same size. Figures go to ``studies/results/protocol-DATASET.json`` after every base.
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
from feataug.data import seeded_loader, train_transforms
from feataug.io.atomic import write_json
from feataug.io.results import by_class
from feataug.training.device import keep_freed_memory
from studies.lib.backbone import load_imagenet_weights
from studies.lib.setups import arguments, parse
from studies.lib.weights_file import WeightsFile
from studies.own.compare import Comparison

EVERY = 6
LARGER = FinetuneConfig(num_steps=200, lr=0.01, lr_scale={"encoder": 0.3, "vit": 0.3}, save_every=50)


class Protocol(Comparison):
    """Bases of one data set, each with a folder of its own."""

    divisor = 1

    def __init__(self, args: argparse.Namespace, number: int = 0) -> None:
        super().__init__(args)
        self.number = number
        if args.steps is not None and not args.quick:
            self.base_config = replace(self.base_config, num_steps=args.steps, eval_every=args.steps)
        if number:
            # The first one is where the other studies have it.
            self.output = self.output / f"base-{number}"
            self.base_config = replace(self.base_config, seed=number)

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return super().model()

    def training_loader(self, seed: int) -> Any:
        return super().training_loader(seed + 1000 * self.number)

    def some_training_images(self) -> Any:
        """Every sixth training image as it is."""
        return seeded_loader(torch.utils.data.Subset(self.plain, range(0, len(self.plain), EVERY)), self.whole, shuffle=False)

    def predictions(self, model: nn.Module, size: Sequence[int]) -> dict[str, Inference]:
        """Both ways to predict."""
        return {"whole": Inference(model, divisor=self.divisor), "windows": Inference(model, window=size)}

    def four_ways(self, model: nn.Module, size: Sequence[int] | None = None, ways: Any = None) -> dict[str, Any]:
        """Validation and training figures of both ways, or of others, before and after the bias."""
        count, some = len(self.classes), list(self.some_training_images())
        model.to(self.device, memory_format=torch.channels_last)
        figures: dict[str, Any] = {}
        for name, predict in (ways or self.predictions)(model, size or self.size).items():
            bias = fit_class_bias(predict, some, count, device=self.device)
            biased = Inference(model, **predict.settings() | {"class_bias": bias})
            figures[name] = by_class(evaluate(predict, self.val_loader, count, device=self.device), self.classes)
            figures[f"{name}, bias"] = by_class(evaluate(biased, self.val_loader, count, device=self.device), self.classes)
            figures[f"{name}, bias"]["class_bias"] = bias.tolist()
            figures[f"{name}, training images"] = by_class(evaluate(predict, some, count, device=self.device), self.classes)
            figures[f"{name}, bias, training images"] = by_class(evaluate(biased, some, count, device=self.device), self.classes)
        return figures

    def padded(self, model: nn.Module, size: Sequence[int]) -> dict[str, Inference]:
        """Whole images, padded to multiples of the output stride."""
        return {"padded": Inference(model, divisor=16)}

    def larger(self, size: Sequence[int]) -> dict[str, Any]:
        """The base trained further on crops of that size, measured each way that fits them."""
        model, folder = self.trained(), self.output / f"further-{size[0]}x{size[1]}"
        # Scales are of the crops' size: objects stay as large as they are in the images that are measured.
        low, high = (scale * self.size[0] / size[0] for scale in self.scale)
        crops = self.read("train", train_transforms(tuple(size), scale=(low, high)))
        if len(crops) != len(self.train):
            raise SystemExit("--larger takes all training images: leave out --fraction and --quick")
        loader = seeded_loader(crops, self.batch, seed=500 + self.number)
        text = f"crops of {size[0]} x {size[1]}"
        Finetuner(model, LARGER, output=folder, device=self.args.device, progress=text).fit(loader)
        return self.four_ways(model, size)

    def figures(self) -> dict[str, Any]:
        """All of one base."""
        base = self.stage("base", self.base)
        found = {"base": self.stage("protocol", lambda: self.four_ways(self.trained())), "base_curve": base["curve"]}
        if self.divisor == 1:
            found["base"] |= self.stage("protocol-padded", lambda: self.four_ways(self.trained(), ways=self.padded))
        if self.args.larger and self.number == self.args.bases[0]:
            rows, columns = self.val[0][1].shape[-2:]
            sizes = {"same crops": self.size, "larger crops": (rows // 8 * 8, columns // 8 * 8)}
            for name, size in sizes.items():
                found[name] = self.stage(f"protocol-{size[0]}x{size[1]}", lambda s=size: self.larger(s)) | {"size": list(size)}
        return found


class FPN(WeightsFile, Protocol):
    name = "smp.FPN, tu-tf_efficientnet_lite0 (ImageNet)"
    divisor = 32

    def __init__(self, args: argparse.Namespace, number: int = 0) -> None:
        super().__init__(args, number)
        # Multiples of 32, the nearest above.
        self.size = (-(-self.size[0] // 32) * 32, -(-self.size[1] // 32) * 32)
        self.train = self.read("train", train_transforms(self.size, scale=self.scale))

    def model(self) -> nn.Module:
        import segmentation_models_pytorch as smp

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = smp.FPN("tu-tf_efficientnet_lite0", encoder_weights=None, classes=len(self.classes))
        load_imagenet_weights(model.encoder.model)
        return model


class ViT(WeightsFile, Protocol):
    name = "timm vit_tiny_patch16_224 of 8 blocks (random weights), convolutional head"
    divisor = 16

    def model(self) -> nn.Module:
        from studies.own.architectures import ViTSegmenter

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ViTSegmenter(len(self.classes), self.size)


MODELS = {"pspnet": Protocol, "fpn": FPN, "vit": ViT}


def mean(bases: Sequence[Mapping[str, Any]], of: str) -> dict[str, dict[str, float]]:
    """Means over the bases that have them of each way's four measures."""
    bases = [base for base in bases if of in base]
    ways = [way for way in bases[0][of] if isinstance(bases[0][of][way], Mapping)]
    return {way: {m: sum(base[of][way][m] for base in bases) / len(bases) for m in TITLES} for way in ways}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", choices=tuple(MODELS), default="pspnet")
    parser.add_argument("--bases", type=int, nargs="+", default=[0, 1], help="seeds of the base models")
    parser.add_argument("--steps", type=int, help="of the base models, where it is not what the other studies take")
    parser.add_argument("--larger", action="store_true", help="train further on crops of the images' size, too")
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
                "means": {of: mean(bases, of) for of in ("base", "same crops", "larger crops") if of in bases[0]},
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
