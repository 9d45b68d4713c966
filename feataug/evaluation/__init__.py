"""Questions about a trained model: does feataug help it?"""

from feataug.evaluation.arms import train_arm
from feataug.evaluation.compare import compare
from feataug.evaluation.intervals import difference, differences, mean_figures, verdict

__all__ = ["compare", "difference", "differences", "mean_figures", "train_arm", "verdict"]
