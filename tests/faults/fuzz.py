"""Call the public API with bad input: ``python tests/faults/fuzz.py --cases 10000``.

A case makes good arguments for one of ``TARGETS``, spoils one or two of them, and calls. What comes back must agree with a slow oracle, or an error
of ours that names the argument must be raised; the arguments stay as they were, and nothing hangs. A case follows from its number:
``--only 1234`` repeats one.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import feataug
from feataug.data import seeded_loader
from feataug.errors import FeatAugError
from feataug.losses import segmentation_loss

CLASSES, SIZE, CHANNELS = 5, (12, 16), 6
SECONDS = 20


class Net(nn.Module):
    """Stride 4, logits at the images' size."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, CHANNELS, 3, 2, 1))
        self.head = nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:], mode="bilinear")


torch.manual_seed(0)
NET = Net().eval()
CUT = feataug.split(NET, at="encoder", example=torch.zeros(1, 3, *SIZE))
GENERATOR = feataug.FeatureGenerator(CLASSES, CUT.spec, mask_widths=(4,), width=4, depth=0, latent_dim=3).eval()


# ---- good arguments -------------------------------------------------------------------------------------------------------------------


def masks(rng: random.Random, count: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    made = torch.randint(CLASSES, (count, *size), generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    made[:, : rng.randrange(3)] = 255
    return made


def floats(rng: random.Random, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))


def features(rng: random.Random, count: int = 3) -> tuple[Tensor, ...]:
    return (floats(rng, count, CHANNELS, SIZE[0] // 4, SIZE[1] // 4),)


KINDS = (
    "drop", "add", "empty", "none_of_it", "one_pixel", "crop", "flat", "half", "double", "bool", "uint8", "int8", "int16", "int32", "float",
    "complex", "nan", "inf", "negative", "classes", "huge", "void", "strided", "turned", "expanded", "meta", "grad", "inference", "numpy",
    "list", "none", "text", "number", "sparse", "tuple",
)  # fmt: skip
NUMBERS = (
    -1, 0, 1, -0.5, 0.5, 1.0, 2.5, math.nan, math.inf, -math.inf, None, "3", "", True, [], (1,), 1j, 10**30, torch.tensor(1),
    np.float32(0.5), np.int64(2),
)  # fmt: skip
NAMES = ("", "head", "encoder.9", "nothing", "encoder:input", "encoder:pre_act", ":", "..", None, 3, (), ("encoder", "head"))


# ---- spoiling --------------------------------------------------------------------------------------------------------------------------


def spoil_tensor(value: Tensor, rng: random.Random) -> Any:
    """Another shape, dtype, content or layout; some of these are as good as before."""
    kind = rng.choice(KINDS)
    whole = not value.is_floating_point()
    filled = value.clone()
    if kind in ("nan", "inf", "negative", "classes", "huge") and value.numel():
        content = {"nan": math.nan, "inf": math.inf, "negative": -1, "classes": CLASSES, "huge": 2**40}[kind]
        if whole and kind in ("nan", "inf"):
            filled = filled.float()
        filled.view(-1)[rng.randrange(value.numel())] = content
    makers: dict[str, Callable[[], Any]] = {
        "drop": lambda: value[0],
        "add": lambda: value[:, None],
        "empty": lambda: value[:0],
        "none_of_it": lambda: value[..., :0],
        "one_pixel": lambda: value[..., :1, :1] if value.ndim > 2 else value[..., :1],
        "crop": lambda: value[..., : max(1, value.shape[-1] // 2)],
        "flat": lambda: value.flatten(),
        "half": lambda: value.half(),
        "double": lambda: value.double(),
        "bool": lambda: value.bool(),
        "uint8": lambda: value.clamp(0, 255).to(torch.uint8),
        "int8": lambda: value.to(torch.int8),
        "int16": lambda: value.to(torch.int16),
        "int32": lambda: value.to(torch.int32),
        "float": lambda: value.float(),
        "complex": lambda: value.to(torch.complex64),
        "void": lambda: torch.full_like(value, 255),
        "strided": lambda: torch.stack([value, value], -1)[..., 0],
        "turned": lambda: value.transpose(-1, -2).contiguous().transpose(-1, -2) if value.ndim > 1 else value,
        "expanded": lambda: value[:1].expand(value.shape) if len(value) else value,
        "meta": lambda: value.to("meta"),
        "grad": lambda: value.clone().requires_grad_() if value.is_floating_point() else value,
        "inference": lambda: _inference(value),
        "numpy": lambda: value.numpy(),
        "list": lambda: value.tolist(),
        "none": lambda: None,
        "text": lambda: "masks",
        "number": lambda: 3,
        "sparse": lambda: value.to_sparse(),
        "tuple": lambda: (value, value),
    }
    return makers[kind]() if kind in makers else filled


def _inference(value: Tensor) -> Tensor:
    with torch.inference_mode():
        return value.clone()


def spoil_levels(value: tuple[Tensor, ...], rng: random.Random) -> Any:
    if rng.random() < 0.2:
        return rng.choice([(), None, (*value, *value), "features", 3, [None], {"a": value[0]}, iter(value)])
    return (spoil_tensor(value[0], rng),)


def spoil_number(value: Any, rng: random.Random) -> Any:
    return rng.choice([*NUMBERS, value])


def spoil_object(value: Any, rng: random.Random) -> Any:
    return rng.choice([None, 3, "x", [], object(), {}, lambda *a: None, torch.zeros(2), np.zeros(3), value])


def spoil(value: Any, rng: random.Random) -> Any:
    """Something like ``value`` that may be wrong."""
    if rng.random() < 0.05:
        return spoil_object(value, rng)
    if isinstance(value, Tensor):
        return spoil_tensor(value, rng)
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return spoil_levels(value, rng)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return spoil_number(value, rng)
    if isinstance(value, str):
        return rng.choice(
            [
                "",
                "head",
                "encoder.9",
                "nothing",
                "encoder:input",
                "encoder:pre_act",
                ":",
                "..",
                None,
                3,
                (),
                ("encoder", "head"),
                value,
            ]
        )
    if isinstance(value, dict):
        changed = dict(value)
        key = rng.choice(list(changed))
        changed[rng.choice([key, key, "unknown", "", 3])] = spoil_number(changed[key], rng)
        return changed
    if isinstance(value, (list, tuple)):
        return rng.choice([(), [], None, 3, "ab", [None], [-1], [0.5], [math.nan], [*value, *value], [object()], value])
    return spoil_object(value, rng)


# ---- targets ---------------------------------------------------------------------------------------------------------------------------


@dataclass
class Target:
    """A call, good arguments for it, the oracle, and words of which an error about an argument holds one."""

    call: Callable[..., Any]
    good: Callable[[random.Random], dict[str, Any]]
    oracle: Callable[..., None]
    words: dict[str, tuple[str, ...]]


def ours(found: Any, expected: Any, tolerance: float = 1e-3) -> None:
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance, equal_nan=True, check_dtype=False, check_stride=False
    )


def valid_masks(found: Tensor, size: tuple[int, int] | None = None) -> None:
    assert found.dtype == torch.int64
    assert found.ndim == 3
    assert size is None or tuple(found.shape[1:]) == size


def rng_of(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_generated(found: Any, masks: Tensor, z: Tensor | None, samples: int) -> None:
    rows, columns = masks.shape[-2:]
    assert [tuple(x.shape) for x in found] == [(samples * len(masks), CHANNELS, -(-rows // 4), -(-columns // 4))]
    if z is not None and torch.isfinite(z).all() and z.device.type == "cpu":
        alone = GENERATOR(masks[:1].long().clone(), z[:1].float().clone())
        ours(found[0][:1].float(), alone[0].float(), 2e-2)


def mixed(features: Any, masks: Any, ratio: Any, label_smoothing: Any) -> Any:
    mixer = feataug.FeatureMixer(GENERATOR, feataug.DatasetMasks(POOL), ratio, label_smoothing).train()
    return mixer(features, masks)


POOL = masks(random.Random(0), 4)


def check_mixed(found: Any, features: Any, masks: Tensor, ratio: float, label_smoothing: float) -> None:
    level = features[0] if isinstance(features, (tuple, list)) else features
    ours(found.features[0][: len(level)], level)
    assert torch.equal(found.masks[: len(masks)], masks.long())
    assert found.num_real == len(masks)
    exact = len(masks) * ratio / (1 - ratio)
    assert math.floor(exact) <= found.num_synthetic <= math.ceil(exact)
    assert all(any(torch.equal(mask, other) for other in POOL) for mask in found.masks[len(masks) :])


def slow_loss(logits: Tensor, masks: Tensor, num_real: int | None, label_smoothing: float) -> float:
    """Pixel by pixel, in double precision."""
    logits = F.interpolate(logits.double(), masks.shape[-2:], mode="bilinear", align_corners=False)
    total, count = 0.0, 0
    for sample in range(len(masks)):
        smooth = label_smoothing if num_real is not None and sample >= num_real else 0.0
        for row in range(masks.shape[1]):
            for column in range(masks.shape[2]):
                label = int(masks[sample, row, column])
                if label != 255:
                    p = logits[sample, :, row, column].log_softmax(0)
                    q = torch.full_like(p, smooth / len(p))
                    q[label] += 1 - smooth
                    total, count = total - float((p * q).sum()), count + 1
    return total / max(count, 1)


def check_loss(found: Tensor, out: Any, masks: Tensor, num_real: int | None, label_smoothing: float) -> None:
    logits = out[0] if isinstance(out, tuple) else out
    if isinstance(out, tuple) and len(out) > 1:
        return
    ours(float(found.detach()), slow_loss(logits.detach(), masks, num_real, label_smoothing), 2e-2)


def metric(predictions: Any, masks: Any, num_classes: Any) -> Any:
    metrics = feataug.SegmentationMetrics(num_classes)
    metrics.update(predictions, masks)
    return metrics.compute()


def check_metric(found: Any, predictions: Any, masks: Tensor, num_classes: int) -> None:
    if predictions.ndim == 4:
        if not torch.isfinite(predictions).all():
            return
        predictions = F.interpolate(predictions, masks.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
    valid = masks != 255
    hits = float((predictions == masks)[valid].double().mean()) if bool(valid.any()) else math.nan
    ours(found["pixel_acc"], 100 * hits)


def check_config(found: Any, data: dict[str, Any]) -> None:
    for name, value in data.items():
        assert getattr(found, name) == value or (name == "trackers" and tuple(value) == found.trackers), name
    for name in ("lr", "num_steps", "num_images"):
        assert math.isfinite(getattr(found, name, 0))
        assert getattr(found, name, 1) >= 0


def drawn(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda n, **arguments: make(**arguments).draw(n, rng_of())


def check_drawn(found: Tensor, n: int, **_: Any) -> None:
    valid_masks(found)
    assert len(found) == n


def check_from(found: Tensor, n: int, dataset: Any, **_: Any) -> None:
    check_drawn(found, n)
    stored = [torch.as_tensor(mask).long() for mask in dataset]
    assert all(any(torch.equal(mask, other) for other in stored) for mask in found)


def decoded(features: Any, image_size: Any) -> Any:
    with torch.no_grad():
        return CUT.decode(features, image_size)


def check_decoded(found: Tensor, features: Any, image_size: Any) -> None:
    level = features[0] if isinstance(features, (tuple, list)) else features
    expected = F.interpolate(NET.head(level.detach().clone()), tuple(image_size), mode="bilinear")
    ours(found, expected.detach())


def encoded(images: Any) -> Any:
    with torch.no_grad():
        return CUT.encode(images)


def check_encoded(found: Any, images: Tensor) -> None:
    ours(found[0], NET.encoder(images.detach().clone()).detach())


def check_split(found: Any, at: Any) -> None:
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        ours(found.decode(found.encode(images), SIZE), found.model(images))


def loaded(dataset: Any, batch_size: Any, seed: Any, on_bad_sample: Any) -> Any:
    return list(seeded_loader(dataset, batch_size, seed=seed, on_bad_sample=on_bad_sample))


def check_loaded(found: Any, dataset: Any, batch_size: int, seed: int, on_bad_sample: str) -> None:
    assert all(len(images) == min(batch_size, len(dataset)) for images, _ in found)


def deficits(images: Any, masks: Any, num_classes: Any, power: Any, limit: Any) -> Any:
    return feataug.deficit_weights(NET, [(images, masks)], num_classes, power, limit=limit)


def check_deficits(found: Tensor, num_classes: int, **_: Any) -> None:
    assert found.shape == (num_classes,)
    assert bool(torch.isfinite(found).all())


def labelled(images: Any, threshold: Any) -> Any:
    return feataug.pseudo_masks(NET, [images], threshold=threshold)


def check_labelled(found: Any, images: Any, threshold: float) -> None:
    images = images[0] if isinstance(images, tuple) else images
    assert [tuple(mask.shape) for mask in found] == [tuple(images.shape[-2:])] * len(images)


def inferred(images: Any, **settings: Any) -> Any:
    return feataug.Inference(NET, **settings)(images)


def check_inferred(found: Tensor, images: Tensor, **settings: Any) -> None:
    if bool(torch.isfinite(images).all()):
        ours(found.exp().sum(1), torch.ones(len(images), *images.shape[-2:]))
        ours(found[-1:], feataug.Inference(NET, **settings | {"batch_size": 1})(images[-1:].detach().clone()), 1e-2)


def filtered(features: Any, masks: Any, factor: Any, class_loss: Any) -> Any:
    return feataug.PixelFilter(CUT, class_loss, factor=factor)(features, masks)


def check_filtered(found: Tensor, masks: Tensor, **_: Any) -> None:
    valid_masks(found)
    assert bool(((found == masks) | (found == 255)).all())


def composed(dataset: Any, classes: Any, objects: Any, min_pixels: Any, max_share: Any, shift: Any) -> Any:
    source = feataug.LayoutComposer(
        dataset, dataset, classes, objects=objects, min_pixels=min_pixels, max_share=max_share, shift=shift
    )
    return source.draw(2, rng_of())


def standard(features: Any) -> Any:
    return GENERATOR.standardize(features)


MASK = ("mask",)
FEATURES = ("feature", "level")
TARGETS: dict[str, Target] = {
    "FeatureGenerator.forward": Target(
        lambda masks, z, samples: GENERATOR(masks, z, samples=samples),
        lambda rng: {"masks": masks(rng), "z": floats(rng, 3, 3), "samples": 1},
        check_generated,
        {"masks": MASK, "z": ("z ",), "samples": ("samples", "z ")},
    ),
    "FeatureGenerator": Target(
        lambda **arguments: feataug.FeatureGenerator(spec=CUT.spec, mask_widths=arguments.pop("mask_widths"), **arguments),
        lambda rng: {"num_classes": 5, "latent_dim": 3, "mask_widths": (4,), "width": 4, "depth": 0, "ignore_index": 255},
        lambda found, num_classes, **_: ours(found(torch.zeros(1, 8, 8, dtype=torch.long))[0].shape[1], CHANNELS),
        {name: (name,) for name in ("num_classes", "latent_dim", "mask_widths", "width", "depth", "ignore_index")},
    ),
    "FeatureGenerator.standardize": Target(
        standard,
        lambda rng: {"features": features(rng)},
        lambda found, features: ours(found[0].float(), _level(features).float()),
        {"features": FEATURES},
    ),
    "FeatureMixer": Target(
        mixed,
        lambda rng: {"features": features(rng), "masks": masks(rng), "ratio": 0.4, "label_smoothing": 0.1},
        check_mixed,
        {"features": FEATURES, "masks": (*MASK, "feature"), "ratio": ("ratio",), "label_smoothing": ("label_smoothing",)},
    ),
    "segmentation_loss": Target(
        lambda out, masks, num_real, label_smoothing: segmentation_loss(out, masks, num_real, label_smoothing=label_smoothing),
        lambda rng: {"out": floats(rng, 2, CLASSES, 3, 4), "masks": masks(rng, 2), "num_real": 1, "label_smoothing": 0.1},
        check_loss,
        {"out": ("logits",), "masks": (*MASK, "logits"), "num_real": ("num_real",), "label_smoothing": ("label_smoothing",)},
    ),
    "SegmentationMetrics": Target(
        metric,
        lambda rng: {"predictions": floats(rng, 3, CLASSES, 3, 4), "masks": masks(rng), "num_classes": CLASSES},
        check_metric,
        {"predictions": ("predictions",), "masks": (*MASK, "predictions"), "num_classes": ("num_classes", "predictions", "mask")},
    ),
    "DatasetMasks": Target(
        drawn(feataug.DatasetMasks),
        lambda rng: {"dataset": masks(rng, 4), "n": 2},
        check_from,
        {"dataset": ("data set", *MASK, "item"), "n": ("n ", "n:", "number of masks")},
    ),
    "MaskMixture": Target(
        drawn(feataug.MaskMixture),
        lambda rng: {"sources": [masks(rng, 4), masks(rng, 3)], "weights": [3, 1], "n": 4},
        check_drawn,
        {"sources": ("source", "data set", *MASK), "weights": ("weight",), "n": ("n ",)},
    ),
    "HardNegativeSampler": Target(
        drawn(lambda dataset, **rest: feataug.HardNegativeSampler(dataset, score=lambda m: m.float().mean((1, 2)), **rest)),
        lambda rng: {"dataset": masks(rng, 4), "candidates": 6, "keep": 3, "refresh_every": 2, "n": 2},
        check_from,
        {
            "dataset": ("data set", *MASK, "item"),
            "candidates": ("candidates",),
            "keep": ("keep",),
            "refresh_every": ("refresh_every",),
            "n": ("n ",),
        },
    ),
    "ClassBalancedMasks": Target(
        drawn(feataug.ClassBalancedMasks),
        lambda rng: {"dataset": masks(rng, 4), "num_classes": CLASSES, "min_pixels": 2, "tries": 2, "n": 2},
        check_from,
        {
            "dataset": ("data set", *MASK, "item"),
            "num_classes": ("num_classes", "class"),
            "min_pixels": ("min_pixels", "pixels"),
            "tries": ("tries",),
            "n": ("n ",),
        },
    ),
    "LayoutComposer": Target(
        composed,
        lambda rng: {"dataset": masks(rng, 4), "classes": [2, 3], "objects": 2, "min_pixels": 1, "max_share": 0.5, "shift": 0.1},
        lambda found, **_: valid_masks(found),
        {
            "dataset": ("data set", *MASK, "item"),
            "classes": ("class",),
            "objects": ("objects",),
            "min_pixels": ("min_pixels",),
            "max_share": ("max_share",),
            "shift": ("shift",),
        },
    ),
    "GeneratorConfig": Target(
        lambda data: feataug.GeneratorConfig.from_dict(data),
        lambda rng: {"data": feataug.GeneratorConfig().to_dict()},
        check_config,
        {"data": (*feataug.GeneratorConfig().to_dict(), "settings")},
    ),
    "FinetuneConfig": Target(
        lambda data: feataug.FinetuneConfig.from_dict(data),
        lambda rng: {"data": feataug.FinetuneConfig().to_dict() | {"lr_scale": {"encoder": 0.1}}},
        check_config,
        {"data": (*feataug.FinetuneConfig().to_dict(), "settings")},
    ),
    "LevelSpec": Target(
        lambda channels, reduction, tokens: feataug.FeatureSpec((feataug.LevelSpec("a", channels, reduction, tokens),)),
        lambda rng: {"channels": 3, "reduction": 4, "tokens": 0},
        lambda found, **_: ours(feataug.FeatureSpec.from_dict(found.to_dict()) == found, True),
        {"channels": ("channels",), "reduction": ("reduction",), "tokens": ("tokens", "reduction")},
    ),
    "split": Target(
        lambda at: feataug.split(Net().eval(), at, example=torch.zeros(1, 3, *SIZE)),
        lambda rng: {"at": "encoder"},
        check_split,
        {"at": ("layer", "at", "cut")},
    ),
    "cut.decode": Target(
        decoded,
        lambda rng: {"features": features(rng), "image_size": list(SIZE)},
        check_decoded,
        {"features": FEATURES, "image_size": ("image_size", "image size", "feature")},
    ),
    "cut.encode": Target(encoded, lambda rng: {"images": floats(rng, 2, 3, *SIZE)}, check_encoded, {"images": ("images",)}),
    "seeded_loader": Target(
        loaded,
        lambda rng: {
            "dataset": [(torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.long))] * 5,
            "batch_size": 2,
            "seed": 0,
            "on_bad_sample": "raise",
        },
        check_loaded,
        {
            "dataset": ("data set", "dataset", "item"),
            "batch_size": ("batch_size",),
            "seed": ("seed",),
            "on_bad_sample": ("on_bad_sample",),
        },
    ),
    "deficit_weights": Target(
        deficits,
        lambda rng: {
            "images": floats(rng, 2, 3, *SIZE),
            "masks": masks(rng, 2),
            "num_classes": CLASSES,
            "power": 1.5,
            "limit": 8.0,
        },
        check_deficits,
        {
            "images": ("images", "predictions"),
            "masks": (*MASK, "pixel", "predictions"),
            "num_classes": ("num_classes", "predictions", "mask"),
            "power": ("power",),
            "limit": ("limit",),
        },
    ),
    "pseudo_masks": Target(
        labelled,
        lambda rng: {"images": floats(rng, 2, 3, *SIZE), "threshold": 0.3},
        check_labelled,
        {"images": ("images",), "threshold": ("threshold",)},
    ),
    "Inference": Target(
        inferred,
        lambda rng: {
            "images": floats(rng, 2, 3, *SIZE),
            "scales": (0.75, 1.25),
            "flip": True,
            "window": (8, 10),
            "stride": (4, 10),
            "batch_size": 3,
        },
        check_inferred,
        {
            "images": ("images",),
            "scales": ("scales",),
            "flip": ("flip",),
            "window": ("window",),
            "stride": ("stride",),
            "batch_size": ("batch_size",),
        },
    ),
    "PixelFilter": Target(
        filtered,
        lambda rng: {"features": features(rng), "masks": masks(rng), "factor": 1.25, "class_loss": torch.rand(CLASSES)},
        check_filtered,
        {"features": FEATURES, "masks": (*MASK, "feature"), "factor": ("factor",), "class_loss": ("class_loss",)},
    ),
}


def _level(features: Any) -> Tensor:
    level: Tensor = features[0] if isinstance(features, (tuple, list)) else features
    return level


# ---- running ---------------------------------------------------------------------------------------------------------------------------


class Hangs(Exception):
    """A call took longer than it may."""


def _ring(*_: Any) -> None:
    raise Hangs


def same(before: Any, after: Any) -> bool:
    """Whether an argument was left as it was."""
    if isinstance(before, Tensor):
        if before.device.type == "meta":
            return True
        if before.is_sparse:
            before, after = before.to_dense(), after.to_dense()
        return before.shape == after.shape and torch.equal(before.detach().nan_to_num(7e7) if before.is_floating_point() else before,
                                                           after.detach().nan_to_num(7e7) if after.is_floating_point() else after)  # fmt: skip
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(same(a, b) for a, b in zip(before, after, strict=True))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
    return True


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return {key: copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def case(number: int, seed: int) -> tuple[str, str]:
    """One case: how it ended (``agrees``, ``error`` or what is wrong), and a description."""
    rng = random.Random(f"{seed} {number}")
    name = rng.choice(list(TARGETS))
    target = TARGETS[name]
    arguments = target.good(rng)
    spoilt = rng.sample(list(arguments), min(len(arguments), rng.choice((1, 1, 1, 2))))
    for key in spoilt:
        arguments[key] = spoil(arguments[key], rng)
    text = f"case {number}: {name}, spoilt: " + ", ".join(f"{key}={_show(arguments[key])}" for key in spoilt)
    before = copied(arguments)
    signal.alarm(SECONDS)
    try:
        found = target.call(**arguments)
        if not same(before, arguments):
            return "writes to its input", text
        target.oracle(found, **arguments)
        return "agrees", text
    except FeatAugError as error:
        if not same(before, arguments):
            return "writes to its input", text
        words = [word for key in spoilt for word in target.words.get(key, (key,))]
        if not any(word in str(error) for word in words):
            return "names no argument", f"{text}\n{error}"
        return "error", text
    except Hangs:
        return "hangs", text
    except AssertionError as error:
        return "disagrees", f"{text}\n{error}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "another error", f"{text}\n{type(error).__name__}: {str(error)[:300]}\n  at {last.filename}:{last.lineno}"
    finally:
        signal.alarm(0)


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {value.dtype} {value.device}"
    if isinstance(value, (list, tuple)):
        return type(value).__name__ + "(" + ", ".join(_show(item) for item in value[:4]) + ")"
    return repr(value)[:80]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case's number")
    parser.add_argument("--show", type=int, default=40, help="how many bad cases are printed")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _ring)
    counts: Counter[str] = Counter()
    shown = 0
    began = time.monotonic()
    for number in range(args.cases) if args.only is None else [args.only]:
        outcome, text = case(number, args.seed)
        counts[outcome] += 1
        if args.only is not None or (outcome not in ("agrees", "error") and shown < args.show):
            print(f"{outcome}: {text}\n", flush=True)
            shown += 1
    bad = sum(count for outcome, count in counts.items() if outcome not in ("agrees", "error"))
    print(f"{sum(counts.values())} cases in {time.monotonic() - began:.0f} s: {dict(counts)}; {bad} bad")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
