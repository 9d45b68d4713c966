"""One training step of the paper's generator at the paper's size: 1,024 channels, crops of 713 x 713, 150 classes.

python -m benchmarks.paper_scale [--device cuda] [--size 713] [--batch 2]

PSPNet-ResNet50 at stride 8 with random weights, cut after its third stage; ``GeneratorConfig.paper()`` and the preset ``paper``. One step of
``GeneratorTrainer`` in a process of its own: multiply-adds as torch counts them (looked-up rows are none), and the peak of the whole process.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import feataug
from benchmarks.common import keep, name_of, parser, process_bytes
from feataug.models import PSPNet
from feataug.training.device import keep_freed_memory

CLASSES, CHANNELS = 150, 1024


# Of an H100 or H200 with dense bf16 products, by its data sheet.
PEAK_FLOPS = 989e12


def share_of_peak(objective: Any, images: torch.Tensor, masks: torch.Tensor, rounds: int = 5) -> dict[str, float]:
    """Seconds of a step alone, after the first ones, and its share of what the GPU could compute in bf16 at most."""
    objective.cut.model.eval().requires_grad_(False)
    objective.generator.train()
    with FlopCounterMode(display=False) as counter:
        objective.step(images, masks, 0)
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        objective.step(images, masks, 0)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    return {"step_seconds": round(median, 4), "share_of_bf16_peak": round(counter.get_total_flops() / median / PEAK_FLOPS, 3)}


def main() -> None:
    own = parser(__doc__)
    own.add_argument("--size", type=int, default=713)
    own.add_argument("--batch", type=int, default=2)
    args = own.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, args.size, args.size)
    masks = torch.randint(CLASSES, (args.batch, args.size // 31, args.size // 31)).repeat_interleave(31, 1).repeat_interleave(31, 2)
    loader = [(images, masks)]
    model = PSPNet("resnet50", CLASSES, output_stride=8).to(args.device)
    cut = feataug.split(model, at="encoder.layer3", example=images[:1].to(args.device))
    assert [level.channels for level in cut.spec] == [CHANNELS]
    generator = feataug.FeatureGenerator(CLASSES, cut.spec, preset="paper")
    config = feataug.GeneratorConfig.paper(
        num_images=args.batch, stats_images=args.batch, mixed_precision="bf16" if args.device == "cuda" else "no"
    )
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        features = cut.encode(images.to(args.device))
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        generator.to(args.device)(masks.to(args.device))
    began = time.perf_counter()
    with FlopCounterMode(display=False) as whole:
        trainer = feataug.GeneratorTrainer(generator, cut, config, progress=False, device=args.device)
        trainer.fit(loader)
    line = {
        "claim": "paper_scale",
        "gigabytes": round((torch.cuda.max_memory_allocated() if args.device == "cuda" else process_bytes("VmHWM")) / 1e9, 2),
        "seconds": round(time.perf_counter() - began, 1),
        "encoder_gmacs": round(encoder.get_total_flops() / 2e9, 1),
        "generator_gmacs": round(forward.get_total_flops() / 2e9, 1),
        "step_gmacs": round(whole.get_total_flops() / 2e9, 1),
        "parameters": {"generator": sum(p.numel() for p in generator.parameters())},
        "features": list(features[0].shape),
        "shape": [args.batch, CLASSES, args.size, args.size],
        "device": name_of(args.device),
    }
    if args.device == "cuda":
        line |= share_of_peak(trainer.objective, images, masks)
    keep("paper_scale", args.device, [line])
    print(json.dumps(line))


if __name__ == "__main__":
    main()
