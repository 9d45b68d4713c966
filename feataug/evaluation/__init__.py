"""Questions about a trained model: what does it predict, where to cut it, and does feataug help it?"""

from feataug.evaluation.arms import train_arm
from feataug.evaluation.compare import compare
from feataug.evaluation.inference import Inference
from feataug.evaluation.intervals import difference, differences, mean_figures, verdict
from feataug.evaluation.stages import recommend, stages

__all__ = ["Inference", "compare", "difference", "differences", "mean_figures", "recommend", "stages", "train_arm", "verdict"]
