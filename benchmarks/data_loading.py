"""A generator's training with its data against the same steps on a batch that is there: ``python -m benchmarks.data_loading``.

Data come as images (PNG files of 360 x 480 that are decoded, cropped and encoded on the way; the other side encodes, too), by worker processes
and without, or from a ``FeatureBank`` (the other side has the features). The ratio is what loader, and reading, cost.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import frozen_lite0, name_of, parser, race, write
from feataug import FeatureBank, FeatureGenerator, GeneratorConfig
from feataug.data import MaskedImages, Scenes, seeded_loader, train_transforms
from feataug.training.batches import endless
from feataug.training.bicyclegan import BicycleGANObjective
from feataug.training.device import keep_freed_memory, make_accelerator

SIZE, BATCH, IMAGES = (224, 288), 8, 48


def draw(folder: Path) -> MaskedImages:
    """Scenes as PNG files at CamVid's size."""
    scenes = Scenes(IMAGES, (360, 480))
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for index in range(IMAGES):
        image, mask = scenes[index]
        Image.fromarray(np.asarray(image).transpose(1, 2, 0).astype(np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(np.asarray(mask).astype(np.uint8)).save(folder / "masks" / f"{index}.png")
    return MaskedImages(folder / "images", folder / "masks", Scenes.classes, transforms=train_transforms(SIZE))


def main() -> None:
    args = parser(__doc__).parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    cut = frozen_lite0(Scenes.num_classes)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        data = draw(Path(name))
        workers = 4 if args.device == "cuda" else 2
        loader, alone = seeded_loader(data, BATCH, seed=0, num_workers=workers), seeded_loader(data, BATCH, seed=0)
        bank = FeatureBank.write(Path(name) / "bank", cut, loader, IMAGES, progress=False)
        sources = {f"images, {workers} workers": loader, "images, no workers": alone, "bank": seeded_loader(bank, BATCH, seed=0)}
        for kind, source in sources.items():
            objective = BicycleGANObjective(FeatureGenerator(Scenes.num_classes, cut.spec, "bicyclegan"), cut, GeneratorConfig.bicyclegan())
            objective.prepare(make_accelerator(args.device, "no"))
            batches: Any = endless(source)
            there = next(batches)
            fed, still = (lambda o=objective, b=batches: o.step(*next(b), 0)), (lambda o=objective, t=there: o.step(*t, 0))
            found = race(fed, still, seconds=args.seconds, device=args.device)
            about = {
                "bound": "for comparison" if source is alone else "at most 1.05",
                "labels": kind,
                "device": name_of(args.device),
                "shape": [BATCH, 3, *SIZE],
            }
            lines.append({"claim": "waiting_for_data"} | found | about)
    write("data_loading", args.device, lines)


if __name__ == "__main__":
    main()
