"""Make the files of this folder with the installed feataug: ``python tests/io/saved/make.py FOLDER``. See README.md."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from feataug import (
    DatasetMasks,
    FeatureGenerator,
    FeatureMixer,
    FinetuneConfig,
    Finetuner,
    GeneratorConfig,
    GeneratorTrainer,
    split,
)
from feataug.data import seeded_loader

CLASSES, SIZE = 3, (8, 12)
# The commit that made the files knew one objective, BicycleGAN's, which needed no name.
NAMED = hasattr(GeneratorConfig, "bicyclegan")
PRESET = {"preset": "bicyclegan"} if NAMED else {}
OBJECTIVE = {"objective": "bicyclegan"} if NAMED else {}


def data() -> list:
    """Six images and masks, the same for every version of feataug."""
    rng = torch.Generator().manual_seed(0)
    masks = torch.randint(CLASSES, (6, *SIZE), generator=rng)
    images = nn.functional.one_hot(masks, CLASSES).permute(0, 3, 1, 2).float()
    return list(zip(images + 0.1 * torch.randn(images.shape, generator=rng), masks, strict=True))


def setup() -> tuple:
    """A cut of a small model, and a generator for it."""
    torch.manual_seed(0)
    cut = split(nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, CLASSES, 1)), "1")
    return cut, FeatureGenerator(CLASSES, cut.spec, mask_widths=(4,), width=4, depth=0, latent_dim=2, **PRESET)


def generator_trainer(folder: Path | None) -> tuple:
    """A training of the generator, and the generator."""
    cut, generator = setup()
    lengths = {"num_images": 8, "stats_images": 4, "snapshot_images": 4, "ema_images": 4}
    config = GeneratorConfig(critic_width=2, critic_scales=1, **lengths, **OBJECTIVE)
    return GeneratorTrainer(generator, cut, config, output=folder, device="cpu", progress=False), generator


def finetuner(folder: Path | None) -> tuple:
    """A training of the model on mixed batches, and the model."""
    cut, generator = setup()
    mixer = FeatureMixer(generator, DatasetMasks(data()), 0.4, cut=cut)
    config = FinetuneConfig(num_steps=4, lr=0.05, save_every=2)
    return Finetuner(cut.model, config, mixer=mixer, cut=cut, output=folder, device="cpu", progress=False), cut.model


def loader():
    """Batches of two, in an order that the seed decides."""
    return seeded_loader(data(), 2, seed=1)


def main(folder: Path) -> None:
    """Save a generator with one of its outputs, a checkpoint from the middle of each training, and what both end with."""
    torch.set_num_threads(1)
    expected = {}
    for make in (generator_trainer, finetuner):
        trainer, module = make(folder / make.__name__)
        trainer.fit(loader())
        expected |= {f"{make.__name__}/{name}": value.clone().contiguous() for name, value in module.state_dict().items()}
        run = folder / make.__name__
        first = min(run.glob("checkpoint-*"))
        # Most of a checkpoint this small is its header, which compresses well.
        (folder / f"{make.__name__}-{first.name}.gz").write_bytes(gzip.compress(first.read_bytes(), mtime=0))
        for file in run.iterdir():
            file.unlink()
        run.rmdir()
        if make is generator_trainer:
            module.save_pretrained(folder / "generator")
            (folder / "generator" / "README.md").unlink()
            masks = torch.stack([mask for _, mask in data()[:1]])
            z = torch.linspace(-1, 1, module.latent_dim)[None]
            (expected["output"],) = (level.detach().contiguous() for level in module(masks, z))
    save_file(expected, folder / "expected.safetensors")
    (folder / "versions.json").write_text(json.dumps({"torch": torch.__version__, "python": sys.version.split()[0]}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
