"""The command line: ``feataug demo``, ``inspect``, ``fit-generator``, ``finetune``, ``compare``, ``evaluate``."""

from __future__ import annotations

import argparse
import copy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feataug import __version__
from feataug.errors import ConfigError, FeatAugError, message

_EPILOG = """\
a whole run on your own data:
  feataug inspect timm/resnet18
  feataug finetune --data DIR --dataset camvid --encoder resnet18 --pretrained --steps 4000 --lr 0.02 --output runs/base
  feataug fit-generator --data DIR --dataset camvid --model runs/base --at encoder.layer3.0 --output runs/generator
  feataug finetune --data DIR --dataset camvid --model runs/base --generator runs/generator --output runs/feataug
  feataug compare --data DIR --dataset camvid --model runs/base --generator runs/generator --output runs/compare
  feataug evaluate --data DIR --dataset camvid --model runs/feataug --output runs/feataug-eval

Every command but inspect writes DIR/result.json. A run that was stopped goes on when the same command is given again.
"""


_STOPPED = "stopped; the same command goes on from the last checkpoint"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the shell's exit code: 0, 1 for an error of ours, 130 for Ctrl-C, 143 for SIGTERM."""
    args = _parser().parse_args(argv)
    try:
        # Here, not at the top: --help is to answer at once, and torch takes seconds to import.
        from feataug.training.run import keep_freed_memory

        keep_freed_memory()
        args.command(args)
    except FeatAugError as error:
        if args.traceback:
            traceback.print_exc()
        else:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        return 130
    except SystemExit as stop:
        if stop.code == 143:  # SIGTERM, after a checkpoint was saved
            print(_STOPPED, file=sys.stderr)
            return 143
        raise
    return 0


def demo(args: argparse.Namespace) -> None:
    """``feataug demo``."""
    from feataug.demo import run_demo, summary

    result = run_demo(args.output, seed=args.seed, device=args.device, progress=not args.quiet)
    print(summary(result))
    print(f"written: {args.output / 'result.json'}, {args.output / 'demo.png'}")


def inspect(args: argparse.Namespace) -> None:
    """``feataug inspect``."""
    import torch

    from feataug.models import named_model
    from feataug.places import cuts
    from feataug.report import places_table, write_result

    model = named_model(args.model)
    native = getattr(model, "default_cfg", {}).get("input_size", (args.channels, 256, 256))
    rows, columns = args.size or native[1:]
    try:
        places = cuts(model, torch.zeros(1, args.channels, rows, columns), max_levels=args.max_levels)
    except FeatAugError:
        raise
    except Exception as error:
        given = f"{args.channels} x {rows} x {columns}: {type(error).__name__}: {error}"
        raise ConfigError(
            message("feataug inspect: the model does not take such images.", given=given, needed="another --size")
        ) from error
    print(places_table(places))
    print(f"{len(places)} places where {args.model} can be cut whole, at {rows} x {columns}; `/` is the stride")
    if args.output is not None:
        write_result(args.output, {"model": args.model, "size": [rows, columns], "places": [place.to_dict() for place in places]})


