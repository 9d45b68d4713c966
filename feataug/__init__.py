"""Better semantic segmentation by training the decoder on features generated from label masks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from feataug.balancing import deficit_weights
    from feataug.evaluation.class_bias import fit_class_bias
    from feataug.evaluation.compare import compare
    from feataug.evaluation.fitting import fit_inference
    from feataug.evaluation.stages import stages
    from feataug.evaluation.teaching import teaching_score
    from feataug.filtering import PixelFilter
    from feataug.generator import FeatureGenerator
    from feataug.inference import Inference
    from feataug.masks import ClassBalancedMasks, DatasetMasks, HardNegativeSampler, LayoutComposer, MaskMixture, pseudo_masks
    from feataug.metrics import SegmentationMetrics, evaluate, recognition
    from feataug.mining import synthetic_loss
    from feataug.mixing import FeatureMixer
    from feataug.norms import update_bn
    from feataug.places import Place, cuts
    from feataug.presets import recommended
    from feataug.specs import FeatureSpec, LevelSpec, MixedBatch
    from feataug.splitting import Cut, split
    from feataug.training.bank import FeatureBank
    from feataug.training.config import FinetuneConfig, GeneratorConfig
    from feataug.training.finetune import Finetuner
    from feataug.training.generator import GeneratorTrainer

# Loaded when first asked for, so that `import feataug` costs no more than `import torch` and needs neither accelerate nor timm.
_HOME = {
    "ClassBalancedMasks": "masks",
    "LayoutComposer": "masks",
    "PixelFilter": "filtering",
    "Cut": "splitting",
    "DatasetMasks": "masks",
    "FeatureBank": "training.bank",
    "FeatureGenerator": "generator",
    "FeatureMixer": "mixing",
    "FeatureSpec": "specs",
    "FinetuneConfig": "training.config",
    "Finetuner": "training.finetune",
    "GeneratorConfig": "training.config",
    "GeneratorTrainer": "training.generator",
    "HardNegativeSampler": "masks",
    "Inference": "inference",
    "LevelSpec": "specs",
    "MaskMixture": "masks",
    "MixedBatch": "specs",
    "Place": "places",
    "SegmentationMetrics": "metrics",
    "compare": "evaluation",
    "cuts": "places",
    "deficit_weights": "balancing",
    "evaluate": "metrics",
    "fit_class_bias": "evaluation",
    "fit_inference": "evaluation",
    "pseudo_masks": "masks",
    "recognition": "metrics",
    "recommended": "presets",
    "split": "splitting",
    "stages": "evaluation",
    "synthetic_loss": "mining",
    "teaching_score": "evaluation",
    "update_bn": "norms",
}

# Modules that the documentation names: `import feataug` is enough to use them.
_MODULES = ("data", "errors", "lightning", "losses", "models", "page", "plots")

__all__ = [
    "ClassBalancedMasks",
    "Cut",
    "DatasetMasks",
    "FeatureBank",
    "FeatureGenerator",
    "FeatureMixer",
    "FeatureSpec",
    "FinetuneConfig",
    "Finetuner",
    "GeneratorConfig",
    "GeneratorTrainer",
    "HardNegativeSampler",
    "Inference",
    "LayoutComposer",
    "LevelSpec",
    "MaskMixture",
    "MixedBatch",
    "PixelFilter",
    "Place",
    "SegmentationMetrics",
    "compare",
    "cuts",
    "deficit_weights",
    "evaluate",
    "fit_class_bias",
    "fit_inference",
    "pseudo_masks",
    "recognition",
    "recommended",
    "split",
    "stages",
    "synthetic_loss",
    "teaching_score",
    "update_bn",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"feataug.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'feataug' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"feataug.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
