"""Questions about a trained model: what does it predict, where to cut it, and does feataug help it?"""

from feataug.evaluation.arms import train_arm
from feataug.evaluation.class_bias import fit_class_bias
from feataug.evaluation.compare import compare
from feataug.evaluation.fitting import fit_inference
from feataug.evaluation.gaussians import ClassGaussians
from feataug.evaluation.intervals import difference, differences, mean_figures, verdict
from feataug.evaluation.stages import recommend, stages
from feataug.evaluation.teaching import teaching_score
from feataug.inference import Inference

__all__ = [
    "ClassGaussians",
    "Inference",
    "compare",
    "difference",
    "differences",
    "fit_class_bias",
    "fit_inference",
    "mean_figures",
    "recommend",
    "stages",
    "teaching_score",
    "train_arm",
    "verdict",
]