def fit_generator(args: argparse.Namespace) -> None:
    """``feataug fit-generator``."""
    from feataug.data.transforms import eval_transforms, seeded_loader, train_transforms
    from feataug.generator import FeatureGenerator
    from feataug.models import PSPNet
    from feataug.report import recognition_summary, write_result
    from feataug.splitting import split
    from feataug.training.config import GeneratorConfig
    from feataug.training.generator import GeneratorTrainer

    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size)))
    cut = split(PSPNet.from_pretrained(args.model), at=args.at)
    generator = FeatureGenerator(train.num_classes, cut.spec, args.preset)
    changes: dict[str, Any] = {"num_images": args.images, "seed": args.seed, "snapshot_images": max(args.images // 20, 1)}
    if args.lr is not None:
        changes["lr"] = args.lr
    config = GeneratorConfig.paper(**changes) if args.preset == "paper" else GeneratorConfig(**changes)
    trainer = GeneratorTrainer(generator, cut, config, output=args.output / "run", device=args.device, progress=not args.quiet)
    results = trainer.fit(
        seeded_loader(train, args.batch_size, seed=args.seed, num_workers=args.workers),
        seeded_loader(val, args.batch_size, shuffle=False, num_workers=args.workers),
    )
    generator.save_pretrained(args.output)
    score = recognition_summary(results[-1], train.classes)
    write_result(args.output, {"recognition": score, "config": config.to_dict(), "at": args.at})
    print(
        f"recognition score: real {score['real']:.2f}, synthetic {score['synthetic']:.2f}, ratio {score['ratio']:.2f}; "
        f"diversity {score['diversity']:.2f}\nwritten: {args.output}"
    )


def finetune(args: argparse.Namespace) -> None:
    """``feataug finetune``."""
    from feataug.data.transforms import eval_transforms, seeded_loader, train_transforms
    from feataug.generator import FeatureGenerator
    from feataug.metrics import evaluate as measure
    from feataug.mixing import FeatureMixer
    from feataug.models import PSPNet
    from feataug.report import by_class, table, write_result
    from feataug.splitting import split
    from feataug.training.config import FinetuneConfig
    from feataug.training.finetune import Finetuner

    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size)))
    if args.model is not None:
        model = PSPNet.from_pretrained(args.model)
    elif args.encoder is not None:
        model = PSPNet(args.encoder, train.num_classes, output_stride=args.output_stride, pretrained=args.pretrained)
    else:
        raise ConfigError(message("feataug finetune: no model.", given="neither", needed="--model FOLDER or --encoder NAME"))
    config = FinetuneConfig(num_steps=args.steps, lr=args.lr, seed=args.seed, save_every=max(args.steps // 20, 1))
    mixer = cut = None
    if args.generator is not None:
        generator = FeatureGenerator.from_pretrained(args.generator)
        cut = split(model, at=generator.spec.layers)
        settings = _mixing(args, cut, train)
        mixer = FeatureMixer(generator, ratio=args.ratio, label_smoothing=args.label_smoothing, cut=cut, seed=args.seed, **settings)
    tuner = Finetuner(model, config, mixer=mixer, cut=cut, output=args.output / "run", device=args.device, progress=not args.quiet)
    loader = seeded_loader(train, args.batch_size, seed=args.seed, num_workers=args.workers)
    val_loader = seeded_loader(val, args.batch_size, shuffle=False, num_workers=args.workers)
    figures = tuner.fit(loader, val_loader, num_classes=train.num_classes)[-1]
    if mixer is not None:
        # Running statistics that have seen synthetic features are no longer those of real ones.
        tuner.update_bn(loader)
        figures = measure(model, val_loader, train.num_classes, device=tuner.accelerator.device)
    model.save_pretrained(args.output)
    figures = by_class(figures, train.classes)
    write_result(args.output, figures | {"config": config.to_dict()})
    print(table({args.output.name: figures}) + f"\nwritten: {args.output}")


def compare(args: argparse.Namespace) -> None:
    """``feataug compare``."""
    from feataug.data.transforms import eval_transforms, seeded_loader, train_transforms
    from feataug.evaluation import compare as run
    from feataug.generator import FeatureGenerator
    from feataug.models import PSPNet
    from feataug.plots import save_comparison
    from feataug.report import comparison_table
    from feataug.splitting import split
    from feataug.training.config import FinetuneConfig

    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size)))
    generator = FeatureGenerator.from_pretrained(args.generator)
    model = PSPNet.from_pretrained(args.model)
    result = run(
        model,
        list(generator.spec.layers),
        generator,
        loader=lambda seed: seeded_loader(train, args.batch_size, seed=seed, num_workers=args.workers),
        val_loader=seeded_loader(val, args.batch_size, shuffle=False, num_workers=args.workers),
        config=FinetuneConfig(num_steps=args.steps, lr=args.lr, save_every=max(args.steps // 20, 1)),
        seeds=range(args.seed, args.seed + args.seeds),
        ratio=args.ratio,
        label_smoothing=args.label_smoothing,
        classes=train.classes,
        output=args.output,
        device=args.device,
        progress=not args.quiet,
        **_mixing(args, split(copy.deepcopy(model), list(generator.spec.layers)), train),
    )
    picture = save_comparison(args.output / "comparison.png", result)
    print(comparison_table(result) + f"\nwritten: {args.output / 'result.json'}, {picture}")


def evaluate(args: argparse.Namespace) -> None:
    """``feataug evaluate``."""
    from feataug.data.transforms import eval_transforms, seeded_loader
    from feataug.metrics import evaluate as measure
    from feataug.models import PSPNet
    from feataug.report import by_class, table, write_result
    from feataug.training.run import make_accelerator

    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size) if args.size else None))
    device = make_accelerator(args.device, "no").device
    model = PSPNet.from_pretrained(args.model).to(device)
    loader = seeded_loader(val, args.batch_size, shuffle=False, num_workers=args.workers)
    figures = by_class(measure(model, loader, val.num_classes, device=device), val.classes)
    write_result(args.output, figures)
    print(table({str(args.model): figures}) + f"\nwritten: {args.output / 'result.json'}")


