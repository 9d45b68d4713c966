"""Sources of the masks of synthetic samples: any object with ``draw(n, generator) -> (n, H, W)``."""

from feataug.masks.class_balanced import ClassBalancedMasks
from feataug.masks.copy_paste import LayoutComposer
from feataug.masks.hard_negatives import HardNegativeSampler
from feataug.masks.pseudo_labels import pseudo_masks
from feataug.masks.sources import DatasetMasks, MaskMixture, MaskSource, as_source

__all__ = [
    "ClassBalancedMasks", "DatasetMasks", "HardNegativeSampler", "LayoutComposer", "MaskMixture", "MaskSource", "as_source",
    "pseudo_masks",
]  # fmt: skip
