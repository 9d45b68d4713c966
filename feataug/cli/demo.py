"""Run the whole method on the embedded scenes, in a few minutes on a CPU."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feataug.core.measures import MEASURES, TITLES
from feataug.core.rng import derive_seed, seeded
from feataug.cutting.cut import split
from feataug.data.loader import seeded_loader
from feataug.data.scenes.dataset import Scenes
from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transforms, train_transforms
from feataug.evaluation.comparison.compare import train_arm
from feataug.generation.generator import FeatureGenerator
from feataug.inference.evaluate import evaluate
from feataug.io.results import by_class, recognition_summary, write_result
from feataug.io.samples import SAMPLES, Samples, keep_samples
from feataug.masks import DatasetMasks, HardNegativeSampler
from feataug.models import PSPNet
from feataug.reporting.plots import color_masks, save_grid
from feataug.reporting.tables import table
from feataug.training.config import FinetuneConfig, GeneratorConfig
from feataug.training.finetuner import Finetuner
from feataug.training.generator_trainer import GeneratorTrainer


@dataclass(frozen=True)
class DemoConfig:
    """The sizes of the demo. The defaults take about three minutes on two cores."""

    size: tuple[int, int] = (96, 128)
    train_images: int = 256
    val_images: int = 64
    batch_size: int = 8
    base_steps: int = 520
    generator_images: int = 2400
    finetune_steps: int = 120
    at: str = "encoder.layer3.0"


def run_demo(
    output: str | Path, *, seed: int = 0, device: str | None = "auto", config: DemoConfig | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train a small model and a generator; then train the model further with and without synthetic features.

    Args:
        output: The folder for ``result.json``, ``demo.png``, and the files of each stage that ``feataug report`` shows.
        seed: Seeds the scenes, the weights and the noise.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        config: The sizes.
        progress: Shows progress bars.

    Returns:
        The content of ``result.json``: ``base``, ``control`` and ``feataug`` hold the four measures in percent and ``per_class``;
        ``recognition`` is the generator's score; ``seconds`` holds the duration of each stage.
    """
    config = config or DemoConfig()
    output = Path(output)
    folders = {name: output / name for name in ("base", "generator", "control", "feataug")}
    for folder in folders.values():
        _remove_checkpoints(folder)
        (folder / "stats.jsonl").unlink(missing_ok=True)
    clock = _Clock()
    train = Scenes(config.train_images, config.size, seed=2 * seed, transforms=train_transforms(config.size, scale=(0.75, 1.5)))
    val = Scenes(config.val_images, config.size, seed=2 * seed + 1, transforms=eval_transforms())
    loader = seeded_loader(train, config.batch_size, seed=seed)
    val_loader = seeded_loader(val, config.batch_size, shuffle=False)
    with seeded(derive_seed(seed, "model"), torch.get_default_device()):
        small = {"channels": (32, 64, 96, 128), "stem_width": 16}
        model = PSPNet("resnet10t", train.num_classes, output_stride=8, width=64, encoder_kwargs=small)
        cut = split(model, at=config.at)
        generator = FeatureGenerator(train.num_classes, cut.spec)

    def bar(text: str) -> str | bool:
        return f"{text:<10}" if progress else False

    base_config = FinetuneConfig(num_steps=config.base_steps, lr=0.1, seed=seed)
    watched = replace(base_config, eval_every=max(config.base_steps // 4, 1))
    tuner = Finetuner(model, watched, output=folders["base"], device=device, progress=bar("base"))
    on = tuner.accelerator.device

    def validate(candidate: nn.Module) -> dict[str, Any]:
        return evaluate(candidate, val_loader, train.num_classes, device=on)

    base = tuner.fit(loader, validate)[-1]
    clock.lap("base")
    images = config.generator_images
    settings = GeneratorConfig(
        num_images=images, lr=8e-3, ema_images=100, seed=seed, log_images=max(images // 40, 1), eval_images=max(images // 4, 1)
    )  # fmt: skip
    trainer = GeneratorTrainer(generator, cut, settings, output=folders["generator"], device=device, progress=bar("generator"))
    recognised = trainer.fit(loader, val_loader)[-1]
    clock.lap("generator")
    further = replace(base_config, num_steps=config.finetune_steps, lr=0.02)
    control_model, control = train_arm(
        model, config.at, loader, validate, further, output=folders["control"], progress=bar("control"), device=device
    )
    clock.lap("control")
    masks = HardNegativeSampler(DatasetMasks(train), candidates=48, keep=16, refresh_every=30)
    mixed_model, mixed = train_arm(
        model, config.at, loader, validate, further, generator=generator, masks=masks, output=folders["feataug"],
        progress=bar("feataug"), device=device,
    )  # fmt: skip
    clock.lap("feataug")
    for folder in folders.values():
        _remove_checkpoints(folder)
    samples = keep_samples(
        output / SAMPLES, val_loader, {"control": control_model, "feataug": mixed_model}, cut=cut, generator=generator,
        classes=train.classes, palette=train.palette, units=(IMAGENET_MEAN, IMAGENET_STD),
    )  # fmt: skip
    if samples is not None:
        _picture(output / "demo.png", samples, train.palette)
    clock.lap("picture")
    result = {
        "base": by_class(base, train.classes),
        "control": by_class(control, train.classes),
        "feataug": by_class(mixed, train.classes),
        "recognition": recognition_summary(recognised, train.classes),
        "seconds": clock.laps | {"total": round(sum(clock.laps.values()), 1)},
        "seed": seed,
        "device": str(on),
        "settings": {"data": "embedded scenes", "model": "PSPNet on resnet10t"} | asdict(config),
    }
    write_result(output, result)
    return result


def summary(result: dict[str, Any]) -> str:
    """The text that the demo prints: a table of the measures, and the differences in words."""
    score = result["recognition"]
    gains = ", ".join(f"{TITLES[name]} {result['feataug'][name] - result['control'][name]:+.2f}" for name in MEASURES)
    return "\n".join(
        [
            table({name: result[name] for name in ("base", "control", "feataug")}),
            "",
            f"recognition score (mIoU of the frozen decoder): real {score['real']:.2f}, synthetic {score['synthetic']:.2f}, "
            f"ratio {score['ratio']:.2f}; diversity {score['diversity']:.2f}",
            f"feataug minus control: {gains}   (one seed: differences of about one point are noise)",
            f"{result['seconds']['total']:.0f} s on {result['device']}",
        ]
    )


class _Clock:
    """A stopwatch: the seconds of each lap, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


def _remove_checkpoints(folder: Path) -> None:
    """Remove a stage's checkpoints, because a demo always starts from the beginning."""
    for checkpoint in folder.glob("checkpoint-*.safetensors"):
        checkpoint.unlink()


def _picture(path: Path, samples: Samples, palette: Any) -> None:
    """Write a grid of images, masks, real and synthetic features, and predictions."""
    columns = {"image": samples.images, "mask": color_masks(samples.masks, palette)}
    columns |= {name if name.startswith("synthetic") else f"{name} features": x for name, x in samples.colors.items()}
    titles = {"real features": "base on real", "synthetic features": "base on synthetic"}
    save_grid(path, columns | {titles.get(name, name): color_masks(x, palette) for name, x in samples.predictions.items()})
