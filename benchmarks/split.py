"""What cutting costs: ``python -m benchmarks.split [--device cpu|cuda] [--size 256] [--batch 2]``.

On models of ResNet-50's size, in eval mode and without gradients: the decoder through the cut against the same layers called directly, and
``decode(encode(images))`` against the plain model. Sides take turns; ``ratio`` is the median over rounds of ours over the other
(1.03 is an overhead of 3 %).

Then, on large models with random weights, one thread and one image, each in a process of its own: the time of ``split`` and of an error
with its advice over that of a forward pass (``split_forwards``, at most 5; ``advice_forwards``, at most 12), and the peak of the process's
memory while it splits over that of a forward pass (``trace_memory``, at most 1.5). ``--only cost`` measures these alone.
Mask2Former needs transformers and scipy.

One JSON line per claim, kept in ``benchmarks/results/split-DEVICE.json``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import RESULTS, keep, name_of, parser, process_bytes, race
from feataug import split
from feataug.errors import SplitError
from feataug.models import PSPNet
from feataug.training.device import keep_freed_memory


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


class Pyramid(nn.Module):
    """A timm encoder and a head that sums all levels, as panoptic FPN does."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.encoder = timm.create_model(encoder, features_only=True)
        channels = self.encoder.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(count, 128, 1) for count in channels)
        self.head = nn.Conv2d(128, 19, 3, padding=1)

    def forward(self, images: Any) -> Any:
        levels = self.encoder(images)
        maps = [x.permute(0, 3, 1, 2) if x.shape[-1] == c.in_channels else x for x, c in zip(levels, self.lateral, strict=True)]
        size = maps[0].shape[-2:]
        total = sum(F.interpolate(c(x), size, mode="bilinear") for x, c in zip(maps, self.lateral, strict=True))
        return F.interpolate(self.head(total), images.shape[-2:], mode="bilinear")


def mask2former() -> Any:
    import transformers

    stages = [f"stage{n}" for n in range(1, 5)]
    swin = transformers.SwinConfig(
        image_size=384, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, out_features=stages
    )
    return transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig(backbone_config=swin))


# The model, the side of its images, a complete cut, and one that leaks.
LARGE: dict[str, tuple[Callable[[], Any], int, str, str]] = {
    "swin_base": (lambda: Pyramid("swin_base_patch4_window7_224"), 224, "encoder", "encoder.layers_1"),
    "convnext_large": (lambda: Pyramid("convnext_large"), 224, "encoder", "encoder.stages_1"),
    "mask2former_swin_t": (
        mask2former, 384, "model.pixel_level_module.encoder", "model.pixel_level_module.encoder.hidden_states_norms.stage2",
    ),
}  # fmt: skip


@torch.no_grad()
def cost(name: str) -> list[dict[str, Any]]:
    """The claims on a large model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, side, at, leaking = LARGE[name]
    model, images = make().eval(), torch.zeros(1, 3, side, side)
    # The first split of a process imports modules, which is not what is measured.
    split(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)), "1")

    def advice() -> None:
        with suppress(SplitError):
            split(model, leaking, example=images)
            raise AssertionError(f"{leaking} leaks no more")

    def seconds(run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    model(images)
    results = []
    for claim, run, bound in (("split_forwards", lambda: split(model, at, example=images), 5), ("advice_forwards", advice, 12)):
        pairs = [(seconds(run), statistics.mean(seconds(lambda: model(images)) for _ in range(3))) for _ in range(3)]
        figures = {"ours": statistics.median(a for a, _ in pairs), "other": statistics.median(b for _, b in pairs)}
        figures["ratio"] = statistics.median(a / b for a, b in pairs)
        results.append({"claim": claim} | {key: round(value, 3) for key, value in figures.items()} | {"bound": f"at most {bound}"})
    return [line | {"model": name, "device": name_of("cpu"), "shape": list(images.shape)} for line in results]


@torch.no_grad()
def peak(name: str, side: str) -> int:
    """The highest that a process's memory rises that makes a large model, and passes an image (``forward``) or cuts it (``split``)."""
    torch.set_num_threads(1)
    make, rows, at, _ = LARGE[name]
    model, images = make().eval(), torch.zeros(1, 3, rows, rows)
    split(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)), "1")
    if side == "split":
        split(model, at, example=images)
    else:
        model(images)
    return process_bytes("VmHWM")


def alone(name: str, *further: str) -> Any:
    """The cost of a large model, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.split", "--large", name, *further]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--only", choices=("halves", "cost"), help="measure these claims, and keep the others as they are")
    options.add_argument("--large", choices=tuple(LARGE), help="the cost of this model alone, printed and not kept")
    options.add_argument("--side", choices=("forward", "split"), help="with --large: the peak of its memory alone")
    options.set_defaults(seconds=30)
    args = options.parse_args()
    keep_freed_memory()
    if args.large:
        print(json.dumps(peak(args.large, args.side) if args.side else cost(args.large)))
        return
    file = RESULTS / f"split-{args.device}.json"
    kept = json.loads(file.read_text()) if args.only and file.exists() else []
    is_cost = [line["claim"] in ("split_forwards", "advice_forwards", "trace_memory") for line in kept]
    halves = [line for line, flag in zip(kept, is_cost, strict=True) if not flag]
    costs = [line for line, flag in zip(kept, is_cost, strict=True) if flag]
    if args.only != "cost":
        shape = [args.batch, 3, args.size, args.size]
        halves = [line for make in (pspnet, fpn, middle) for line in measure(make, shape, args.seconds, args.device)]
    if args.only != "halves" and args.device == "cpu":
        costs = []
        for name in LARGE:
            lines = alone(name)
            ours, plain = (alone(name, "--side", side) for side in ("split", "forward"))
            figures = {"ours": ours, "other": plain, "ratio": round(ours / plain, 3), "bound": "at most 1.5"}
            lines.append(lines[0] | {"claim": "trace_memory"} | figures)
            print(*map(json.dumps, lines), sep="\n", flush=True)
            costs += lines
    keep("split", args.device, halves + costs)


if __name__ == "__main__":
    main()
