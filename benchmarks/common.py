"""What all benchmarks share: two sides taken in turn in one process, and one JSON line per claim.

``ratio`` is ours over the other's unless the claim says otherwise ("faster": the other's over ours), the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """``--device`` and ``--seconds`` (for each claim)."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    found.add_argument("--seconds", type=float, default=10, help="for each claim, at least three rounds")
    found.add_argument("--results", type=Path, action=_ResultsFolder, help="folder for the JSON files; benchmarks/results by default")
    return found


class _ResultsFolder(argparse.Action):
    """Sets where this process keeps its figures."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        global RESULTS
        RESULTS = values


def frozen_lite0(classes: int) -> Any:
    """The cut that generators' steps are measured on: PSPNet on lite0, frozen, at stride 16. The same weights after the same seed."""
    from feataug import split
    from feataug.models import PSPNet

    return split(PSPNet("tf_efficientnet_lite0", classes, output_stride=16).eval().requires_grad_(False), "encoder.blocks.4")


def name_of(device: str) -> str:
    """The GPU's name, or the number of threads."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def race(
    ours: Callable[[], Any],
    other: Callable[[], Any],
    *,
    seconds: float,
    device: str,
    faster: bool = False,
    rounds: int = 3,
    warm_up: int = 1,
    repeats: int = 1,
) -> dict[str, Any]:
    """Both sides in turn, the first one changing, for at least ``rounds``, after those that warm up.

    With ``repeats`` a side is called so often in each round, and its mean time counts: for work that differs from call to call, of which a median
    would show the usual call alone.
    """
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(times) < warm_up + rounds or time.perf_counter() - began < seconds:
        pair = [0.0, 0.0]
        for side in (0, 1) if len(times) % 2 else (1, 0):
            start = time.perf_counter()
            for _ in range(repeats):
                (ours, other)[side]()
            if device == "cuda":
                torch.cuda.synchronize()
            pair[side] = (time.perf_counter() - start) / repeats
        times.append((pair[0], pair[1]))
    times = times[warm_up:]
    return {
        "ours": round(statistics.median(a for a, _ in times), 6),
        "other": round(statistics.median(b for _, b in times), 6),
        "ratio": round(statistics.median(b / a if faster else a / b for a, b in times), 3),
        "rounds": len(times),
    }


def peak_bytes(name: str, side: str, device: str) -> int:
    """Bytes by which the process of benchmark ``name`` with ``--side SIDE`` grew at most, as it says itself."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--device", device, "--side", side]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])["bytes"])


def grown_by(run: Callable[[], Any], device: str) -> int:
    """Growth of the peak of this process's memory while ``run`` runs; once in a process, on a CPU: a peak never falls."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    # Since exec the kernel keeps the highest; getrusage would count the parent's, too.
    before = process_bytes("VmRSS")
    run()
    return max(0, process_bytes("VmHWM") - before)


def process_bytes(name: str) -> int:
    """Bytes that the kernel reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def keep(name: str, device: str, lines: Sequence[dict[str, Any]]) -> None:
    """``results/NAME-DEVICE.json``, a line each."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(" " + json.dumps(line) for line in lines) + "\n]\n"
    (RESULTS / f"{name}-{device}.json").write_text(text)


def write(name: str, device: str, lines: Sequence[dict[str, Any]]) -> None:
    """Keep the lines, print a table, and the lines at the end."""
    keep(name, device, lines)
    width = max(len(line["claim"]) for line in lines) + 2
    print(f"{'claim':<{width}}{'ours':>12}{'other':>12}{'ratio':>9}  bound")
    for line in lines:
        print(f"{line['claim']:<{width}}{line['ours']:>12.6g}{line['other']:>12.6g}{line['ratio']:>9.3g}  {line['bound']}")
    for line in lines:
        print(json.dumps(line))
