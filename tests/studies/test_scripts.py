"""Every study can be imported: what it takes from the package and from the other studies is there."""

import importlib.util
from pathlib import Path

from tests.support import forks

STUDIES = Path(__file__).parents[2] / "studies"


def test_studies_can_be_imported():
    names = sorted(file.stem for file in STUDIES.glob("*.py"))
    assert {"camvid", "compare", "generator", "baselines", "screen"} <= set(names)
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        names.remove("architectures")
    # In one process of its own: the studies' names are common words.
    done = forks.run(f"import sys; sys.path.insert(0, {str(STUDIES)!r}); import {', '.join(names)}")
    assert done.returncode == 0, done.stderr
