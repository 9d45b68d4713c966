"""Checks on the tests themselves: they leave the repository as it was, and none is skipped where all can run.

``conftest.py`` applies them; ``test_guards.py`` plants what they must find.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What tools and interpreters leave behind, by name, wherever it lies.
CACHES = {
    ".git",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
    ".hypothesis",
    ".import_linter_cache",
    ".ipynb_checkpoints",
}
# What `make` builds; the tests of a release may run while it does.
BUILT = {"dist", "build", "docs/_build", "docs/jupyter_execute", "docs/notebooks"}
# Reasons for which a test may be skipped even where FEATAUG_NO_SKIPS is set.
NO_GPU = "no CUDA device"
NO_DATA = "no real data"


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change in nanoseconds of every file below ``root``, without caches and environments.

    Folders count as well, with -1 and 0: an empty folder that a test leaves is found, too.
    """
    found = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root).as_posix()
        inside = "" if here == "." else here + "/"
        folders[:] = [
            name
            for name in folders
            if name not in CACHES
            and not name.endswith(".egg-info")
            and inside + name not in BUILT
            and not os.path.isfile(os.path.join(folder, name, "pyvenv.cfg"))
        ]
        found |= {inside + name: (-1, 0) for name in folders}
        for name in files:
            try:
                facts = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue  # gone since it was listed
            found[inside + name] = (facts.st_size, facts.st_mtime_ns)
    return found


def changes(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> list[str]:
    """What was made, changed or removed, sorted by path, such as ``"made: runs/demo/command.json"``."""
    words = {(False, True): "made", (True, True): "changed", (True, False): "removed"}
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [f"{words[path in before, path in after]}: {path}" for path in paths]


def complaint(where: str, found: list[str]) -> str:
    """The message for files that tests wrote where they must not."""
    shown = "".join(f"\n  {line}" for line in found[:20]) + (f"\n  and {len(found) - 20} more" if len(found) > 20 else "")
    return (
        f"While the tests ran, {where} changed:{shown}\nTests write to tmp_path only; a command needs --output, or monkeypatch.chdir(tmp_path). "
        "If an editor or another program wrote there, run the tests again."
    )


def real(name: str) -> Path:
    """The folder of a real data set: ``data/NAME`` in ``$FEATAUG_SHARED``, or in ``shared`` beside the repository."""
    return Path(os.environ.get("FEATAUG_SHARED") or ROOT.parent / "shared") / "data" / name


def needs_real(name: str) -> pytest.MarkDecorator:
    """Skips a test where a real data set is not at hand."""
    return pytest.mark.skipif(not real(name).is_dir(), reason=f"{NO_DATA}: there is no folder {real(name)}")


def skips_fail() -> bool:
    """Whether this machine is meant to have all that the tests need."""
    return os.environ.get("FEATAUG_NO_SKIPS", "") not in ("", "0")


def is_allowed(reason: str) -> bool:
    """Whether a test may be skipped for this reason even there."""
    return reason.removeprefix("Skipped: ").startswith((NO_GPU, NO_DATA))
