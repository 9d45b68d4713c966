"""What cutting costs: ``python benchmarks/split.py [--device cpu|cuda] [--size 256] [--batch 2]``.

On models of ResNet-50's size, in eval mode and without gradients: the decoder through the cut against the same layers called directly, and
``decode(encode(images))`` against the plain model. Sides take turns; ``ratio`` is the median over rounds of ours over the other
(1.03 is an overhead of 3 %). One JSON line per claim, kept in ``benchmarks/results/split-DEVICE.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

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


def race(ours: Callable[[], Any], other: Callable[[], Any], seconds: float, device: torch.device) -> dict[str, Any]:
    """Both sides in turn, the first one changing, for some seconds; medians, and the median of the rounds' ratios."""
    times: list[list[float]] = []
    began = time.perf_counter()
    while len(times) < 12 or time.perf_counter() - began < seconds:
        pair = [0.0, 0.0]
        for side in (0, 1) if len(times) % 2 else (1, 0):
            start = time.perf_counter()
            (ours, other)[side]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            pair[side] = time.perf_counter() - start
        times.append(pair)
    times = times[2:]  # warm-up
    return {
        "ours": round(statistics.median(a for a, _ in times), 5),
        "other": round(statistics.median(b for _, b in times), 5),
        "ratio": round(statistics.median(a / b for a, b in times), 4),
        "rounds": len(times),
    }


@torch.no_grad()
def measure(
    make: Callable[[], tuple[Any, str, Any]], shape: list[int], seconds: float, device: torch.device
) -> list[dict[str, Any]]:
    """The claims on one model."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    torch.manual_seed(0)
    model, at, decoder = make()
    model = model.eval().to(device, memory_format=torch.channels_last)
    images = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    cut = split(model, at, example=images[:1])
    size = (shape[2], shape[3])
    features = cut.encode(images)
    claims = {"encode_decode": (lambda: cut.decode(cut.encode(images), size), lambda: model(images))}
    if decoder is not None:
        assert device.type == "cuda" or torch.equal(decoder(features, size), cut.decode(features, size))
        claims["decode"] = (lambda: cut.decode(features, size), lambda: decoder(features, size))
    results = []
    for claim, (ours, other) in claims.items():
        figures = race(ours, other, seconds, device)
        line = {"claim": f"split_{claim}", "model": make.__name__, "at": at} | figures | {"device": name, "shape": shape}
        results.append(line)
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30, help="for each claim")
    args = parser.parse_args()
    keep_freed_memory()
    device = torch.device(args.device)
    shape = [args.batch, 3, args.size, args.size]
    results = [line for make in (pspnet, fpn, middle) for line in measure(make, shape, args.seconds, device)]
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    text = "[\n" + ",\n".join(" " + json.dumps(line) for line in results) + "\n]\n"
    (folder / f"split-{device.type}.json").write_text(text)


if __name__ == "__main__":
    main()
