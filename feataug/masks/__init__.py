"""Where the masks of synthetic samples come from: anything with ``draw(n, generator) -> (n, H, W)``."""

from feataug.masks.hard import HardNegativeSampler
from feataug.masks.layouts import ClassBalancedMasks, LayoutComposer
from feataug.masks.pseudo import pseudo_masks
from feataug.masks.sources import DatasetMasks, MaskMixture, MaskSource, as_source

__all__ = [
    "ClassBalancedMasks",
    "DatasetMasks",
    "HardNegativeSampler",
    "LayoutComposer",
    "MaskMixture",
    "MaskSource",
    "as_source",
    "pseudo_masks",
]
