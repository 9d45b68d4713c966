"""Questions about a trained model: what does it predict, where to cut it, how good are synthetic features, and does feataug help it?"""

from feataug.evaluation.arms import train_arm
from feataug.evaluation.compare import compare
from feataug.evaluation.inference import Inference
from feataug.evaluation.intervals import difference, differences, mean_figures, verdict
from feataug.evaluation.quality import feature_quality
from feataug.evaluation.stages import recommend, stages

__all__ = ["Inference", "compare", "difference", "differences", "feature_quality", "mean_figures", "recommend", "stages", "train_arm", "verdict"]
