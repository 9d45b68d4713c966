"""The paper's reference network: PSPNet on any timm encoder."""

import inspect
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.core.checks import check_number
from feataug.errors import ConfigError
from feataug.io.hub import HubModel
from feataug.io.model_card import model_text


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PyramidPooling(nn.Module):
    """Averages over grids of several sizes, each reduced to ``in_channels / len(bins)`` channels, appended to the input.

    Source:
        Zhao et al. (2017), Fig. 3.
    """

    def __init__(self, in_channels: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        width = max(1, in_channels // len(bins))
        self.stages = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(b), _conv_bn(in_channels, width, 1)) for b in bins)
        self.out_channels = in_channels + width * len(bins)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, in_channels, h, w)`` to ``(B, out_channels, h, w)``."""
        size = features.shape[-2:]
        pooled = [F.interpolate(stage(features), size, mode="bilinear", align_corners=False) for stage in self.stages]
        return torch.cat([features, *pooled], dim=1)


class PSPNet(nn.Module, HubModel, library_name="feataug", tags=["semantic-segmentation"]):
    """Pyramid scene parsing network on a timm encoder.

    Args:
        encoder: Name of a timm model that supports ``features_only``.
        num_classes: Channels of the logits.
        output_stride: 8, 16 or 32, if the encoder supports it.
        width: Channels of the head's 3x3 convolution.
        dropout: Probability of dropping a channel before the classifier, in training.
        auxiliary: Whether to add the deeply supervised head on the last stage but one. In training the output is then a dictionary
            with ``"out"`` and ``"aux"``, as in torchvision.
        pretrained: Whether to load ImageNet weights from the hub, as in ``timm.create_model``.
        encoder_kwargs: Further arguments of ``timm.create_model``.

    Shapes: images ``(B, 3, H, W)`` float to logits ``(B, num_classes, H, W)``.

    Raises:
        ConfigError: ``output_stride`` is not 8, 16 or 32, or a number is out of range.

    Source:
        Zhao et al. (2017), the paper's segmentation model (Sec. 4.1).
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        *,
        output_stride: int = 8,
        width: int = 512,
        dropout: float = 0.1,
        auxiliary: bool = False,
        pretrained: bool = False,
        encoder_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._names = encoder, num_classes
        check_number("PSPNet", "num_classes", num_classes, low=1, integer=True)
        check_number("PSPNet", "width", width, low=1, integer=True)
        check_number("PSPNet", "dropout", dropout, low=0, high=1, open_high=True)
        if output_stride not in (8, 16, 32):
            raise ConfigError("PSPNet: output_stride is not offered.", given=repr(output_stride), needed="8, 16 or 32")
        self.encoder = timm.create_model(
            encoder,
            features_only=True,
            pretrained=pretrained,
            output_stride=output_stride,
            out_indices=(-2, -1) if auxiliary else (-1,),
            **(encoder_kwargs or {}),
        )
        channels = list(self.encoder.feature_info.channels())  # type: ignore[union-attr, operator]
        self.pyramid = PyramidPooling(channels[-1])
        self.head = nn.Sequential(
            _conv_bn(self.pyramid.out_channels, width, 3), nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1)
        )
        self.auxiliary: nn.Sequential | None = None
        if auxiliary:
            self.auxiliary = nn.Sequential(
                _conv_bn(channels[0], max(width // 2, 1), 3), nn.Dropout2d(dropout), nn.Conv2d(max(width // 2, 1), num_classes, 1)
            )

    def untrained(self, *, pretrained: bool = False) -> "PSPNet":
        """A new, untrained model with the settings of this one; ``pretrained`` as in ``PSPNet``."""
        known = inspect.signature(type(self).__init__).parameters
        settings: Any = self._hub_mixin_config
        return type(self)(**{k: v for k, v in settings.items() if k in known} | {"pretrained": pretrained})

    def card_text(self, name: str) -> str:
        """The text of the model card: what the model is, and how to load and use ``name``."""
        return model_text(name, *self._names)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits at the images' resolution."""
        size = images.shape[-2:]
        features = self.encoder(images)
        logits = self.head(self.pyramid(features[-1]))
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        if self.auxiliary is None or not self.training:
            return logits
        aux = F.interpolate(self.auxiliary(features[0]), size, mode="bilinear", align_corners=False)
        return {"out": logits, "aux": aux}
