"""What several commands do: read the data set, make loaders and mask sources, keep samples, print once."""

from __future__ import annotations

import argparse
from typing import Any

# Number of embedded scenes in each split.
SCENES = {"train": 256, "val": 64}


def read_split(args: argparse.Namespace, split: str, transforms: Any, size: Any = None) -> Any:
    """The data set of a split; ``size`` is that of embedded scenes if they are not drawn at ``--size``."""
    from feataug.cli.folder_dataset import folder_data
    from feataug.data import ADE20K, CamVid, Cityscapes, IDDLite, Scenes

    if args.dataset == "scenes":
        # Splits have different seeds, and therefore different scenes.
        is_ceiling = split != args.eval_split and split == getattr(args, "ceiling_split", None)
        count = SCENES["train" if split == "train" or is_ceiling else "val"]
        seed = 0 if split == "train" else 1 + is_ceiling
        return Scenes(count, tuple(size or args.size or (96, 128)), seed=seed, transforms=transforms)
    official: dict[str, Any] = {"camvid": CamVid, "cityscapes": Cityscapes, "ade20k": ADE20K, "idd": IDDLite}
    if args.dataset in official:
        return official[args.dataset](args.data, split, transforms=transforms)
    return folder_data(args, split, transforms)


def training_split(args: argparse.Namespace, split: str | None = None) -> Any:
    """``--split``, or another one, with random crops of ``--size``."""
    from feataug.data.transforms import train_transforms

    return read_split(args, split or args.split, train_transforms(tuple(args.size)))


def plain_split(args: argparse.Namespace, split: str, size: Any = None) -> Any:
    """A split without random transforms, at ``size`` or ``--size`` if one of them is given."""
    from feataug.data.transforms import eval_transforms

    shape = size or args.size
    return read_split(args, split, eval_transforms(tuple(shape) if shape else None), size)


def train_loader(args: argparse.Namespace, data: Any, seed: int | None = None) -> Any:
    """Shuffled batches, in an order that ``seed`` or ``--seed`` decides."""
    from feataug.data.loader import seeded_loader

    return seeded_loader(data, args.batch_size, seed=args.seed if seed is None else seed, num_workers=args.workers)


def eval_loader(args: argparse.Namespace, data: Any) -> Any:
    """Batches in the data set's order."""
    from feataug.data.loader import seeded_loader

    return seeded_loader(data, args.batch_size, shuffle=False, num_workers=args.workers)


def mixing_settings(args: argparse.Namespace, cut: Any, train: Any) -> dict[str, Any]:
    """Arguments of ``FeatureMixer`` and ``compare`` that ``--preset``, ``--ratio``, ``--bank`` and ``--power`` stand for."""
    from feataug.masks import DatasetMasks, HardNegativeSampler
    from feataug.mixing.recommended_settings import recommended
    from feataug.training.device import make_accelerator

    ratio = {} if args.ratio is None else {"ratio": args.ratio}
    bank = {"bank": args.bank} if args.bank else {}
    if args.preset != "recommended":
        masks = DatasetMasks(train)
        return {"masks": HardNegativeSampler(masks) if args.preset == "paper" else masks} | ratio | bank
    loader = eval_loader(args, plain_split(args, args.split))
    device = make_accelerator(args.device, "no").device
    return recommended(cut, train, loader, train.num_classes, power=args.power, device=device, **ratio) | bank


def save_samples(args: argparse.Namespace, data: Any, loader: Any, models: Any = None, cut: Any = None, generator: Any = None) -> None:
    """Keep pictures of some validation images for the page of ``feataug report``."""
    from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD
    from feataug.io.samples import SAMPLES, keep_samples

    about: Any = {"classes": data.classes, "palette": data.palette, "units": (IMAGENET_MEAN, IMAGENET_STD), "cut": cut}
    keep_samples(args.output / SAMPLES, loader, models, generator=generator, **about)


def print_main(text: str) -> None:
    """Print on the main process only."""
    from feataug.core.distributed import is_main

    if is_main():
        print(text)
