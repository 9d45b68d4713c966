"""Questions about a trained model: what does it predict, and does feataug help it?"""

from feataug.evaluation.arms import train_arm
from feataug.evaluation.compare import compare
from feataug.evaluation.inference import Inference
from feataug.evaluation.intervals import difference, differences, mean_figures, verdict

__all__ = ["Inference", "compare", "difference", "differences", "mean_figures", "train_arm", "verdict"]
