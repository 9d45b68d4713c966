"""``import feataug`` against ``import torch``: ``python benchmarks/import_time.py``. Each in a process of its own, in turn."""

from __future__ import annotations

import subprocess
import sys
import time

from common import parser, race, write


def main() -> None:
    args = parser(__doc__).parse_args()

    def importing(name: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {name}"], check=True)

    began = time.perf_counter()
    found = race(lambda: importing("feataug"), lambda: importing("torch"), seconds=2 * args.seconds, device="cpu")
    line = {"claim": "import"} | found | {"bound": "at most 1.1", "device": "cpu", "shape": []}
    write("import", "cpu", [line])
    print(f"({time.perf_counter() - began:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
