"""``feataug compare``."""

from __future__ import annotations

import argparse

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.dry_run import training_config
from feataug.cli.option_types import POSITIVE

SUMMARY = "Does it help? Train a model further with and without synthetic features, on paired seeds."
EXAMPLES = (
    "feataug compare --dataset scenes --size 96 128 --model runs/base --generator runs/generator --steps 100 --seeds 2",
    "feataug compare --data CamVid --model runs/base --generator runs/generator --seeds 5",
)


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/compare")
    options.add_data(command)
    options.add_model(command)
    options.add_generator(command)
    options.add_mixing(command)
    options.add_schedule(command, steps=1000, lr=1e-3)
    command.add_option("--seeds", type=POSITIVE, default=3, help="number of pairs of runs; their seeds start at --seed")
    command.add_flag("--skip-weights", help="with --power: leave out the arm that has class weights but no synthetic features")
    command.add_flag("--skip-bias", help="fit no class bias on training images to the arms")
    prediction = command.add_mutually_exclusive_group()
    command.add_option(
        "--window", group=prediction, **options.PAIR,
        help="predict by windows of this size (default: of --size if training images show that windows are better)",
    )  # fmt: skip
    command.add_flag("--whole", group=prediction, help="predict whole images")
    command.add_option(
        "--ceiling-split", metavar="NAME",
        help="add a positive control: real features of this split, which no other arm trains on, in place of synthetic ones",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from feataug.core.copying import copy_model
    from feataug.core.distributed import is_main
    from feataug.cutting.cut import split
    from feataug.evaluation import compare
    from feataug.generation.generator import FeatureGenerator
    from feataug.models import PSPNet
    from feataug.reporting.plots import save_comparison
    from feataug.reporting.tables import comparison_table

    train, val = shared.training_split(args), shared.plain_split(args, args.eval_split)
    generator = FeatureGenerator.from_pretrained(args.generator, num_classes=train.num_classes)
    model = PSPNet.from_pretrained(args.model)
    layers = list(generator.spec.layers)
    cut = split(copy_model(model), layers)
    val_loader = shared.eval_loader(args, val)
    shared.save_samples(args, val, val_loader, cut=cut, generator=generator)
    further = shared.training_split(args, args.ceiling_split) if args.ceiling_split else None
    result = compare(
        model, layers, generator,
        loader=lambda seed: shared.train_loader(args, train, seed), val_loader=val_loader, config=training_config(args),
        seeds=range(args.seed, args.seed + args.seeds), label_smoothing=args.label_smoothing, classes=train.classes,
        weights_arm=not args.skip_weights,
        ceiling=(lambda seed: shared.train_loader(args, further, seed)) if further is not None else None,
        plain_loader=shared.eval_loader(args, shared.plain_split(args, args.split)),
        window=None if args.whole else args.window or "auto", bias=not args.skip_bias,
        output=args.output, device=args.device, progress=not args.quiet,
        **shared.mixing_settings(args, cut, train),
    )  # fmt: skip
    if is_main():
        picture = save_comparison(args.output / "comparison.png", result)
        print(comparison_table(result) + f"\nwritten: {args.output / 'result.json'}, {picture}")
