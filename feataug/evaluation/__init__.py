"""Questions about a trained model: does feataug help it?"""

from feataug.evaluation.compare import difference, differences, train_arm

__all__ = ["difference", "differences", "train_arm"]
