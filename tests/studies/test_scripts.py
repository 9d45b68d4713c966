"""Every study can be imported, and the index in studies/README.md lists every study with files and headings that exist."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from studies.lib.comparison import Comparison
from tests.support import forks

ROOT = Path(__file__).parents[2]
STUDIES = {f"studies.{path.parent.name}.{path.stem}" for part in ("own", "paper") for path in (ROOT / "studies" / part).glob("[a-z]*.py")}
STUDIES.add("studies.everything")


def test_studies_can_be_imported():
    assert len(STUDIES) > 15
    done = forks.run(f"import {', '.join(sorted(STUDIES))}")
    assert done.returncode == 0, done.stderr


def shadowed(kind):
    """Settings of base classes that a class's own methods hide: `--quick` and a GPU change settings of all studies."""
    bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("studies.")]
    settings = {name for base in bases for name in vars(base).get("__annotations__", {})}
    settings |= {name for base in bases for name, value in vars(base).items() if dataclasses.is_dataclass(value)}
    return sorted(name for name, value in vars(kind).items() if inspect.isfunction(value) and name in settings)


def test_no_method_hides_a_setting_of_its_base_class():
    kinds = {kind for name in sorted(STUDIES) for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass)}
    kinds = {kind for kind in kinds if kind.__module__.startswith("studies.")}
    assert len(kinds) > 15
    assert {kind.__name__: shadowed(kind) for kind in kinds if shadowed(kind)} == {}


def test_a_method_that_hides_a_setting_is_found():
    class Hides(Comparison):
        def further(self):
            return {}

        def run_base(self):
            return {}

    assert shadowed(Hides) == ["further"]


def index_rows(text):
    """Module, JSON pattern, page and anchor of each row."""
    return re.findall(r"^\| `(studies[\w.]+)` \|.*\| `([^`]+\.json)` \| \[\w+\]\(\.\./([\w/.-]+)#([\w-]+)\) \|$", text, re.MULTILINE)


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return {"".join(c for c in heading.lower() if c.isalnum() or c in " -").replace(" ", "-") for heading in headings}


def index_errors(text):
    """What the index says that the files do not."""
    rows = index_rows(text)
    errors = [f"{module}: not in the index" for module in sorted(STUDIES - {"studies.everything"} - {row[0] for row in rows})]
    errors += [f"{module}: no such study" for module, *_ in rows if module not in STUDIES]
    errors += [f"{module}: no {pattern}" for module, pattern, *_ in rows if not list((ROOT / "studies" / "results").rglob(pattern))]
    return errors + [f"{module}: no #{anchor} in {page}" for module, _, page, anchor in rows if anchor not in anchors(page)]


def test_the_index_lists_every_study():
    text = (ROOT / "studies" / "README.md").read_text()
    assert index_errors(text) == []
    known = [pattern for _, pattern, *_ in index_rows(text)]
    results = ROOT / "studies" / "results"
    assert [file.name for file in results.rglob("*.json") if not any(file.match(pattern) for pattern in known)] == []


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("studies.own.bias`", "studies.own.biases`", "studies.own.bias: not in the index"),
        ("`fig8-*.json`", "`figure8-*.json`", "studies.paper.fig8: no figure8-*.json"),
        ("#table-5)", "#table-6)", "studies.paper.table5: no #table-6 in docs/whole-images-paper.md"),
    ],
)
def test_an_index_that_is_wrong_is_noticed(old, new, error):
    text = (ROOT / "studies" / "README.md").read_text()
    assert error in index_errors(text.replace(old, new))
