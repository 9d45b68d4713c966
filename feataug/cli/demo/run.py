"""Run the whole method on the embedded scenes, in a few minutes on a CPU: few labelled scenes, many masks without images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from feataug.cli.demo.network import StreetNet, train_base
from feataug.core.rng import derive_seed, seeded
from feataug.cutting.cut import split
from feataug.data.loader import seeded_loader
from feataug.data.scenes.dataset import Scenes
from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transforms, train_transforms
from feataug.evaluation.comparison.compare import compare
from feataug.generation.generator import FeatureGenerator
from feataug.io.results import recognition_summary, write_result
from feataug.io.samples import SAMPLES, Samples, keep_samples
from feataug.masks import DatasetMasks
from feataug.reporting.plots import color_masks, save_grid
from feataug.training.config import FinetuneConfig, GeneratorConfig
from feataug.training.device import make_accelerator
from feataug.training.generator_trainer import GeneratorTrainer


@dataclass(frozen=True)
class DemoConfig:
    """The sizes of the demo. The defaults take under four minutes on two cores."""

    size: tuple[int, int] = (96, 128)
    crowd: int = 4
    labelled: int = 32
    unlabelled: int = 224
    val_images: int = 128
    batch_size: int = 8
    base_steps: int = 1000
    generator_images: int = 1600
    further_steps: int = 120
    further_lr: float = 0.12
    ratio: float = 0.65
    pairs: int = 3
    at: str = "encoder"


def run_demo(
    output: str | Path, *, seed: int = 0, device: str | None = "auto", config: DemoConfig | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train a small model on few labelled scenes, then further: with masks that have no images, without them, and with their images.

    Args:
        output: The folder for ``result.json``, ``demo.png``, and the files of each stage that ``feataug report`` shows. Finished stages
            of the same run are not repeated.
        seed: Seeds the scenes, the weights and the noise.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        config: The sizes.
        progress: Shows progress bars.

    Returns:
        The content of ``result.json``: what ``compare`` returns, with the arms ``control``, ``feataug`` and ``ceiling``, and
        ``recognition``, the generator's score.

    Raises:
        CheckpointError: the folder holds a run with other settings.
    """
    config = config or DemoConfig()
    output = Path(output)
    on = make_accelerator(device, "no").device
    transforms = train_transforms(config.size, scale=(1.0, 1.5))
    labelled = Scenes(config.labelled, config.size, seed=3 * seed, crowd=config.crowd, transforms=transforms)
    # Their images are read by the ceiling alone.
    unlabelled = Scenes(config.unlabelled, config.size, seed=3 * seed + 1, crowd=config.crowd, transforms=transforms)
    val = Scenes(config.val_images, config.size, seed=3 * seed + 2, crowd=config.crowd, transforms=eval_transforms())
    loader = seeded_loader(labelled, config.batch_size, seed=seed)
    val_loader = seeded_loader(val, config.batch_size, shuffle=False)
    with seeded(derive_seed(seed, "model"), torch.get_default_device()):
        model = StreetNet(labelled.num_classes).to(on)
    sizes = ("size", "crowd", "labelled", "batch_size", "base_steps")
    train_base(
        model, loader, labelled, config.base_steps, folder=output / "base", text=f"{'base':<10}", progress=progress,
        settings={"demo": {name: asdict(config)[name] for name in sizes}, "seed": seed},
    )  # fmt: skip
    cut = split(model, at=config.at)
    with seeded(derive_seed(seed, "generator"), torch.get_default_device()):
        generator = FeatureGenerator(labelled.num_classes, cut.spec)
    images = config.generator_images
    settings = GeneratorConfig(
        num_images=images, lr=8e-3, ema_images=100, seed=seed, log_images=max(images // 40, 1), eval_images=max(images // 2, 1)
    )  # fmt: skip
    bar = f"{'generator':<10}" if progress else False
    trainer = GeneratorTrainer(generator, cut, settings, output=output / "generator", device=device, progress=bar)
    recognised = trainer.fit(loader, val_loader)[-1]
    samples = keep_samples(
        output / SAMPLES, val_loader, cut=cut, generator=generator, classes=labelled.classes, palette=labelled.palette,
        units=(IMAGENET_MEAN, IMAGENET_STD),
    )  # fmt: skip
    if samples is not None:
        _picture(output / "demo.png", samples, labelled.palette)
    cut.remove()
    result = compare(
        model, config.at, generator, DatasetMasks(unlabelled),
        loader=lambda number: seeded_loader(labelled, config.batch_size, seed=number),
        ceiling=lambda number: seeded_loader(unlabelled, config.batch_size, seed=number), val_loader=val_loader,
        config=FinetuneConfig(num_steps=config.further_steps, lr=config.further_lr), seeds=range(config.pairs * seed, config.pairs * (seed + 1)),
        ratio=config.ratio, classes=labelled.classes, output=output, device=device, progress=progress,
    )  # fmt: skip
    about = {"data": "embedded scenes", "network": "StreetNet", "seed": seed, "device": str(on)}
    result["settings"] |= {"demo": about | asdict(config)}
    result["recognition"] = recognition_summary(recognised, labelled.classes)
    write_result(output, result)
    return result


def _picture(path: Path, samples: Samples, palette: Any) -> None:
    """Write a grid of images, masks, real and synthetic features, and what the decoder predicts from both."""
    columns = {"image": samples.images, "mask": color_masks(samples.masks, palette)}
    columns |= {name if name.startswith("synthetic") else f"{name} features": x for name, x in samples.colors.items()}
    titles = {"real features": "decoded from real", "synthetic features": "decoded from synthetic"}
    save_grid(path, columns | {titles.get(name, name): color_masks(x, palette) for name, x in samples.predictions.items()})
