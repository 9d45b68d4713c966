"""Every study can be imported: what it takes from the package and from the other studies is there."""

import importlib.util
import subprocess
import sys
from pathlib import Path

STUDIES = Path(__file__).parents[2] / "studies"


def test_studies_can_be_imported():
    names = sorted(file.stem for file in STUDIES.glob("*.py"))
    assert {"camvid", "compare", "generator", "rivals", "screen"} <= set(names)
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        names.remove("architectures")
    # In one process of its own: the studies' names are common words.
    code = f"import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=STUDIES)
    assert done.returncode == 0, done.stderr