def _dataset(args: argparse.Namespace, split: str, transforms: Any) -> Any:
    from feataug.data import CamVid, MaskedImages, Scenes

    if args.dataset == "scenes":
        # Train and validation scenes never meet: their seeds differ.
        return Scenes(
            256 if split == "train" else 64, tuple(args.size or (96, 128)), seed=int(split != "train"), transforms=transforms
        )
    if args.data is None:
        raise ConfigError(message("feataug: no data.", given=f"--dataset {args.dataset}", needed="--data DIR"))
    if args.dataset == "camvid":
        return CamVid(args.data, split, transforms=transforms)
    if not args.classes:
        raise ConfigError(
            message("feataug: class names are missing.", given="--dataset folder", needed="--classes sky road car ...")
        )
    folders = (args.data / split / "images", args.data / split / "masks")
    return MaskedImages(*folders, args.classes, void=args.void, transforms=transforms)


def _mixing(args: argparse.Namespace, cut: Any, train: Any) -> dict[str, Any]:
    """The masks of ``--preset``, and what belongs to them."""
    from feataug.data.transforms import eval_transforms, seeded_loader
    from feataug.masks import DatasetMasks, HardNegativeSampler
    from feataug.presets import recommended
    from feataug.training.run import make_accelerator

    if args.preset != "recommended":
        return {"masks": HardNegativeSampler(DatasetMasks(train), enabled=args.preset == "paper")}
    plain = _dataset(args, args.split, eval_transforms(tuple(args.size)))
    loader = seeded_loader(plain, args.batch_size, shuffle=False, num_workers=args.workers)
    return recommended(cut, train, loader, train.num_classes, device=make_accelerator(args.device, "no").device)


