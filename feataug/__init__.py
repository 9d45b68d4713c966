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
    from feataug.training.covariance_matching import match_covariance
    from feataug.training.feature_bank import FeatureBank
    from feataug.training.finetuner import Finetuner
    from feataug.training.generator_trainer import GeneratorTrainer

# Loaded when first asked for, so that `import feataug` costs no more than `import torch` and needs neither accelerate nor timm.
_PUBLIC = {
    "core.specs": ("FeatureSpec", "LevelSpec"),
    "cutting.cut": ("Cut", "split"),
    "cutting.cut_points": ("CutPoint", "Place", "cuts"),
    "evaluation": ("compare", "feature_quality", "fit_class_bias", "fit_inference", "stages", "teaching_score"),
    "generation.generator": ("FeatureGenerator",),
    "inference.evaluate": ("evaluate",),
    "inference.inference": ("Inference",),
    "inference.recognition": ("recognition",),
    "masks": ("ClassBalancedMasks", "LayoutComposer", "DatasetMasks", "HardNegativeSampler", "MaskMixture", "pseudo_masks"),
    "masks.decoder_score": ("synthetic_loss",),
    "metrics": ("SegmentationMetrics",),
    "mixing.batch": ("MixedBatch",),
    "mixing.class_weights": ("deficit_weights",),
    "mixing.mixer": ("FeatureMixer",),
    "mixing.pixel_filter": ("PixelFilter",),
    "mixing.recommended_settings": ("recommended",),
    "training.batch_norm": ("update_bn",),
    "training.config": ("FinetuneConfig", "GeneratorConfig"),
    "training.covariance_matching": ("match_covariance",),
    "training.feature_bank": ("FeatureBank",),
    "training.finetuner": ("Finetuner",),
    "training.generator_trainer": ("GeneratorTrainer",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

# Modules that the documentation names: `import feataug` is enough to use them.
_MODULES = {name: name for name in ("data", "errors", "lightning", "losses", "models")}
_MODULES |= {"page": "reporting.page", "plots": "reporting.plots"}

__all__ = [
    "ClassBalancedMasks", "Cut", "CutPoint", "DatasetMasks", "FeatureBank", "FeatureGenerator", "FeatureMixer", "FeatureSpec",
    "FinetuneConfig", "Finetuner", "GeneratorConfig", "GeneratorTrainer", "HardNegativeSampler", "Inference", "LayoutComposer",
    "LevelSpec", "MaskMixture", "MixedBatch", "PixelFilter", "Place", "SegmentationMetrics", "compare", "cuts", "deficit_weights",
    "evaluate", "feature_quality", "fit_class_bias", "fit_inference", "match_covariance", "pseudo_masks", "recognition",
    "recommended", "split", "stages", "synthetic_loss", "teaching_score", "update_bn",
]  # fmt: skip


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
