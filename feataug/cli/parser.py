"""The command line's options and help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from feataug import __version__
from feataug.cli.config_file import TABLE, ReadConfig
from feataug.cli.contradictions import check_compare, check_finetune, given_options
from feataug.cli.help import Look, examples
from feataug.cli.option_types import ANY, NOT_NEGATIVE, POSITIVE, SHARE, Number, size
from feataug.errors import ConfigError, message

_EPILOG = """\
a whole run on your own data:
  feataug inspect timm/resnet18
  feataug finetune --data DIR --dataset camvid --encoder resnet18 --pretrained --steps 4000 --lr 0.02 --output runs/base
  feataug stages --data DIR --dataset camvid --model runs/base --generator-images 1000 --output runs/stages
  feataug fit-generator --data DIR --dataset camvid --model runs/base --at encoder.layer3.0 --output runs/generator
  feataug finetune --data DIR --dataset camvid --model runs/base --generator runs/generator --output runs/feataug
  feataug teach --data DIR --dataset camvid --model runs/base --generator runs/generator --pretrained --output runs/teach
  feataug compare --data DIR --dataset camvid --model runs/base --generator runs/generator --output runs/compare
  feataug fit-bias --data DIR --dataset camvid --model runs/feataug
  feataug evaluate --data DIR --dataset camvid --model runs/feataug --output runs/feataug-eval
  feataug report runs/compare

Every command but inspect and report writes DIR/result.json; report makes a page of it.
A run that was stopped goes on when the same command is given again.
Options can stand in a file (--config FILE); --dry-run prints all of them, and does nothing else.

