"""What fuzz.py calls, as targets.py: whatever reads a loader or trains. A case takes some 50 ms."""

from __future__ import annotations

import copy
import math
import random
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

import feataug
from feataug.data import seeded_loader
from tests.support.fuzz_checks import CUT, FEATURES, GENERATOR, GENERATORS, MASK, NET, POOL, Target, ours, slow_loss
from tests.support.spoiling import CLASSES, SIZE, features, floats, masks

BATCH = ("loader", "batch", "images", "mask", "feature")


def pairs(rng: random.Random, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    """A loader: a list of batches."""
    return [(floats(rng, 2, 3, *SIZE), masks(rng, 2)) for _ in range(count)]


def short(config: Any, **lengths: int) -> Any:
    """Without a length of its own, a run is not to take the default's."""
    return lengths | config if isinstance(config, dict) else config


def fresh(preset: str = "flow") -> tuple[nn.Module, feataug.Cut, feataug.FeatureGenerator]:
    model = copy.deepcopy(NET)
    return model, feataug.split(model, "encoder", example=torch.zeros(1, 3, *SIZE)), copy.deepcopy(GENERATORS[preset])


LENGTHS = {"num_images": 2, "lr": 1e-3, "ema_images": 10, "stats_images": 2}
CONFIGS = (
    LENGTHS | {"objective": "flow", "noise_levels": 1, "weight_decay": 0.1, "distill_share": 0.5, "colored_noise": True},
    LENGTHS | {"objective": "bicyclegan", "latent_weight": 0.5, "task_weight": 1.0, "critic_width": 4, "critic_scales": 1},
)


# ---- measuring -------------------------------------------------------------------------------------------------------------------------


def check_evaluated(found: dict[str, Any], loader: Any, num_classes: int) -> None:
    hits = total = 0
    loader = list(loader)
    for images, labels in loader:
        with torch.no_grad():
            classes = NET(images.float()).argmax(1) if images.shape[-2:] == labels.shape[-2:] else None
        if classes is None:
            return
        valid = labels != 255
        hits, total = hits + int((classes == labels)[valid].sum()), total + int(valid.sum())
    ours(found["pixel_acc"], 100 * hits / total if total else math.nan, 0.5)


def check_recognised(found: dict[str, Any], loader: Any, **_: Any) -> None:
    check_evaluated(found["real"], loader, CLASSES)
    assert found["diversity"] > 0 or not math.isfinite(found["diversity"])


def scored(given: Any, batch_size: Any) -> Any:
    return feataug.synthetic_loss(GENERATOR, CUT, batch_size=batch_size)(given)


def check_scored(found: Tensor, given: Tensor, batch_size: int) -> None:
    assert found.shape == (len(given),)
    assert bool(torch.isfinite(found).all())


def listed(max_levels: Any, example: Any) -> Any:
    return feataug.cuts(NET, example, max_levels=max_levels)


def check_listed(found: Any, max_levels: int, example: Any) -> None:
    assert all(len(place.spec) <= max_levels for place in found)
    # Of a single pixel nobody can tell how much a layer reduces.
    assert "encoder" in [place.at for place in found] or tuple(example.shape[-2:]) == (1, 1)


def fitted(loader: Any, num_classes: Any, factor: Any) -> Any:
    return feataug.PixelFilter.fit(CUT, loader, num_classes, factor=factor)


def check_fitted(found: Any, loader: Any, num_classes: int, factor: float) -> None:
    """Each class's mean loss, weighed by its pixels, gives the mean of all."""
    counts = sum(torch.bincount(labels[labels != 255].long(), minlength=num_classes) for _, labels in loader)
    mean = float((found.class_loss.nan_to_num() * counts).sum() / counts.sum())
    total = pixels = 0.0
    for images, labels in loader:
        if images.dtype != torch.float32 or images.shape[-2:] != labels.shape[-2:] or not torch.isfinite(images).all():
            return
        valid = int((labels != 255).sum())
        total += slow_loss(NET(images.clone()).detach(), labels, None, 0) * valid
        pixels += valid
    ours(mean, total / pixels)


# ---- banks and training ----------------------------------------------------------------------------------------------------------------


def banked(loader: Any, num_images: Any, shard_images: Any, dtype: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"dtype": dtype, "shard_images": shard_images, "progress": False}
        bank = feataug.FeatureBank.write(folder, CUT, loader, num_images, **arguments)
        return [bank[index] for index in range(len(bank))]


def check_banked(found: Any, loader: Any, num_images: int, **_: Any) -> None:
    assert len(found) >= num_images
    images, labels = loader[0]
    levels, mask = found[0]
    assert torch.equal(mask, labels[0].long())
    with torch.no_grad():
        ours(levels[0], NET.encoder(images)[0], 3e-2)


def generated(loader: Any, val_loader: Any, config: Any) -> Any:
    settings = feataug.GeneratorConfig.from_dict(short(config, num_images=2, stats_images=2))
    _, cut, generator = fresh(settings.objective)
    return feataug.GeneratorTrainer(generator, cut, settings, device="cpu", progress=False).fit(loader, val_loader)


def check_generated(found: Any, loader: Any, val_loader: Any, config: Any) -> None:
    assert bool(found) == (val_loader is not None)


def finetuned(loader: Any, validate: Any, num_classes: Any, config: Any, ratio: Any) -> Any:
    model, cut, generator = fresh()
    mixer = feataug.FeatureMixer(generator, feataug.DatasetMasks(POOL), ratio)
    settings = feataug.FinetuneConfig.from_dict(short(config, num_steps=2))
    tuner = feataug.Finetuner(model, settings, mixer=mixer, cut=cut, device="cpu", progress=False)
    return tuner.fit(loader, validate, num_classes=num_classes)


def check_finetuned(found: Any, validate: Any, config: Any, **_: Any) -> None:
    if validate is None:
        assert found == []
        return
    assert found[-1]["progress"] == config.get("num_steps", 2)
    assert found[-1]["pixel_acc"] <= 100 or math.isnan(found[-1]["pixel_acc"])


def compared(val_loader: Any, seeds: Any, ratio: Any, label_smoothing: Any, at: Any, masks: Any) -> Any:
    def loader(seed: int) -> Any:
        return seeded_loader([(torch.ones(3, *SIZE), POOL[0])] * 2, 2, seed=seed)

    config = feataug.FinetuneConfig(num_steps=1)
    arguments = {"seeds": seeds, "ratio": ratio, "label_smoothing": label_smoothing, "device": "cpu", "progress": False}
    return feataug.compare(NET, at, GENERATOR, feataug.DatasetMasks(masks), loader, val_loader, config, **arguments)


def check_compared(found: Any, seeds: Any, **_: Any) -> None:
    assert [run["seed"] for run in found["seeds"]] == list(seeds)
    assert set(found["arms"]) == {"control", "feataug"}


def staged(loader: Any, num_classes: Any, at: Any, bins: Any, min_cells: Any, num_images: Any, generator_images: Any) -> Any:
    arguments = {"num_images": num_images, "generator_images": generator_images, "example": torch.zeros(1, 3, *SIZE)}
    config = feataug.GeneratorConfig(noise_levels=1)
    return feataug.stages(
        NET, loader, num_classes, at=at, bins=bins, min_cells=min_cells, config=config, device="cpu", progress=False, **arguments
    )


def check_staged(found: Any, at: Any, bins: int, generator_images: int, **_: Any) -> None:
    assert at is None or [stage["at"] for stage in found["stages"]] == list(at)
    assert all(0 <= stage["entropy"] <= math.log2(bins) + 1e-9 for stage in found["stages"])
    assert all(0 <= (stage["hist_iou"] or 0) <= 1 for stage in found["stages"])
    assert all((stage["recognition"] is not None) == bool(generator_images) for stage in found["stages"])


SETTINGS = ("settings", *feataug.GeneratorConfig().to_dict(), *feataug.FinetuneConfig().to_dict())
TRAINING: dict[str, Target] = {
    "evaluate": Target(
        lambda loader, num_classes: feataug.evaluate(NET, loader, num_classes),
        lambda rng: {"loader": pairs(rng), "num_classes": CLASSES},
        check_evaluated,
        {"loader": (*BATCH, "predictions"), "num_classes": ("num_classes", "predictions", "mask")},
    ),
    "recognition": Target(
        lambda loader, seed: feataug.recognition(CUT, GENERATOR, loader, seed=seed),
        lambda rng: {"loader": pairs(rng), "seed": 0},
        check_recognised,
        {"loader": BATCH, "seed": ("seed",)},
    ),
    "synthetic_loss": Target(
        scored,
        lambda rng: {"given": masks(rng, 3), "batch_size": 2},
        check_scored,
        {"given": MASK, "batch_size": ("batch_size",)},
    ),
    "cuts": Target(
        listed,
        lambda rng: {"max_levels": 4, "example": floats(rng, 1, 3, *SIZE)},
        check_listed,
        {"max_levels": ("max_levels",), "example": ("example", "images")},
    ),
    "PixelFilter.fit": Target(
        fitted,
        lambda rng: {"loader": pairs(rng), "num_classes": CLASSES, "factor": 1.25},
        check_fitted,
        {"loader": (*BATCH, "pixel"), "num_classes": ("num_classes", "class", "mask"), "factor": ("factor",)},
    ),
    "FeatureBank": Target(
        banked,
        lambda rng: {"loader": pairs(rng), "num_images": 3, "shard_images": 2, "dtype": torch.float32},
        check_banked,
        {name: (name,) for name in ("num_images", "shard_images", "dtype")} | {"loader": BATCH},
    ),
    "GeneratorTrainer": Target(
        generated,
        lambda rng: {
            "loader": rng.choice([pairs(rng, 1), [(features(rng, 2), masks(rng, 2))]]),
            "val_loader": rng.choice([None, pairs(rng, 1)]),
            "config": dict(rng.choice(CONFIGS)),
        },
        check_generated,
        {"loader": (*BATCH, "loss", *FEATURES), "val_loader": BATCH, "config": (*SETTINGS, "loss")},
    ),
    "Finetuner": Target(
        finetuned,
        lambda rng: {
            "loader": pairs(rng, 1),
            "validate": pairs(rng, 1),
            "num_classes": CLASSES,
            "config": {"num_steps": 2, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "power": 0.9, "eval_every": 1},
            "ratio": 0.4,
        },
        check_finetuned,
        {
            "loader": (*BATCH, "loss"),
            "validate": (*BATCH, "validate"),
            "num_classes": ("num_classes", "predictions", "mask"),
            "config": (*SETTINGS, "loss"),
            "ratio": ("ratio",),
        },
    ),
    "stages": Target(
        staged,
        lambda rng: {
            "loader": pairs(rng),
            "num_classes": CLASSES,
            "at": ["encoder.0:input", "encoder"],
            "bins": 8,
            "min_cells": 1,
            "num_images": 3,
            "generator_images": rng.choice([0, 0, 0, 2]),
        },
        check_staged,
        {
            "loader": (*BATCH, "place"),
            "num_classes": ("num_classes", "mask", "place"),
            "at": ("layer", "at", "cut", "candidates"),
            "min_cells": ("min_cells",),
        } | {name: (name,) for name in ("bins", "num_images", "generator_images")},
    ),
    "compare": Target(
        compared,
        lambda rng: {
            "val_loader": pairs(rng, 1),
            "seeds": [0, 1],
            "ratio": 0.3,
            "label_smoothing": 0.1,
            "at": "encoder",
            "masks": POOL,
        },
        check_compared,
        {
            "val_loader": (*BATCH, "predictions"),
            "seeds": ("seed",),
            "ratio": ("ratio",),
            "label_smoothing": ("label_smoothing",),
            "at": ("layer", "at", "cut"),
            "masks": (*MASK, "data set"),
        },
    ),
}  # fmt: skip
