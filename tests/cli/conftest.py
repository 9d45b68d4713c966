"""A folder with a user's own code."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support.user_code import SOURCE


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a user's module; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    before = set(sys.modules)
    (folder / "mymodel.py").write_text(SOURCE)
    yield folder
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
