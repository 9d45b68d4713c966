"""Better semantic segmentation by training the decoder on features generated from label masks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from feataug._version import __version__ as __version__

if TYPE_CHECKING:
    from feataug.core.specs import FeatureSpec, LevelSpec
    from feataug.cutting.cut import Cut, split
    from feataug.cutting.cut_points import CutPoint, Place, cuts
    from feataug.evaluation.class_bias import fit_class_bias
    from feataug.evaluation.comparison.compare import compare
    from feataug.evaluation.inference_fitting import fit_inference
    from feataug.evaluation.quality.feature_quality import feature_quality
    from feataug.evaluation.stage_selection.selection import stages
    from feataug.evaluation.teaching.teaching_score import teaching_score
    from feataug.generation.generator import FeatureGenerator
    from feataug.inference.evaluate import evaluate
    from feataug.inference.inference import Inference
    from feataug.inference.recognition import recognition
    from feataug.masks import ClassBalancedMasks, DatasetMasks, HardNegativeSampler, LayoutComposer, MaskMixture, pseudo_masks
    from feataug.masks.decoder_score import synthetic_loss
    from feataug.metrics import SegmentationMetrics
    from feataug.mixing.batch import MixedBatch
    from feataug.mixing.class_weights import deficit_weights
    from feataug.mixing.mixer import FeatureMixer
    from feataug.mixing.pixel_filter import PixelFilter
    from feataug.mixing.recommended_settings import recommended
    from feataug.training.batch_norm import update_bn
    from feataug.training.config import FinetuneConfig, GeneratorConfig
    from feataug.training.feature_bank import FeatureBank
    from feataug.training.finetuner import Finetuner
    from feataug.training.generator_trainer import GeneratorTrainer

# Loaded when first asked for, so that `import feataug` costs no more than `import torch` and needs neither accelerate nor timm.
_HOME = {
    "ClassBalancedMasks": "masks",
    "LayoutComposer": "masks",
    "PixelFilter": "mixing.pixel_filter",
    "Cut": "cutting.cut",
    "CutPoint": "cutting.cut_points",
    "DatasetMasks": "masks",
    "FeatureBank": "training.feature_bank",
    "FeatureGenerator": "generation.generator",
    "FeatureMixer": "mixing.mixer",
    "FeatureSpec": "core.specs",
    "FinetuneConfig": "training.config",
    "Finetuner": "training.finetuner",
    "GeneratorConfig": "training.config",
    "GeneratorTrainer": "training.generator_trainer",
    "HardNegativeSampler": "masks",
    "Inference": "inference.inference",
    "LevelSpec": "core.specs",
    "MaskMixture": "masks",
    "MixedBatch": "mixing.batch",
    "Place": "cutting.cut_points",
    "SegmentationMetrics": "metrics",
    "compare": "evaluation",
    "cuts": "cutting.cut_points",
    "deficit_weights": "mixing.class_weights",
    "evaluate": "inference.evaluate",
    "feature_quality": "evaluation",
    "fit_class_bias": "evaluation",
    "fit_inference": "evaluation",
    "pseudo_masks": "masks",
    "recognition": "inference.recognition",
    "recommended": "mixing.recommended_settings",
    "split": "cutting.cut",
    "stages": "evaluation",
    "synthetic_loss": "masks.decoder_score",
    "teaching_score": "evaluation",
    "update_bn": "training.batch_norm",
}

# Modules that the documentation names: `import feataug` is enough to use them.
_MODULES = {
    "data": "data",
    "errors": "errors",
    "lightning": "lightning",
    "losses": "losses",
    "models": "models",
    "page": "reporting.page",
    "plots": "reporting.plots",
}

__all__ = [
    "ClassBalancedMasks",
    "Cut",
    "CutPoint",
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
    "feature_quality",
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
        return importlib.import_module(f"feataug.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'feataug' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"feataug.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
