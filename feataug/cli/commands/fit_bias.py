"""``feataug fit-bias``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.option_types import POSITIVE

SUMMARY = "Fit a class bias for a saved model on training images, and decide between windows and whole images."
EXAMPLES = (
    "feataug fit-bias --dataset scenes --size 96 128 --model runs/base",
    "feataug fit-bias --data CamVid --model runs/feataug --measure class_acc --output runs/bias",
)


def add_options(command: CommandParser) -> None:
    # Without --output the fitted settings go beside the model, and the figures into runs/fit-bias.
    options.add_run(command, None)
    options.add_data(command, size=None)
    options.add_model(command)
    command.add_option(
        "--measure", default="miou", choices=("pixel_acc", "class_acc", "miou", "fw_iou"), help="measure that the class bias maximises"
    )
    command.add_option("--images", type=POSITIVE, default=50, help="number of training images to read, spread over the split")
    command.add_option("--crop-size", **options.PAIR, help="size of the model's training crops, and so of windows, if its folder does not say")


def run(args: argparse.Namespace) -> None:
    from feataug.cli.saved_prediction import describe_settings, inference_figures, model_folder, spread_subset, table_rows
    from feataug.core.distributed import is_main
    from feataug.evaluation import fit_inference
    from feataug.io.results import write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import table
    from feataug.training.device import make_accelerator

    train, val = (shared.plain_split(args, split) for split in (args.split, args.eval_split))
    device = make_accelerator(args.device, "no").device
    model = PSPNet.from_pretrained(args.model).to(device)
    some = spread_subset(train, args.images)
    crop_size: Any = args.crop_size or "noted"
    predict, _ = fit_inference(
        model, shared.eval_loader(args, some), train.num_classes, crop_size=crop_size, measure=args.measure, device=device
    )
    result = inference_figures(predict, shared.eval_loader(args, val), val.classes, device)
    folder = args.output or model_folder(args.model)
    args.output = args.output or Path("runs", "fit-bias")
    folder = folder or args.output
    if is_main():
        predict.save(folder)
    write_result(args.output, result | {"fitted": {"split": args.split, "images": len(some), "measure": args.measure}})
    shared.print_main(
        table(table_rows("whole images", result))
        + f"\nfitted on {len(some)} images of {args.split}: {describe_settings(predict.settings())}"
        f"\nwritten: {folder / 'inference.json'}, {args.output / 'result.json'}"
    )
