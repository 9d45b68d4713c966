"""Every study can be imported, and the index in studies/README.md lists every study with files and headings that exist."""

import re
from pathlib import Path

import pytest

from tests.support import forks

ROOT = Path(__file__).parents[2]
STUDIES = {f"studies.{path.parent.name}.{path.stem}" for part in ("own", "paper") for path in (ROOT / "studies" / part).glob("[a-z]*.py")}
STUDIES.add("studies.everything")


def test_studies_can_be_imported():
    assert len(STUDIES) > 15
    done = forks.run(f"import {', '.join(sorted(STUDIES))}")
    assert done.returncode == 0, done.stderr
