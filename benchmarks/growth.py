"""How a generator's forward grows with classes, resolution, channels and batch: ``python -m benchmarks.growth``. One thing changes at a time."""

from __future__ import annotations

import json
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import keep, name_of, parser
from feataug import FeatureGenerator, FeatureSpec, LevelSpec
from feataug.training.device import keep_freed_memory

START = {"classes": 19, "size": 256, "channels": 256, "batch": 4}
AXES = {"classes": (19, 150, 1000), "size": (128, 256, 512), "channels": (128, 256, 512), "batch": (1, 4, 16)}


@torch.no_grad()
def measure(setting: dict[str, int], device: str, rounds: int = 5) -> dict[str, float]:
    """Median seconds, billions of multiply-adds, and megabytes that are written at least: the features."""
    spec = FeatureSpec((LevelSpec("cut", setting["channels"], 16),))
    generator = FeatureGenerator(setting["classes"], spec, ignore_index=-1).eval().to(device, memory_format=torch.channels_last)
    cells = (setting["batch"], setting["size"] // 16, setting["size"] // 16)
    masks = torch.randint(setting["classes"], cells).repeat_interleave(16, 1).repeat_interleave(16, 2).to(device)
    z = generator.draw_z(masks)
    with FlopCounterMode(display=False) as counter:
        made = generator(masks, z)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        generator(masks, z)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": round(statistics.median(seconds), 5),
        "gmacs": round(counter.get_total_flops() / 2e9, 3),
        "megabytes": round(sum(level.numel() for level in made) * 4 / 1e6, 2),
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    keep_freed_memory()
    lines = []
    for axis, values in AXES.items():
        for value in values:
            torch.manual_seed(0)
            found = measure(START | {axis: value}, args.device)
            lines.append(
                {"claim": "growth", "axis": axis, "value": value} | found | {"start": START, "device": name_of(args.device)}
            )
            print(json.dumps(lines[-1]), flush=True)
    keep("growth", args.device, lines)


if __name__ == "__main__":
    main()
