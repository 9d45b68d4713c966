"""The calls of the public API that ``fuzz`` makes: good arguments for each, and a slow oracle."""

from __future__ import annotations

from functools import partial

import torch

import feataug
from feataug.losses import segmentation_loss
from tests.support.fuzz_checks import (
    CUT,
    FEATURES,
    GENERATORS,
    MASK,
    Net,
    Target,
    _level,
    check_config,
    check_decoded,
    check_deficits,
    check_drawn,
    check_encoded,
    check_filtered,
    check_from,
    check_generated,
    check_inferred,
    check_labelled,
    check_loaded,
    check_loss,
    check_metric,
    check_mixed,
    check_split,
    composed,
    decoded,
    deficits,
    drawn,
    encoded,
    filtered,
    inferred,
    labelled,
    loaded,
    metric,
    mixed,
    ours,
    standard,
    valid_masks,
)
from tests.support.spoiling import CHANNELS, CLASSES, SIZE, features, floats, masks

# Settings of each kind of generator.
NETWORKS = {"flow": {"steps": 2, "depth": 1}, "bicyclegan": {"latent_dim": 3, "mask_widths": (4,), "depth": 0}}


def forward_of(preset: str) -> Target:
    """Features from masks and noise."""
    numbers = GENERATORS[preset].latent_size(SIZE)
    return Target(
        lambda masks, z, samples: GENERATORS[preset](masks, z, samples=samples),
        lambda rng: {"masks": masks(rng), "z": floats(rng, 3, numbers), "samples": 1},
        partial(check_generated, preset=preset),
        {"masks": (*MASK, "z "), "z": ("z ",), "samples": ("samples", "z ")},
    )


def constructor_of(preset: str) -> Target:
    """A new generator."""
    good = {"num_classes": 5, "width": 4, "ignore_index": 255} | NETWORKS[preset]
    return Target(
        lambda **arguments: feataug.FeatureGenerator(spec=CUT.spec, preset=preset, **arguments),
        lambda rng: dict(good),
        lambda found, num_classes, **_: ours(found(torch.zeros(1, 8, 8, dtype=torch.long))[0].shape[1], CHANNELS),
        {name: (name,) for name in good},
    )


TARGETS: dict[str, Target] = {
    "FeatureGenerator.forward": forward_of("flow"),
    "FeatureGenerator.forward, BicycleGAN": forward_of("bicyclegan"),
    "FeatureGenerator": constructor_of("flow"),
    "FeatureGenerator, BicycleGAN": constructor_of("bicyclegan"),
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
        lambda rng: {"data": feataug.GeneratorConfig.for_preset(rng.choice(list(NETWORKS))).to_dict()},
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
        {name: (name,) for name in ("images", "scales", "flip", "window", "stride", "batch_size")},
    ),
    "PixelFilter": Target(
        filtered,
        lambda rng: {"features": features(rng), "masks": masks(rng), "factor": 1.25, "class_loss": torch.rand(CLASSES)},
        check_filtered,
        {"features": FEATURES, "masks": (*MASK, "feature"), "factor": ("factor",), "class_loss": ("class_loss",)},
    ),
}
