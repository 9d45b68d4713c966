"""A training step on CPU with and without ``keep_freed_memory``: ``python -m benchmarks.freed_memory``.

The setting holds for a whole process, so the two sides are processes of their own, taken in turn; medians over steps after a warm-up.
Ends with one JSON line, which is also kept in ``benchmarks/results/freed_memory.json``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

BATCH, SIZE, STEPS, ROUNDS = 8, (240, 320), 6, 2


def steps(keep: bool) -> list[float]:
    """Seconds of each training step after two that warm up."""
    import torch.nn.functional as F

    from feataug.models import PSPNet
    from feataug.training.device import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    model = PSPNet("tf_efficientnet_lite0", 11, output_stride=16, width=128).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.rand(BATCH, 3, *SIZE).to(memory_format=torch.channels_last)
    masks = torch.randint(11, (BATCH, *SIZE))
    seconds = []
    for _ in range(STEPS + 2):
        began = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), masks).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return seconds[2:]


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(steps(sys.argv[1] == "keep")))
        return
    sides: dict[str, list[float]] = {"keep": [], "default": []}
    for _ in range(ROUNDS):
        for side, seconds in sides.items():
            out = subprocess.run([sys.executable, "-m", "benchmarks.freed_memory", side], check=True, capture_output=True, text=True).stdout
            seconds += json.loads(out.splitlines()[-1])
            print(f"{side:8} median {statistics.median(seconds):.2f} s")
    ours, other = (statistics.median(sides[side]) for side in ("keep", "default"))
    line = {
        "claim": "keep_freed_memory",
        "ours": round(ours, 3),
        "other": round(other, 3),
        "ratio": round(other / ours, 2),
        "device": f"cpu, {torch.get_num_threads()} threads",
        "shape": [BATCH, 3, *SIZE],
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "freed_memory.json").write_text(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
