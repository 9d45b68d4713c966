"""``feataug evaluate``."""

from __future__ import annotations

import argparse

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.option_types import Number

SUMMARY = "Measure a saved model: PixelAcc, ClassAcc, mIoU, fwIoU."
EXAMPLES = (
    "feataug evaluate --dataset scenes --size 96 128 --model runs/base",
    "feataug evaluate --data CamVid --model runs/feataug --scales 0.75 1 1.25 --flip",
    "feataug evaluate --data CamVid --model runs/feataug --plain",
)


def add_options(command: CommandParser) -> None:
    options.add_run(command, "runs/evaluate")
    options.add_data(command, training=False, size=None)
    options.add_model(command)
    command.add_option(
        "--scales", type=Number(low=0, open_low=True), nargs="+", metavar="FACTOR", help="average over several scales of the images"
    )
    command.add_flag("--flip", help="average with the mirror images")
    command.add_option("--window", **options.PAIR, help="predict by sliding windows of this size; each step is two thirds of it")
    command.add_flag("--plain", help="ignore the inference.json in the model's folder")


def run(args: argparse.Namespace) -> None:
    from feataug.cli.saved_prediction import settings_for
    from feataug.evaluation import Inference
    from feataug.inference.evaluate import evaluate
    from feataug.io.results import by_class, write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import table
    from feataug.training.batches import part_of
    from feataug.training.device import make_accelerator

    val = shared.plain_split(args, args.eval_split)
    device = make_accelerator(args.device, "no").device
    model = PSPNet.from_pretrained(args.model).to(device)
    loader = shared.eval_loader(args, val)
    settings, source = settings_for(args, model, val.num_classes)
    predict = Inference(model, **settings) if settings else model
    figures = by_class(evaluate(predict, part_of(loader), val.num_classes, device=device), val.classes)
    write_result(args.output, figures | ({"inference": settings} if settings else {}))
    shared.save_samples(args, val, loader, {"predicted": predict})
    shared.print_main(table({str(args.model): figures}) + (f"\n{source}" if source else "") + f"\nwritten: {args.output / 'result.json'}")
