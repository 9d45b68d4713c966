"""The data sets that studies run on, the sizes that suit them, and the options that all studies share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from feataug.core.rng import generator_for
from feataug.data import ADE20K, CamVid, Cityscapes, IDDLite, MaskedImages


@dataclass(frozen=True)
class Setup:
    """Settings of one data set. Crops are taken at about the images' own resolution; models are measured by windows of the crops' size."""

    reader: Any
    size: tuple[int, int]
    scale: tuple[float, float]
    base_steps: int
    # Whole images in a batch when a model is measured; 1 where images differ in size.
    whole: int = 12


def folder(root: Path, split: str, *, transforms: Any) -> MaskedImages:
    """Any data set in ``root/SPLIT/images``, ``root/SPLIT/masks`` and ``root/classes.txt`` (one name per line)."""
    classes = (root / "classes.txt").read_text().split("\n")
    return MaskedImages(root / split / "images", root / split / "masks", [c for c in classes if c], transforms=transforms)


SETUPS = {
    # 360 x 480: scale 1.67 is the images' own resolution.
    "camvid": Setup(CamVid, (224, 288), (1.0, 2.5), 1500),
    "idd": Setup(IDDLite, (224, 320), (0.75, 1.75), 1400),
    # PSPNet's crops, at 0.5 to 2 times the images' own resolution (of ADE20K's many sizes, 512 x 683).
    "cityscapes": Setup(Cityscapes, (713, 713), (1.44, 5.74), 20_000, whole=4),
    "ade20k": Setup(ADE20K, (473, 473), (0.72, 2.9), 50_000, whole=1),
    "folder": Setup(folder, (224, 288), (1.0, 2.5), 1500),
}


class FractionOf(Subset):
    """A fixed random fraction of a data set, or the ``rest`` of it; it also reads masks without their images."""

    def __init__(self, dataset: Any, fraction: float, *, rest: bool = False) -> None:
        order = torch.randperm(len(dataset), generator=generator_for(0, "fraction", 0)).tolist()
        count = max(1, round(fraction * len(dataset)))
        super().__init__(dataset, sorted(order[count:] if rest else order[:count]))
        self.classes, self.palette, self.transforms = dataset.classes, dataset.palette, dataset.transforms

    def mask(self, index: int) -> torch.Tensor:
        """The mask alone, without transforms."""
        return self.dataset.mask(self.indices[index])


_DECODED: dict[str, tuple[list[Any], list[Any]]] = {}


def in_memory(dataset: MaskedImages) -> MaskedImages:
    """The data set with all files decoded once, for this process and those that it forks, so that a GPU does not wait for files."""
    key = str(dataset.image_files[0].parent)
    if key not in _DECODED:
        _DECODED[key] = [dataset.image(n) for n in range(len(dataset))], [dataset.mask(n) for n in range(len(dataset))]
    images, masks = _DECODED[key]
    dataset.image, dataset.mask = images.__getitem__, masks.__getitem__  # type: ignore[method-assign]
    return dataset


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all studies on these data sets share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--dataset", choices=tuple(SETUPS), required=True)
    parser.add_argument("--eval-split", choices=("val", "test"), default="val")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training images that are used")
    parser.add_argument("--half", action="store_true", help="take all images at half their resolution, for a quarter of the time")
    parser.add_argument("--quick", action="store_true", help="check in minutes that everything runs; the figures mean nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--in-memory", action="store_true", help="decode all images once and cache the arms' batches in files (some GB), for a GPU"
    )
    parser.add_argument("--workers", type=int, default=0, help="worker processes that load images for a base model and a generator")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of checkpoints and finished stages; runs/compare-DATASET by default, runs/quick-DATASET with --quick",
    )
    parser.add_argument("--result", type=Path, help="the JSON file of figures; studies/results/STUDY-DATASET.json by default")
    return parser


def parse(
    parser: argparse.ArgumentParser, name: str, argv: Sequence[str] | None = None, ending: Callable[[argparse.Namespace], str] = lambda args: ""
) -> argparse.Namespace:
    """Parse ``argv`` (by default the command line), and name the folders after the data set and the fraction.

    Args:
        parser: The study's parser.
        name: The study.
        argv: The command line.
        ending: What the name of the result file ends in, by the options, unless ``--result`` names it.
    """
    args = parser.parse_args(argv)
    data = args.dataset + ("-half" if args.half else "") + (f"-{args.fraction:g}" if args.fraction < 1 else "")
    if args.quick:
        # A folder of its own: quick figures must not be mistaken for results.
        args.output = args.output or Path("runs") / f"quick-{data}"
        args.result = args.result or args.output / "results" / f"{name}{ending(args)}.json"
    args.output = args.output or Path("runs") / f"compare-{data}"
    args.result = args.result or Path("studies/results") / f"{name}-{data}{ending(args)}.json"
    return args
