"""The whole method on the embedded scenes, in a few minutes on a CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feataug.data.scenes import Scenes
from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transforms, seeded_loader, train_transforms
from feataug.evaluation.compare import train_arm
from feataug.generator import FeatureGenerator
from feataug.losses import split_outputs
from feataug.masks import DatasetMasks, HardNegativeSampler
from feataug.metrics import MEASURES, evaluate
from feataug.models import PSPNet
from feataug.plots import color_masks, feature_colors, save_grid
from feataug.report import TITLES, by_class, recognition_summary, table, write_result
from feataug.seeds import derive_seed
from feataug.splitting import split
from feataug.training.config import FinetuneConfig, GeneratorConfig
from feataug.training.finetune import Finetuner
from feataug.training.generator import GeneratorTrainer


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo; the defaults take about three minutes on two cores."""

    size: tuple[int, int] = (96, 128)
    train_images: int = 256
    val_images: int = 64
    batch_size: int = 8
    base_steps: int = 520
    generator_images: int = 1600
    finetune_steps: int = 120
    at: str = "encoder.layer3.0"


def run_demo(
    output: str | Path, *, seed: int = 0, device: str | None = "auto", config: DemoConfig | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train a small model and a generator, then the model further with and without synthetic features.

    Args:
        output: Folder for ``result.json`` and ``demo.png``.
        seed: Of data, weights and noise.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        config: Sizes.
        progress: Show progress bars.

    Returns:
        The content of ``result.json``: ``base``, ``control``, ``feataug`` with the four measures in percent and ``per_class``;
        ``recognition``; ``seconds`` per stage.
    """
    config = config or DemoConfig()
    clock = _Clock()
    train = Scenes(config.train_images, config.size, seed=2 * seed, transforms=train_transforms(config.size, scale=(0.75, 1.5)))
    val = Scenes(config.val_images, config.size, seed=2 * seed + 1, transforms=eval_transforms())
    loader = seeded_loader(train, config.batch_size, seed=seed)
    val_loader = seeded_loader(val, config.batch_size, shuffle=False)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "model"))
        model = PSPNet(
            "resnet10t",
            train.num_classes,
            output_stride=8,
            width=64,
            encoder_kwargs={"channels": (32, 64, 96, 128), "stem_width": 16},
        )
        cut = split(model, at=config.at)
        generator = FeatureGenerator(train.num_classes, cut.spec, width=96, mask_widths=(36, 72, 144), depth=1)

    def bar(text: str) -> str | bool:
        return f"{text:<10}" if progress else False

    base_config = FinetuneConfig(num_steps=config.base_steps, lr=0.1, seed=seed)
    tuner = Finetuner(model, base_config, device=device, progress=bar("base"))
    on = tuner.accelerator.device

    def validate(candidate: nn.Module) -> dict[str, Any]:
        return evaluate(candidate, val_loader, train.num_classes, device=on)

    base = tuner.fit(loader, validate)[-1]
    clock.lap("base")
    trainer = GeneratorTrainer(
        generator,
        cut,
        GeneratorConfig(num_images=config.generator_images, lr=1e-3, critic_width=32, diversity_weight=0.3, seed=seed),
        device=device,
        progress=bar("generator"),
    )
    recognised = trainer.fit(loader, val_loader)[-1]
    clock.lap("generator")
    further = replace(base_config, num_steps=config.finetune_steps, lr=0.02)
    common: dict[str, Any] = {"device": device}
    control_model, control = train_arm(model, config.at, loader, validate, further, progress=bar("control"), **common)
    clock.lap("control")
    masks = HardNegativeSampler(DatasetMasks(train), candidates=48, keep=16, refresh_every=30)
    mixed_model, mixed = train_arm(
        model, config.at, loader, validate, further, generator=generator, masks=masks, progress=bar("feataug"), **common
    )
    clock.lap("feataug")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    _picture(output / "demo.png", val, cut, generator, {"control": control_model, "feataug": mixed_model}, on)
    clock.lap("picture")
    result = {
        "base": by_class(base, train.classes),
        "control": by_class(control, train.classes),
        "feataug": by_class(mixed, train.classes),
        "recognition": recognition_summary(recognised, train.classes),
        "seconds": clock.laps | {"total": round(sum(clock.laps.values()), 1)},
        "seed": seed,
        "device": str(on),
    }
    write_result(output, result)
    return result


def summary(result: dict[str, Any]) -> str:
    """The table that the demo prints, and what it says in words."""
    score = result["recognition"]
    gains = ", ".join(f"{TITLES[name]} {result['feataug'][name] - result['control'][name]:+.2f}" for name in MEASURES)
    return "\n".join(
        [
            table({name: result[name] for name in ("base", "control", "feataug")}),
            "",
            f"recognition score (mIoU of the frozen decoder): real {score['real']:.2f}, synthetic {score['synthetic']:.2f}, "
            f"ratio {score['ratio']:.2f}; diversity {score['diversity']:.2f}",
            f"feataug minus control: {gains}   (one seed: differences of about a point are noise)",
            f"{result['seconds']['total']:.0f} s on {result['device']}",
        ]
    )


class _Clock:
    """Seconds since the lap before, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


@torch.no_grad()
def _picture(path: Path, val: Scenes, cut: Any, generator: FeatureGenerator, models: dict[str, nn.Module], device: Any) -> None:
    """Some images, masks, real and synthetic features, and predictions."""
    images, masks = (torch.stack(items).to(device) for items in zip(*(val[index] for index in range(4)), strict=True))
    size = masks.shape[-2:]
    cut.model.eval()
    features = cut.encode(images)
    synthetic = generator(masks, generator.draw_z(2 * len(masks), torch.Generator().manual_seed(0)), samples=2)
    first, second = synthetic[0].chunk(2)
    shown = feature_colors([features[0], first, second])
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)

    def predicted(out: Any) -> torch.Tensor:
        return color_masks(split_outputs(out)[0].argmax(1), val.palette)

    columns = {
        "image": (images.movedim(1, -1).cpu() * std + mean).clamp(0, 1),
        "mask": color_masks(masks, val.palette),
        "real features": shown[0],
        "synthetic, z1": shown[1],
        "synthetic, z2": shown[2],
        "base on real": predicted(cut.decode(features, size)),
        "base on synthetic": predicted(cut.decode((first,), size)),
    }
    save_grid(path, columns | {f"{name}": predicted(model.eval()(images)) for name, model in models.items()})
