"""All that a GPU has to measure, in one command of at most nine minutes: ``python -m benchmarks.gpu_day --results FOLDER``.

The parts run one after the other, the most important ones first, each in a process of its own: a part that fails or hangs costs its own figures
alone. Each writes its JSON into the folder the moment it has it, and its output beside it; ``gpu_day.json`` says how long each took and how it ended.
``--dry`` runs the same commands on a CPU for a moment each, so that a GPU's time is not spent on a typing error. Its figures mean nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import RESULTS
from feataug.io.atomic import write_json

# Seconds that a part may take on a GPU; ``{folder}`` is the folder of results.
PARTS: dict[str, tuple[int, list[str]]] = {
    "tests": (90, ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]),
    "flow_step": (120, ["-m", "benchmarks.flow_step", "--seconds", "8", "--profile", "{folder}/flow_step-profile.txt"]),
    "mixed_step": (110, ["-m", "benchmarks.mixed_step", "--seconds", "6"]),
    "sampling": (50, ["-m", "benchmarks.sampling", "--seconds", "3"]),
    "paper_scale": (80, ["-m", "benchmarks.paper_scale", "--batch", "4"]),
    "generator_step": (60, ["-m", "benchmarks.generator_step", "--seconds", "4", "--critics", "shares"]),
    "label_conv": (50, ["-m", "benchmarks.label_conv", "--seconds", "4"]),
    "growth": (60, ["-m", "benchmarks.growth"]),
}
DRY = {"paper_scale": ["--size", "124", "--batch", "2"], "mixed_step": ["--quick"], "sampling": ["--quick"]}


def command(name: str, folder: Path, *, dry: bool) -> list[str]:
    """The command of a part."""
    words = [word.format(folder=folder) for word in PARTS[name][1]]
    if name == "tests":
        return [sys.executable, *words] + (["--collect-only"] if dry else [])
    words += ["--device", "cpu" if dry else "cuda", "--results", str(folder)]
    if dry:
        # The last value of an option counts.
        words += ["--seconds", "0.1", *DRY.get(name, [])]
    return [sys.executable, *words]


def run(folder: Path, names: list[str], budget: float, *, dry: bool) -> dict[str, dict[str, object]]:
    """Run the parts while there is time, and note how each ended."""
    folder.mkdir(parents=True, exist_ok=True)
    began, ended = time.monotonic(), {}
    for name in names:
        left = budget - (time.monotonic() - began)
        start = time.monotonic()
        if left < 20:
            ended[name] = {"end": "no time left"}
        else:
            try:
                done = subprocess.run(
                    command(name, folder, dry=dry), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=min(left, PARTS[name][0])
                )
                text, end = done.stdout, "done" if done.returncode == 0 else f"exit status {done.returncode}"
            except subprocess.TimeoutExpired as stopped:
                text = stopped.stdout.decode(errors="replace") if isinstance(stopped.stdout, bytes) else stopped.stdout or ""
                end = "stopped"
            (folder / f"{name}.txt").write_text(text)
            ended[name] = {"end": end, "seconds": round(time.monotonic() - start, 1)}
        print(f"{name}: {ended[name]}", flush=True)
        write_json(folder / "gpu_day.json", {"parts": ended, "dry": dry})
    return ended


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    options.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="only some of the parts")
    options.add_argument("--budget", type=float, default=540, help="seconds for all parts")
    options.add_argument("--dry", action="store_true", help="the same commands on a CPU, for a moment each")
    args = options.parse_args()
    ended = run(args.results, args.parts, args.budget, dry=args.dry)
    failed = [name for name, about in ended.items() if about["end"] != "done"]
    if failed:
        raise SystemExit(f"not done: {', '.join(failed)}; see their .txt files in {args.results}")


if __name__ == "__main__":
    main()
