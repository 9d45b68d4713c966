"""``feataug fit-generator``."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.dry_run import training_config
from feataug.cli.option_types import POSITIVE, Number
from feataug.errors import DataError, FeatAugWarning

SUMMARY = "Train a feature generator for a trained model."
EXAMPLES = (
    "feataug fit-generator --dataset scenes --size 96 128 --model runs/base --at encoder.layer3.0 --images 2000 --output runs/generator",
    "feataug fit-generator --data CamVid --model runs/base --at encoder.layer3.0 --dry-run",
)


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/fit-generator")
    options.add_data(command)
    options.add_model(command)
    command.add_option(
        "--at", required=True, nargs="+", metavar="LAYER",
        help="where to cut the model, such as encoder.layer3.0; feataug inspect lists the places",
    )  # fmt: skip
    options.add_license(command)
    command.add_option("--preset", default="flow", choices=("flow", "bicyclegan", "paper"), help="architecture and objective")
    command.add_option("--images", type=POSITIVE, default=20_000, help="length of the training, counted in images")
    command.add_option("--lr", type=Number(low=0), help="learning rate, instead of the preset's")
    command.add_flag(
        "--skip-quality", help="skip the measurements after training: Fréchet distance, precision, recall and the test for copied features"
    )


def run(args: argparse.Namespace) -> None:
    import torch

    from feataug.core.distributed import is_main
    from feataug.cutting.cut import split
    from feataug.generation.generator import FeatureGenerator
    from feataug.io.card_facts import data_facts
    from feataug.io.results import quality_summary, recognition_summary, write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import quality_table
    from feataug.training.generator_trainer import GeneratorTrainer

    train, val = shared.training_split(args), shared.plain_split(args, args.eval_split)
    cut = split(PSPNet.from_pretrained(args.model), at=args.at)
    torch.manual_seed(args.seed)
    generator = FeatureGenerator(train.num_classes, cut.spec, args.preset)
    config = training_config(args)
    trainer = GeneratorTrainer(generator, cut, config, output=args.output / "run", device=args.device, progress=not args.quiet)
    loader, val_loader = shared.train_loader(args, train), shared.eval_loader(args, val)
    score = recognition_summary(trainer.fit(loader, val_loader)[-1], train.classes)
    if is_main():
        generator.save_pretrained(args.output, card=data_facts(train, args.split, args.data_license, args.data))
    shared.save_samples(args, val, val_loader, cut=cut, generator=generator)
    result = {"recognition": score, "config": config.to_dict(), "at": args.at}
    if not args.skip_quality and is_main() and (quality := _measure_quality(args, trainer, loader, val_loader)):
        result["quality"] = quality_summary(quality, train.classes)
        # Saved again, now with these figures on the card.
        generator.save_pretrained(args.output, card={"quality": quality})
        shared.print_main(quality_table(result["quality"]))
    write_result(args.output, result)
    shared.print_main(
        f"recognition score: real {score['real']:.2f}, synthetic {score['synthetic']:.2f}, ratio {score['ratio']:.2f}; "
        f"diversity {score['diversity']:.2f}\nwritten: {args.output}"
    )


def _measure_quality(args: argparse.Namespace, trainer: Any, loader: Any, val_loader: Any) -> dict[str, Any] | None:
    """What ``feature_quality`` returns; too few data give a warning, because the training before it may have taken hours."""
    from feataug.evaluation import feature_quality

    try:
        return feature_quality(
            trainer.cut, trainer.generator, loader, val_loader, seed=args.seed, device=trainer.accelerator.device
        )
    except DataError as error:
        text = f"feataug fit-generator: the quality of the features was not measured.\n{error}"
        warnings.warn(text, FeatAugWarning, stacklevel=2)
        return None
