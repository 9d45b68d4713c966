"""What cutting costs: ``python benchmarks/split.py [--device cpu|cuda] [--size 256] [--batch 2]``.

On models of ResNet-50's size, in eval mode and without gradients: the decoder through the cut against the same layers called directly, and
``decode(encode(images))`` against the plain model. Sides take turns; ``ratio`` is the median over rounds of ours over the other
(1.03 is an overhead of 3 %). One JSON line per claim, kept in ``benchmarks/results/split-DEVICE.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import keep, name_of, parser, race

from feataug import split
from feataug.models import PSPNet
from feataug.training.run import keep_freed_memory


def pspnet() -> tuple[Any, str, Callable[..., Any]]:
    model = PSPNet("resnet50", 19, output_stride=8)

    def decoder(features: Any, size: Any) -> Any:
        return F.interpolate(model.head(model.pyramid(features[0])), size, mode="bilinear", align_corners=False)

    return model, "encoder", decoder


def fpn() -> tuple[Any, str, Callable[..., Any]]:
    import segmentation_models_pytorch as smp

    model = smp.FPN("resnet50", encoder_weights=None, classes=19)

    def decoder(features: Any, size: Any) -> Any:
        return model.segmentation_head(model.decoder([None, None, *features]))

    return model, "encoder", decoder


def middle() -> tuple[Any, str, None]:
    """The paper's kind of cut: in mid-backbone, before ReLU. No such decoder can be called directly."""
    return PSPNet("resnet50", 19, output_stride=8), "encoder.layer3.2:pre_act", None


@torch.no_grad()
def measure(make: Callable[[], tuple[Any, str, Any]], shape: list[int], seconds: float, device: str) -> list[dict[str, Any]]:
    """The claims on one model."""
    torch.manual_seed(0)
    model, at, decoder = make()
    model = model.eval().to(device, memory_format=torch.channels_last)
    images = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    cut = split(model, at, example=images[:1])
    size = (shape[2], shape[3])
    features = cut.encode(images)
    claims = {"encode_decode": (lambda: cut.decode(cut.encode(images), size), lambda: model(images))}
    if decoder is not None:
        assert device == "cuda" or torch.equal(decoder(features, size), cut.decode(features, size))
        claims["decode"] = (lambda: cut.decode(features, size), lambda: decoder(features, size))
    results = []
    for claim, (ours, other) in claims.items():
        figures = race(ours, other, seconds=seconds, device=device, rounds=10, warm_up=2)
        line = {"claim": f"split_{claim}", "model": make.__name__, "at": at} | figures | {"device": name_of(device), "shape": shape}
        results.append(line)
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--batch", type=int, default=2)
    options.set_defaults(seconds=30)
    args = options.parse_args()
    keep_freed_memory()
    shape = [args.batch, 3, args.size, args.size]
    results = [line for make in (pspnet, fpn, middle) for line in measure(make, shape, args.seconds, args.device)]
    keep("split", args.device, results)


if __name__ == "__main__":
    main()