exit codes: 0 done, 1 an error that says what to do, 2 options that do not parse, 130 Ctrl-C, 141 nobody read the output, 143 SIGTERM
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``command`` is the name of the one that was given."""
    formatter = Look
    parser = argparse.ArgumentParser(
        prog="feataug",
        description="Better semantic segmentation by training the decoder on features generated from label masks.",
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"feataug {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=name)
        command.add_argument(
            "--output", type=Path, default=Path("runs") / name, metavar="DIR", help="folder for result.json and the rest"
        )
        command.add_argument("--seed", type=NOT_NEGATIVE, default=0, help="decides data order, weights and noise")
        command.add_argument(
            "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto takes a GPU where there is one"
        )
        command.add_argument("--quiet", action="store_true", help="no progress bars")
        command.add_argument("--traceback", action="store_true", help="show where an error was raised")
        return command

    def add_data(command: argparse.ArgumentParser, training: bool, shape: tuple[int, int] | None = (240, 320)) -> None:
        command.add_argument("--data", type=Path, metavar="DIR", help="the data set's folder")
        command.add_argument(
            "--dataset", default="camvid", choices=("camvid", "cityscapes", "ade20k", "idd", "folder", "scenes"),
            help="camvid: train/ trainannot/ val/ valannot/; cityscapes, ade20k, idd (IDD-Lite): as they are downloaded; "
            "folder: SPLIT/images and SPLIT/masks, or other usual layouts; scenes: drawn on the spot, no --data",
        )  # fmt: skip
        add_folder(command, training)
        if training:
            command.add_argument("--split", default="train", help="split to train on")
        command.add_argument("--eval-split", default="val", help="split to measure on")
        command.add_argument(
            "--size", type=POSITIVE, nargs=2, default=shape, metavar=("ROWS", "COLUMNS"), help="size of crops and of evaluation"
        )
        command.add_argument("--batch-size", type=POSITIVE, default=16, help="images in a batch")
        command.add_argument("--workers", type=NOT_NEGATIVE, default=0, help="processes that load images")

    def add_folder(command: argparse.ArgumentParser, training: bool) -> None:
        command.add_argument("--classes", nargs="+", metavar="NAME", help="class names, for --dataset folder")
        command.add_argument("--void", type=ANY, default=255, help="label of void in the files of --dataset folder")
        command.add_argument(
            "--ids", nargs="+", metavar="LABEL=CLASS",
            help="what labels in the files of --dataset folder mean: 0=0 255=1, 7=road 0=void; any other label is an error",
        )  # fmt: skip
        command.add_argument(
            "--colors", nargs="+", metavar="R,G,B", help="colours of the classes, for colour-coded masks; or NAME=R,G,B, void=R,G,B"
        )
        command.add_argument(
            "--folders", nargs=2, metavar=("IMAGES", "MASKS"),
            help="folders of --dataset folder within --data, with {split} for the split, where they are called otherwise",
        )  # fmt: skip
        command.add_argument("--endings", nargs=2, metavar=("IMAGES", "MASKS"), help="what the files' names end in before the suffix")
        lists = (("--names", "split"), ("--eval-names", "eval-split")) if training else (("--eval-names", "eval-split"),)
        for option, of in lists:
            command.add_argument(
                option, type=Path, metavar="FILE", help=f"names of the files of --{of}, one a line, such as VOC's train.txt"
            )

    def add_mixing(command: argparse.ArgumentParser, required: bool) -> None:
        command.add_argument(
            "--generator", metavar="FOLDER", required=required, help="a generator saved by `feataug fit-generator`, or a hub id"
        )
        command.add_argument(
            "--ratio",
            type=Number(low=0, high=1, open_high=True),
            help="synthetic share of a batch (0.3)",
        )
        command.add_argument(
            "--bank",
            type=NOT_NEGATIVE,
            default=0,
            help="keep so many synthetic samples and draw them again: a step makes a quarter of its own (0: all)",
        )
        command.add_argument("--label-smoothing", type=SHARE, default=1e-4, help="epsilon of Eq. (3), synthetic samples only")
        command.add_argument(
            "--preset", default="recommended", choices=("recommended", "paper", "random"),
            help="recommended: masks drawn evenly, bad pixels left out; paper: hard negatives; random: masks drawn evenly",
        )  # fmt: skip
        command.add_argument(
            "--power",
            type=Number(low=0),
            default=0.0,
            help="weigh up classes that are predicted too rarely, with the recommended preset (0: not at all; a class bias does the same "
            "for nothing)",
        )
        command.add_argument("--steps", type=POSITIVE, default=1000, help="optimiser steps")
        command.add_argument("--lr", type=Number(low=0), default=1e-3, help="first learning rate of the poly policy")

    add("demo", "The whole method on embedded scenes, in a few minutes on a CPU.")

    command = commands.add_parser(
        "inspect",
        help="List the places where a model can be cut.",
        description="List the places where a model can be cut: what crosses, and what lies on either side.",
    )
    command.set_defaults(command="inspect", device="cpu")
    command.add_argument(
        "model",
        metavar="MODEL",
        help="timm/NAME; a folder saved by `feataug finetune`; or MODULE:FUNCTION or FILE.py:FUNCTION, which is called and returns it",
    )
    command.add_argument(
        "--size", type=size, metavar="ROWSxCOLUMNS", help="size of the images (the model's own in timm, or 256x256)"
    )
    command.add_argument("--channels", type=POSITIVE, default=3, help="channels of the images")
    command.add_argument("--max-levels", type=POSITIVE, default=8, help="leave out places where more tensors cross")
    command.add_argument("--all", action="store_true", help="all places, where a network has more than twenty")
    command.add_argument("--output", type=Path, metavar="DIR", help="also write DIR/result.json")
    command.add_argument("--traceback", action="store_true", help="show where an error was raised")

    command = add(
        "stages", "Compare the places where a saved model can be cut: what the features look like, how well they can be generated."
    )
    add_data(command, training=True)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a model saved by `feataug finetune`, or a hub id")
    command.add_argument(
        "--at",
        nargs="+",
        metavar="LAYER",
        help="candidates, such as encoder.layer2 encoder.layer3; A,B for a cut at both; by default the images and some of feataug inspect",
    )
    command.add_argument(
        "--generator-images",
        type=NOT_NEGATIVE,
        default=0,
        help="train a generator on so many images at each place; without, no recommendation",
    )
    command.add_argument("--num-images", type=POSITIVE, default=3000, help="look at so many patches at most")
    command.add_argument("--min-cells", type=POSITIVE, default=100, help="leave out classes with fewer places")

    command = add("fit-generator", "Train a feature generator for a trained model.")
    add_data(command, training=True)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a model saved by `feataug finetune`, or a hub id")
    command.add_argument(
        "--at",
        required=True,
        nargs="+",
        metavar="LAYER",
        help="where the model is cut, such as encoder.layer3.0; feataug inspect lists places",
    )
    command.add_argument("--data-license", metavar="TEXT", help="licence of the data, for the card of the saved model")
    command.add_argument("--preset", default="default", choices=("default", "paper"), help="architecture and objective")
    command.add_argument("--images", type=POSITIVE, default=20_000, help="length of training, counted in images")
    command.add_argument("--lr", type=Number(low=0), help="learning rate, instead of the preset's")
    command.add_argument(
        "--skip-quality",
        action="store_true",
        help="leave out what is measured after training: Fréchet distance, precision, recall, and the test for copied features",
    )

    command = add("finetune", "Train a segmentation model, with synthetic features if a generator is given.")
    add_data(command, training=True)
    command.add_argument("--model", metavar="FOLDER", help="a saved model to train further, or a hub id")
    command.add_argument("--encoder", metavar="NAME", help="instead of --model: a new PSPNet on this timm encoder")
    command.add_argument("--data-license", metavar="TEXT", help="licence of the data, for the card of the saved model")
    command.add_argument("--pretrained", action="store_true", help="with --encoder: ImageNet weights from the hub")
    command.add_argument("--output-stride", type=int, default=8, choices=(8, 16, 32), help="with --encoder")
    command.add_argument(
        "--eval-size", type=POSITIVE, nargs=2, metavar=("ROWS", "COLUMNS"),
        help="size of evaluation, where it is not that of the crops: windows or whole images, training images decide",
    )  # fmt: skip
    command.add_argument("--skip-bias", action="store_true", help="fit no class bias on training images after training")
    add_mixing(command, required=False)

    command = add("fit-bias", "Fit a number for each class, and whether to predict by windows, to a saved model on training images.")
    add_data(command, training=True, shape=None)
    command.set_defaults(output=None)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a saved model, or a hub id")
    command.add_argument(
        "--measure", default="miou", choices=("pixel_acc", "class_acc", "miou", "fw_iou"), help="what the numbers are fitted to"
    )
    command.add_argument("--images", type=POSITIVE, default=50, help="training images that are read, spread evenly")
    command.add_argument(
        "--crop-size", type=POSITIVE, nargs=2, metavar=("ROWS", "COLUMNS"),
        help="size of the model's training crops, where its folder does not say; windows have this size",
    )  # fmt: skip

    command = add("compare", "Does it help? A model trained further with and without synthetic features, on paired seeds.")
    add_data(command, training=True)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a saved model, or a hub id")
    add_mixing(command, required=True)
    command.add_argument("--seeds", type=POSITIVE, default=3, help="pairs of runs, with seeds from --seed on")
    command.add_argument(
        "--skip-weights",
        action="store_true",
        help="with --power: leave out the arm that has the class weights and no synthetic features",
    )
    command.add_argument("--skip-bias", action="store_true", help="measure without a class bias, which is fitted to every arm on training images")
    way = command.add_mutually_exclusive_group()
    way.add_argument(
        "--window",
        type=POSITIVE,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="predict by windows of this size (by default, of --size where that is better on training images)",
    )
    way.add_argument("--whole", action="store_true", help="predict whole images")
    command.add_argument(
        "--ceiling-split",
        metavar="NAME",
        help="a positive control: real features of this split, whose labels no other arm sees, in the place of synthetic ones",
    )

    command = add("teach", "What do the features teach? Fresh decoders trained on real, on synthetic and on Gaussian features alone.")
    add_data(command, training=True)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a model saved by `feataug finetune`, or a hub id")
    command.add_argument(
        "--generator", required=True, metavar="FOLDER", help="a generator saved by `feataug fit-generator`, or a hub id"
    )
    command.add_argument(
        "--pretrained",
        action="store_true",
        help="begin with the encoder's ImageNet weights from the hub after the cut; without, with random ones",
    )
    command.add_argument("--seeds", type=POSITIVE, default=2, help="runs of each source, with seeds from --seed on")
    command.add_argument("--steps", type=POSITIVE, default=400, help="optimiser steps of each run")
    command.add_argument("--lr", type=Number(low=0), default=0.05, help="first learning rate of the poly policy")

    command = add("evaluate", "Measure a saved model: PixelAcc, ClassAcc, mIoU, fwIoU.")
    add_data(command, training=False, shape=None)
    command.add_argument("--model", required=True, metavar="FOLDER", help="a saved model, or a hub id")
    command.add_argument(
        "--scales",
        type=Number(low=0, open_low=True),
        nargs="+",
        metavar="FACTOR",
        help="average over several scales of the images",
    )
    command.add_argument("--flip", action="store_true", help="average with the mirror images")
    command.add_argument(
        "--window", type=POSITIVE, nargs=2, metavar=("ROWS", "COLUMNS"), help="slide a window of this size, by two thirds of it"
    )
    command.add_argument("--plain", action="store_true", help="take nothing from the inference.json in the model's folder")

    command = commands.add_parser(
        "report",
        help="Make one HTML page of a run.",
        description="Make one HTML page of what a command left in a folder: settings, measures, curves, pictures, warnings with advice. It "
        "needs neither the data nor the model, and the page needs no network.",
    )
    command.set_defaults(command="report")
    command.add_argument("run", type=Path, metavar="RUN", help="the --output of any other command")
    command.add_argument("--output", type=Path, metavar="FILE", help="where the page goes (RUN/report.html)")
    command.add_argument("--traceback", action="store_true", help="show where an error was raised")

    for name, command in commands.choices.items():
        _complete(name, command, commands.choices)
    return parser


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, argparse.ArgumentParser | None]:
    """The options of a call, those of its ``--config`` file among them, and, if it is a dry run, the parser of its command.

    Raises:
        ConfigError: the file cannot be read, does not fit, or holds the settings of another preset; options contradict each other, or
            would do nothing.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.config is not None:
        # Reading the file made its values the defaults: what the command line says is taken once more, and wins.
        args = parser.parse_args(argv)
    found = vars(args)
    command, dry, file, preset = (found.pop(name) for name in ("parser", "dry_run", "config", "preset_of_settings"))
    if args.command == "fit-generator" and preset not in (None, args.preset):
        raise ConfigError(
            message(
                f"feataug: {file}: its settings are of another preset.",
                given=f"--preset {args.preset}",
                needed=f"--preset {preset}, or no [fit-generator.{TABLE}], which holds what that preset decides",
            )
        )
    if args.command == "finetune":
        check_finetune(args, given_options(parser, argv, command))
    if args.command == "compare":
        check_compare(args)
    return args, command if dry else None


def _complete(name: str, command: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """What every command has."""
    command.formatter_class, command.epilog = Look, command.epilog or examples(name)
    for action in list(command._actions):
        if isinstance(action, argparse._StoreTrueAction):
            # What a file switches on, the command line can switch off.
            flag = action.option_strings[-1].replace("--", "--no-", 1)
            command.add_argument(flag, dest=action.dest, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.add_argument(
        "--config",
        type=Path,
        action=ReadConfig,
        metavar="FILE",
        commands=commands,
        command=name,
        help="take options from a TOML or JSON file; those given here win",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="print all options and settings, as such a file, and do nothing else"
    )
    command.set_defaults(parser=command, settings={}, preset_of_settings=None)
