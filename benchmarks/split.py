"""What cutting costs: ``python benchmarks/split.py [--device cpu|cuda] [--size 256] [--batch 2]``.

On models of ResNet-50's size, in eval mode and without gradients: the decoder through the cut against the same layers called directly, and
``decode(encode(images))`` against the plain model. Sides take turns, medians over rounds. Ends with one JSON line per claim
(``ratio`` is ours over the other, 1.03 is an overhead of 3 %), kept in ``benchmarks/results/split-DEVICE.json``.
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


def race(sides: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side; in turn, so that a busy machine harms all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 2):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


@torch.no_grad()
def measure(make: Callable[[], tuple[Any, str, Any]], shape: list[int], rounds: int, device: torch.device) -> list[dict[str, Any]]:
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
        medians = race({"ours": ours, "other": other}, rounds, device)
        results.append({
            "claim": f"split_{claim}", "model": make.__name__, "at": at, **{k: round(v, 5) for k, v in medians.items()},
            "ratio": round(medians["ours"] / medians["other"], 4), "device": name, "shape": shape,
        })  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    keep_freed_memory()
    device = torch.device(args.device)
    shape = [args.batch, 3, args.size, args.size]
    results = [line for make in (pspnet, fpn, middle) for line in measure(make, shape, args.rounds, device)]
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    text = "[\n" + ",\n".join(" " + json.dumps(line) for line in results) + "\n]\n"
    (folder / f"split-{device.type}.json").write_text(text)


if __name__ == "__main__":
    main()
