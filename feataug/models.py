"""The paper's reference network, PSPNet on any timm encoder; and models by their names on the command line."""

import difflib
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.cards import model_text
from feataug.checks import check_number
from feataug.errors import ConfigError, message
from feataug.factories import model_from
from feataug.hub import HubModel
from feataug.usercode import NEEDED

# Where timm itself finds models besides its own list.
_TIMM_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PyramidPooling(nn.Module):
    """Averages over grids of ``bins`` cells, each reduced to ``in_channels / len(bins)`` and put back beside the input.

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
        output_stride: 8, 16 or 32; what the encoder's ``output_stride`` supports.
        width: Channels of the head's 3x3 convolution.
        dropout: Before the classifier, in training.
        auxiliary: Add the deeply supervised head on the last but one stage; the output in training is then a dictionary with
            ``"out"`` and ``"aux"``, as torchvision's.
        pretrained: ImageNet weights from the hub, as ``timm.create_model``.
        encoder_kwargs: Further arguments of ``timm.create_model``.

    Shapes:
        images ``(B, 3, H, W)`` float to logits ``(B, num_classes, H, W)``.

    Raises:
        ConfigError: ``output_stride`` is none of those, or a number is out of range.

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
            raise ConfigError(message("PSPNet: output_stride is not offered.", given=repr(output_stride), needed="8, 16 or 32"))
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
        """A new model with the settings of this one, as it is before training; ``pretrained`` as in ``PSPNet``."""
        known = inspect.signature(type(self).__init__).parameters
        settings: Any = self._hub_mixin_config
        return type(self)(**{k: v for k, v in settings.items() if k in known} | {"pretrained": pretrained})

    def card_text(self, name: str) -> str:
        """What the model is, and how ``name`` is loaded and used."""
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


def named_model(name: str) -> nn.Module:
    """A model by the name that the command line takes.

    Args:
        name: ``timm/NAME`` (random weights), or one of timm's own sources, such as ``hf-hub:USER/NAME``; the folder of a saved
            ``PSPNet``; ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``, as ``feataug.factories.model_from`` reads them.

    Raises:
        ConfigError: nothing has that name, or what has it gives no model.
        CheckpointError: the folder's weights or settings are damaged.
    """
    if name.startswith(("timm/", *_TIMM_SOURCES)):
        return _timm_model(name)
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return _saved_model(name, folder)
    bare = name.removeprefix("timm:").removeprefix("timm.")
    if not os.path.exists(folder) and not name.endswith(".py") and ":" not in bare and timm.is_model(bare):
        rule = "named_model: models of timm are named with timm/ before them."
        raise ConfigError(message(rule, given=repr(name), needed=NEEDED, advice=f"Write timm/{bare}."))
    return model_from(name)


def _timm_model(name: str) -> nn.Module:
    inner = name.removeprefix("timm/")
    try:
        return timm.create_model(inner)
    except Exception as error:  # timm's own, those of the hub and of the network have nothing else in common
        if inner.startswith(_TIMM_SOURCES):
            text = (str(error).strip() or "no reason given").splitlines()[0]
            rule, given = "named_model: timm cannot load this model.", f"{name!r}: {type(error).__name__}: {text}"
            advice = "Its config.json has to be there: in a local folder, in the hub's cache on this machine, or on the hub."
            raise ConfigError(message(rule, given=given, needed=NEEDED, advice=advice)) from error
        near = difflib.get_close_matches(inner, timm.list_models(), n=5)
        advice = "timm has: " + ", ".join(near) if near else "timm.list_models() lists them."
        raise ConfigError(
            message("named_model: timm has no such model.", given=repr(name), needed=NEEDED, advice=advice)
        ) from error


def _saved_model(name: str, folder: str) -> nn.Module:
    try:
        there = sorted(os.listdir(folder))
        settings = json.loads(Path(folder, "config.json").read_text()) if "config.json" in there else None
    except OSError as error:
        given = f"{name!r}: {type(error).__name__}: {error}"
        raise ConfigError(message("named_model: the folder cannot be read.", given=given, needed=NEEDED)) from error
    except ValueError:
        settings = {"encoder": None}  # damaged: loading it says so
    if isinstance(settings, dict) and "encoder" in settings:
        return PSPNet.from_pretrained(folder)
    shown = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    given, advice = f"{name!r}, which " + (f"holds {shown}" if there else "is empty"), None
    if isinstance(settings, dict) and "spec" in settings:
        advice = "It holds a generator: give the model that the generator was trained for."
    elif "__init__.py" in there:
        advice = "It is a package: name its function, such as " + ".".join(Path(folder).parts) + ":FUNCTION."
    elif below := [entry for entry in there if os.path.isfile(os.path.join(folder, entry, "model.safetensors"))]:
        advice = "Models may be in " + ", ".join(os.path.join(name, entry) for entry in below[:5]) + "."
    needed = "config.json and model.safetensors, as `feataug finetune` leaves them"
    raise ConfigError(message("named_model: the folder holds no saved PSPNet.", given=given, needed=needed, advice=advice))
