"""``feataug inspect``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from feataug.cli.command_parser import CommandParser
from feataug.cli.option_types import POSITIVE, size
from feataug.errors import ConfigError, FeatAugError

SUMMARY = "List the places where a model can be cut: the tensors that cross, and the share of the model before the cut."
EXAMPLES = (
    "feataug inspect timm/resnet50 --size 512x512",
    "feataug inspect runs/base",
    "feataug inspect mypackage.models:build",
    "feataug inspect ./mymodel.py:build --size 256x512",
)


def add_options(command: CommandParser) -> None:
    command.add_option(
        "model", metavar="MODEL",
        help="timm/NAME; a folder saved by `feataug finetune`; or MODULE:FUNCTION or FILE.py:FUNCTION, which is called to get the model",
    )  # fmt: skip
    command.add_option(
        "--size", type=size, metavar="ROWSxCOLUMNS", help="size of the images (default: timm's for this model, or 256x256)"
    )
    command.add_option("--channels", type=POSITIVE, default=3, help="channels of the images")
    command.add_option("--max-levels", type=POSITIVE, default=8, help="leave out places where more tensors than this cross the cut")
    command.add_flag("--all", help="list all places of a network that has more than twenty")
    command.add_option("--output", type=Path, metavar="DIR", help="also write DIR/result.json")
    command.set_defaults(device="cpu")


def run(args: argparse.Namespace) -> None:
    import torch

    from feataug.cli.model_names import named_model
    from feataug.cli.user_models import code_file
    from feataug.cutting.cut_points import cuts, shortlist
    from feataug.io.results import write_result
    from feataug.reporting.tables import places_table

    model = named_model(args.model)
    if (file := code_file(args.model)) is not None:
        # Several files can have the name. On the standard error, so that the standard output holds the table alone.
        print(f"{args.model}: {type(model).__name__} from {file}", file=sys.stderr)
    # timm sets default_cfg; a user's own model may have something else under that name.
    known = getattr(model, "default_cfg", None)
    native = (known if isinstance(known, dict) else {}).get("input_size", (args.channels, 256, 256))
    rows, columns = args.size or native[1:]
    try:
        images = torch.zeros(1, args.channels, rows, columns)
        found = cuts(model, images, max_levels=args.max_levels, everything=True)
    except FeatAugError:
        raise
    except Exception as error:
        given = f"{args.channels} x {rows} x {columns}: {type(error).__name__}: {error}"
        raise ConfigError("feataug inspect: the model does not take such images.", given=given, needed="another --size") from error
    places = found if args.all else shortlist(found)
    print(places_table(places))
    rest = f"; {len(found) - len(places)} more with --all" if len(found) > len(places) else ""
    print(f"{len(places)} places where {args.model} can be cut whole, at {rows} x {columns}; `/` is the stride{rest}")
    if args.output is not None:
        write_result(args.output, {"model": args.model, "size": [rows, columns], "places": [place.to_dict() for place in places]})
