"""``feataug stages``."""

from __future__ import annotations

import argparse

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.option_types import NOT_NEGATIVE, POSITIVE

SUMMARY = "Compare the places where a saved model can be cut: how its features look, how well they can be generated."
EXAMPLES = (
    "feataug stages --dataset scenes --size 96 128 --model runs/base --generator-images 400",
    "feataug stages --data CamVid --model runs/base --at encoder.layer2 encoder.layer3",
)


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/stages")
    options.add_data(command)
    options.add_model(command)
    command.add_option(
        "--at", nargs="+", metavar="LAYER",
        help="places to compare, such as encoder.layer2 encoder.layer3; A,B is a cut at both (default: the images and some of those that "
        "feataug inspect lists)",
    )  # fmt: skip
    command.add_option(
        "--generator-images", type=NOT_NEGATIVE, default=0,
        help="train a generator on this many images at each place; 0 trains none and gives no recommendation",
    )  # fmt: skip
    command.add_option("--num-images", type=POSITIVE, default=3000, help="read at most this many patches")
    command.add_option("--min-cells", type=POSITIVE, default=100, help="leave out classes with fewer feature cells than this")


def run(args: argparse.Namespace) -> None:
    from feataug.evaluation import stages
    from feataug.io.results import write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import stages_table
    from feataug.training.config import GeneratorConfig

    train, val = shared.training_split(args), shared.plain_split(args, args.eval_split)
    result = stages(
        PSPNet.from_pretrained(args.model), shared.train_loader(args, train), train.num_classes,
        at=[name.split(",") if "," in name else name for name in args.at] if args.at else None,
        num_images=args.num_images, min_cells=args.min_cells, generator_images=args.generator_images,
        config=GeneratorConfig(seed=args.seed), val_loader=shared.eval_loader(args, val),
        device=args.device, progress=not args.quiet,
    )  # fmt: skip
    write_result(args.output, result)
    shared.print_main(stages_table(result) + f"\nwritten: {args.output / 'result.json'}")
