"""``feataug finetune``."""

from __future__ import annotations

import argparse

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.dry_run import training_config
from feataug.errors import ConfigError

SUMMARY = "Train a segmentation model, with synthetic features if a generator is given."
EXAMPLES = (
    "feataug finetune --dataset scenes --size 96 128 --encoder resnet18 --steps 300 --lr 0.05 --output runs/base",
    "feataug finetune --data CamVid --model runs/base --generator runs/generator --output runs/feataug",
)


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/finetune")
    options.add_data(command)
    command.add_option("--model", metavar="FOLDER", help="a saved model to train further, or a hub id")
    command.add_option("--encoder", metavar="NAME", help="instead of --model: a new PSPNet on this timm encoder")
    options.add_license(command)
    command.add_flag("--pretrained", help="with --encoder: start from ImageNet weights from the hub")
    command.add_option("--output-stride", type=int, default=8, choices=(8, 16, 32), help="with --encoder")
    command.add_option(
        "--eval-size", **options.PAIR,
        help="size of the evaluated images if it is not that of the crops; training images decide between windows and whole images",
    )  # fmt: skip
    command.add_flag("--skip-bias", help="fit no class bias on training images after training")
    options.add_generator(command, required=False)
    options.add_mixing(command)
    options.add_schedule(command, steps=1000, lr=1e-3)


def run(args: argparse.Namespace) -> None:
    import torch

    from feataug.cli.saved_prediction import DECISION_IMAGES, fit_or_default, inference_figures, spread_subset, table_rows
    from feataug.core.distributed import is_main
    from feataug.cutting.cut import split
    from feataug.generation.generator import FeatureGenerator
    from feataug.inference.evaluate import evaluate
    from feataug.io.card_facts import data_facts
    from feataug.io.results import write_result
    from feataug.mixing.mixer import FeatureMixer
    from feataug.models import PSPNet
    from feataug.reporting.tables import table
    from feataug.training.finetuner import Finetuner

    train, val = shared.training_split(args), shared.plain_split(args, args.eval_split, args.eval_size)
    if args.model is not None:
        model = PSPNet.from_pretrained(args.model)
    elif args.encoder is not None:
        torch.manual_seed(args.seed)
        model = PSPNet(args.encoder, train.num_classes, output_stride=args.output_stride, pretrained=args.pretrained)
    else:
        raise ConfigError("feataug finetune: no model.", given="neither", needed="--model FOLDER or --encoder NAME")
    config = training_config(args)
    mixer = cut = generator = None
    if args.generator is not None:
        generator = FeatureGenerator.from_pretrained(args.generator, num_classes=train.num_classes)
        cut = split(model, at=generator.spec.layers)
        settings = shared.mixing_settings(args, cut, train)
        mixer = FeatureMixer(generator, label_smoothing=args.label_smoothing, cut=cut, seed=args.seed, **settings)
    tuner = Finetuner(model, config, mixer=mixer, cut=cut, output=args.output / "run", device=args.device, progress=not args.quiet)
    loader, val_loader = shared.train_loader(args, train), shared.eval_loader(args, val)
    # Whole images: fit_or_default decides below whether windows are better.
    figures = tuner.fit(loader, val_loader, num_classes=train.num_classes, crop_size=None)[-1]
    device = tuner.accelerator.device
    if mixer is not None:
        # Batch norm statistics that include synthetic features do not fit real ones.
        tuner.update_bn(loader)
        figures = evaluate(model, val_loader, train.num_classes, device=device, crop_size=None)
    some = shared.eval_loader(args, spread_subset(shared.plain_split(args, args.split, args.eval_size), DECISION_IMAGES))
    predict = fit_or_default(
        model, some, train.num_classes, crop_size=tuple(args.size), class_bias=not args.skip_bias, device=device
    )
    result = inference_figures(predict, val_loader, train.classes, device, figures)
    if is_main():
        model.save_pretrained(args.output, card=data_facts(train, args.split, args.data_license, args.data, measures=result))
        if predict.settings():
            predict.save(args.output)
    shared.save_samples(args, val, val_loader, {"trained": predict}, cut, generator)
    write_result(args.output, result | {"config": config.to_dict()})
    shared.print_main(table(table_rows(args.output.name, result)) + f"\nwritten: {args.output}")
