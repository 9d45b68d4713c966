"""``feataug teach``."""

from __future__ import annotations

import argparse

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.dry_run import training_config
from feataug.cli.option_types import POSITIVE

# At most this many training images are used to fit the class bias.
BIAS_IMAGES = 64

SUMMARY = "What do the features teach? Train fresh decoders on real, on synthetic and on Gaussian features alone."
EXAMPLES = (
    "feataug teach --dataset scenes --size 96 128 --model runs/base --generator runs/generator --steps 100 --seeds 1",
    "feataug teach --data CamVid --model runs/base --generator runs/generator --pretrained",
)


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/teach")
    options.add_data(command)
    options.add_model(command)
    options.add_generator(command)
    command.add_flag(
        "--pretrained", help="start the encoder's layers after the cut from ImageNet weights from the hub, not from random ones"
    )
    command.add_option("--seeds", type=POSITIVE, default=2, help="number of runs for each source; their seeds start at --seed")
    options.add_schedule(command, steps=400, lr=0.05, of=" of each run")


def run(args: argparse.Namespace) -> None:
    from torch.utils.data import Subset

    from feataug.data.transforms import eval_transforms
    from feataug.evaluation import teaching_score
    from feataug.generation.generator import FeatureGenerator
    from feataug.models import PSPNet
    from feataug.reporting.tables import teaching_table

    train = shared.training_split(args)
    # Whole images, predicted by windows of the crops' size, because a decoder was trained with no larger context.
    whole, val = (shared.read_split(args, split, eval_transforms()) for split in (args.split, args.eval_split))
    labelled = Subset(whole, range(0, len(whole), -(-len(whole) // BIAS_IMAGES)))
    generator = FeatureGenerator.from_pretrained(args.generator, num_classes=train.num_classes)
    # Not read from args inside the lambda: what it refers to identifies the run, and --quiet must not.
    model, pretrained = PSPNet.from_pretrained(args.model), args.pretrained
    result = teaching_score(
        model, list(generator.spec.layers), generator,
        lambda seed: shared.train_loader(args, train, seed), shared.eval_loader(args, val), training_config(args),
        fresh=lambda seed: model.untrained(pretrained=pretrained), seeds=range(args.seed, args.seed + args.seeds),
        window=args.size, bias_loader=shared.eval_loader(args, labelled), classes=train.classes,
        output=args.output, device=args.device, progress=not args.quiet,
    )  # fmt: skip
    shared.print_main(teaching_table(result) + f"\nwritten: {args.output / 'result.json'}")
