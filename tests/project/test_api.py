"""The public surface: names, what importing costs, what every error is."""

import subprocess
import sys

import pytest

import feataug
from tests.support import forks

NAMES = [
    "ClassBalancedMasks", "Cut", "CutPoint", "DatasetMasks", "FeatureBank", "FeatureGenerator", "FeatureMixer", "FeatureSpec",
    "FinetuneConfig", "Finetuner", "GeneratorConfig", "GeneratorTrainer", "HardNegativeSampler", "Inference", "LayoutComposer",
    "LevelSpec", "MaskMixture", "MixedBatch", "PixelFilter", "Place", "SegmentationMetrics", "compare", "cuts", "deficit_weights",
    "evaluate", "feature_quality", "fit_class_bias", "fit_inference", "match_covariance", "pseudo_masks", "recognition",
    "recommended", "split", "stages", "synthetic_loss", "teaching_score", "update_bn",
]  # fmt: skip


def test_the_public_names_are_these():
    assert feataug.__all__ == NAMES
    assert all(getattr(feataug, name).__doc__ for name in NAMES)
    with pytest.raises(AttributeError, match="module 'feataug' has no attribute 'nothing'"):
        _ = feataug.nothing


def test_the_old_name_of_a_cut_point_still_works():
    assert feataug.Place is feataug.CutPoint


def test_split_stays_a_function_after_every_module_was_imported():
    code = "import feataug.training.generator_trainer, feataug.evaluation, feataug.cli.main, feataug; assert callable(feataug.split)"
    done = forks.run(code)
    assert done.returncode == 0, done.stderr


def test_importing_needs_none_of_the_heavy_packages():
    heavy = ["timm", "accelerate", "matplotlib", "torchmetrics", "transformers", "huggingface_hub", "torchvision"]
    code = f"import sys, feataug; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
    assert out.stderr == ""


def test_the_core_needs_neither_timm_nor_matplotlib():
    code = (
        "import sys; from feataug import split, FeatureMixer, HardNegativeSampler, FeatureGenerator\n"
        "print([m for m in ('timm', 'matplotlib', 'accelerate') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_the_modules_that_the_documentation_names_need_no_import_of_their_own():
    code = "import feataug; print(feataug.data.seeded_loader.__name__, feataug.errors.DataError.__name__, feataug.losses.__name__)"
    out = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert out.stdout.split() == ["seeded_loader", "DataError", "feataug.losses"]
