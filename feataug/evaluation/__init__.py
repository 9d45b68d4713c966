"""Evaluate a trained model: how to predict with it, where to cut it, how good synthetic features are, and whether feataug helps it."""

from feataug.evaluation.class_bias import fit_class_bias
from feataug.evaluation.comparison.arms import train_arm
from feataug.evaluation.comparison.compare import compare
from feataug.evaluation.inference_fitting import fit_inference
from feataug.evaluation.paired_differences import difference, differences, mean_figures, verdict
from feataug.evaluation.quality.feature_quality import feature_quality
from feataug.evaluation.stage_selection.selection import recommend, stages
from feataug.evaluation.teaching.class_gaussians import ClassGaussians
from feataug.evaluation.teaching.teaching_score import teaching_score
from feataug.inference.inference import Inference

__all__ = [
    "ClassGaussians", "Inference", "compare", "difference", "differences", "feature_quality", "fit_class_bias", "fit_inference",
    "mean_figures", "recommend", "stages", "teaching_score", "train_arm", "verdict",
]  # fmt: skip
