"""The paper's reference network."""

from feataug.models.pspnet import PSPNet

__all__ = ["PSPNet"]
