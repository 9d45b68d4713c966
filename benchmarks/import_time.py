"""``import feataug`` against ``import torch``: ``python -m benchmarks.import_time``. Each in a process of its own, in turn.

``import feataug`` alone loads nothing, not even torch: the second line is with the names that a training loop needs.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.common import parser, race, write

OURS = {
    "import": "import feataug",
    "import_names": "import feataug; feataug.split, feataug.FeatureGenerator, feataug.FeatureMixer, feataug.HardNegativeSampler",
}


def main() -> None:
    args = parser(__doc__).parse_args()

    def importing(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    began = time.perf_counter()
    lines = []
    for claim, code in OURS.items():
        found = race(lambda c=code: importing(c), lambda: importing("import torch"), seconds=2 * args.seconds, device="cpu")
        lines.append({"claim": claim} | found | {"bound": "at most 1.1", "device": "cpu", "shape": []})
    write("import", "cpu", lines)
    print(f"({time.perf_counter() - began:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