def _size(text: str) -> tuple[int, int]:
    try:
        rows, columns = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512x1024") from None
    if min(rows, columns) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: rows and columns must be at least 1")
    return rows, columns


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="feataug",
        description="Better semantic segmentation by training the decoder on features generated from label masks.",
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"feataug {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.set_defaults(command=run)
        command.add_argument(
            "--output", type=Path, default=Path("runs") / name, metavar="DIR", help="folder for result.json and the rest"
        )
        command.add_argument("--seed", type=int, default=0, help="decides data order, weights and noise")
        command.add_argument(
            "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto takes a GPU where there is one"
        )
        command.add_argument("--quiet", action="store_true", help="no progress bars")
        command.add_argument("--traceback", action="store_true", help="show where an error was raised")
        return command

    def add_data(command: argparse.ArgumentParser, training: bool, size: tuple[int, int] | None = (240, 320)) -> None:
        command.add_argument("--data", type=Path, metavar="DIR", help="the data set's folder")
        command.add_argument(
            "--dataset", default="camvid", choices=("camvid", "folder", "scenes"),
            help="camvid: train/ trainannot/ val/ valannot/; folder: SPLIT/images and SPLIT/masks; scenes: drawn on the spot, no --data",
        )  # fmt: skip
        command.add_argument("--classes", nargs="+", metavar="NAME", help="class names, for --dataset folder")
        command.add_argument("--void", type=int, default=255, help="label of void in the files of --dataset folder")
        if training:
            command.add_argument("--split", default="train", help="split to train on")
        command.add_argument("--eval-split", default="val", help="split to measure on")
        command.add_argument(
            "--size", type=int, nargs=2, default=size, metavar=("ROWS", "COLUMNS"), help="size of crops and of evaluation"
        )
        command.add_argument("--batch-size", type=int, default=16, help="images in a batch")
        command.add_argument("--workers", type=int, default=0, help="processes that load images")

    def add_mixing(command: argparse.ArgumentParser, required: bool) -> None:
        command.add_argument(
            "--generator", metavar="FOLDER", required=required, help="a generator saved by `feataug fit-generator`, or a hub id"
        )
        command.add_argument("--ratio", type=float, default=0.3, help="synthetic share of a batch")
        command.add_argument("--label-smoothing", type=float, default=1e-4, help="epsilon of Eq. (3), synthetic samples only")
        command.add_argument(
            "--preset", default="recommended", choices=("recommended", "paper", "random"),
            help="recommended: masks by class with rare objects pasted in, bad pixels left out, classes weighted that are predicted too rarely; "
            "paper: hard negatives; random: masks drawn evenly",
        )  # fmt: skip
        command.add_argument("--steps", type=int, default=1000, help="optimiser steps")
        command.add_argument("--lr", type=float, default=1e-3, help="first learning rate of the poly policy")

    add("demo", demo, "The whole method on embedded scenes, in a few minutes on a CPU.")

    command = commands.add_parser(
        "inspect",
        help="List the places where a model can be cut.",
        description="List the places where a model can be cut: what crosses, and what lies on either side.",
        epilog="examples:\n  feataug inspect timm/resnet50 --size 512x512\n  feataug inspect runs/base\n"
        "  feataug inspect mypackage.models:build",
        formatter_class=formatter,
    )
    command.set_defaults(command=inspect, device="cpu")
    command.add_argument(
        "model",
        metavar="MODEL",
        help="timm/NAME; a folder saved by `feataug finetune`; or MODULE:FUNCTION, which is called and returns it",
    )
    command.add_argument(
        "--size", type=_size, metavar="ROWSxCOLUMNS", help="size of the images (the model's own in timm, or 256x256)"
    )
    command.add_argument("--channels", type=int, default=3, help="channels of the images (3)")
    command.add_argument("--max-levels", type=int, default=8, help="leave out places where more tensors cross (8)")
    command.add_argument("--output", type=Path, metavar="DIR", help="also write DIR/result.json")
    command.add_argument("--traceback", action="store_true", help="show where an error was raised")

    command = add("fit-generator", fit_generator, "Train a feature generator for a trained model.")
    add_data(command, training=True)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a model saved by `feataug finetune`, or a hub id")
    command.add_argument(
        "--at",
        required=True,
        nargs="+",
        metavar="LAYER",
        help="where the model is cut, such as encoder.layer3.0; feataug inspect lists places",
    )
    command.add_argument("--preset", default="default", choices=("default", "paper"), help="architecture and objective")
    command.add_argument("--images", type=int, default=20_000, help="length of training, counted in images")
    command.add_argument("--lr", type=float, help="learning rate, instead of the preset's")

    command = add("finetune", finetune, "Train a segmentation model, with synthetic features if a generator is given.")
    add_data(command, training=True)
    command.add_argument("--model", metavar="FOLDER", help="a saved model to train further, or a hub id")
    command.add_argument("--encoder", metavar="NAME", help="instead of --model: a new PSPNet on this timm encoder")
    command.add_argument("--pretrained", action="store_true", help="with --encoder: ImageNet weights from the hub")
    command.add_argument("--output-stride", type=int, default=8, choices=(8, 16, 32), help="with --encoder")
    add_mixing(command, required=False)

    command = add("compare", compare, "Does it help? A model trained further with and without synthetic features, on paired seeds.")
    add_data(command, training=True)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a saved model, or a hub id")
    add_mixing(command, required=True)
    command.add_argument("--seeds", type=int, default=3, help="pairs of runs, with seeds from --seed on")

    command = add("evaluate", evaluate, "Measure a saved model: PixelAcc, ClassAcc, mIoU, fwIoU.")
    add_data(command, training=False, size=None)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a saved model, or a hub id")
    return parser


if __name__ == "__main__":
    sys.exit(main())
