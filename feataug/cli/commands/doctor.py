"""``feataug doctor``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from feataug.cli.command_parser import CommandParser
from feataug.cli.commands import options, shared
from feataug.cli.option_types import POSITIVE

SUMMARY = "What do the readers see of your data? Counts, sizes, labels, classes without pixels, files passed over; one HTML page."
EXAMPLES = (
    "feataug doctor --dataset scenes",
    "feataug doctor --data CamVid",
    "feataug doctor --data DIR --dataset folder --classes sky road car",
)


def add_options(command: CommandParser) -> None:
    options.add_source(command)
    command.add_option("--samples", type=POSITIVE, default=200, help="samples of each split to read at most, evenly spaced")
    command.add_flag("--all", help="read all samples")
    command.add_option("--output", type=Path, default=Path("runs/doctor"), metavar="DIR", help="folder for doctor.html and result.json")


def run(args: argparse.Namespace) -> None:
    from feataug.data.survey import survey
    from feataug.errors import FeatAugError
    from feataug.io.results import write_result
    from feataug.reporting.page.doctor_page import as_result, as_text, pictures_of, write_doctor_page
    from feataug.training.progress import progress_bar

    unnamed = args.dataset == "folder" and not args.classes
    if unnamed:
        # The names are what the user may not know yet.
        args.classes = [f"label {number}" for number in range(255)]
    readers: dict[str, Any] = {}
    found, pictures, missing = {}, {}, None
    for split in dict.fromkeys((args.split, args.eval_split)):
        try:
            data = shared.read_split(args, split, None, (96, 128))
        except FeatAugError as error:
            # What is wrong with one split is part of the answer, and the other one may be fine.
            missing = error
            print(f"{split}: {error}")
            continue
        limit = None if args.all else args.samples
        with progress_bar(min(len(data), limit or len(data)), 0, split, "sample", sys.stderr.isatty()) as bar:
            for seen in survey(data, limit):  # noqa: B007 -- it grows, and the last one is the whole
                bar.update(1)
        if unnamed:
            _name_labels(data, seen)
        readers[split], found[split], pictures[split] = data, seen, pictures_of(data)
        print(as_text(split, seen, data.classes))
    if missing is not None and not found:
        raise missing
    if unnamed:
        print(f"Name them with --classes, {max(len(data.classes) for data in readers.values())} names in the order of the labels.")
    write_result(args.output, as_result(found, readers))
    print(f"written: {write_doctor_page(args.output / 'doctor.html', found, pictures, readers)}")


def _name_labels(data: Any, seen: Any) -> None:
    """Leave out the labels above the highest that occurs."""
    highest = max((number for number, count in enumerate(seen.pixels[:-1]) if count), default=0) + 1
    data.classes, data.palette = data.classes[:highest], data.palette[:highest]
    keep = [*range(highest), -1]
    seen.pixels, seen.samples = seen.pixels[keep], seen.samples[keep]
