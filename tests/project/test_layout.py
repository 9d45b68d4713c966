"""The package reads as the method: few modules at its top, few layers, short files, no old names."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "feataug"
LONGEST = 300
# Modules and classes that were renamed: what a reader of the history would look for, but nobody else should meet.
OLD_MODULES = (
    "splitting", "halves", "replay", "port", "recording", "tracing", "locating", "leaks", "levels", "places", "reuse", "filtering", "balancing",
    "presets", "mining", "processes", "seeds", "files", "cards", "report", "fits", "specs", "norms", "contexts", "resolved", "manual", "values",
)  # fmt: skip
OLD_NAMES = ("Halves", "SampleBank", "hand_over", "rival", "rivals", "from_main", "Aside")


def too_long(folder: Path, *, longest: int = LONGEST) -> list[str]:
    """Python files with more lines than ``longest``."""
    counts = {path: len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
    return sorted(f"{path.relative_to(folder)}: {count}" for path, count in counts.items() if count > longest)


def old_mentions(text: str) -> list[str]:
    """Old module paths and names in a text."""
    modules = re.findall(rf"\bfeataug\.(?:{'|'.join(OLD_MODULES)})\b", text)
    return modules + re.findall(rf"\b(?:{'|'.join(OLD_NAMES)})\b", text)


def tracked() -> list[Path]:
    """Text files of the repository, without the history of changes, figures and this file."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout: an archive has no list of its files")
    names = [Path(name) for name in listed.stdout.splitlines()]
    kept = [name for name in names if name.suffix in (".py", ".md", ".toml", ".ipynb", ".jinja") and name.name != "CHANGELOG.md"]
    return [ROOT / name for name in kept if "results" not in name.parts and name != Path(__file__).relative_to(ROOT)]


def test_the_top_of_the_package_is_short():
    assert len(list(PACKAGE.glob("*.py"))) <= 10
    folders = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert all(ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) for folder in folders)


def test_the_layers_are_few_and_hold_everything():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract for contract in contracts if contract["type"] == "layers"]
    assert len(layers["layers"]) <= 11
    assert layers["exhaustive"]
    assert "ignore_imports" not in layers


def test_no_module_is_imported_by_a_string_but_the_public_names():
    """Imports by name pass the import linter by: only lazy names of the package and of its readers, and users' own code, may do so."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    }
    # lightning.py: Lightning by either of its names.
    assert found <= {"__init__.py", "data/__init__.py", "cli/user_code.py", "lightning.py"}


@pytest.mark.parametrize("folder", ["feataug", "tests", "studies", "docs/drawing", "benchmarks", "examples"])
def test_files_are_short(folder):
    assert too_long(ROOT / folder) == []


def test_a_long_file_is_found(tmp_path):
    (tmp_path / "long.py").write_text("x = 1\n" * (LONGEST + 1))
    (tmp_path / "short.py").write_text("x = 1\n" * LONGEST)
    assert too_long(tmp_path) == [f"long.py: {LONGEST + 1}"]


def test_old_names_are_gone():
    assert {str(path.relative_to(ROOT)): found for path in tracked() if path.exists() and (found := old_mentions(path.read_text()))} == {}


def test_an_old_name_is_found():
    assert old_mentions("from feataug.splitting import split; feataug.split(); class Halves: pass; arrivals") == ["feataug.splitting", "Halves"]
