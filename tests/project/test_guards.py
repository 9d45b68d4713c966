"""The guards of ``conftest.py`` find what they are there for: planted writes, planted skips."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support import forks, guards

TESTS = Path(__file__).parents[1]


def test_changes_are_found_and_caches_are_not(tmp_path):
    for name in ("a.py", "runs/demo/result.json", "docs/page.md", "docs/_build/index.html", ".git/HEAD", "venv/pyvenv.cfg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    before = guards.listing(tmp_path)
    assert {path for path, (size, _) in before.items() if size >= 0} == {"a.py", "runs/demo/result.json", "docs/page.md"}
    for name in (".git/index", "__pycache__/a.pyc", "docs/_build/b.html", "venv/bin", ".hypothesis/x", "x.egg-info/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert guards.changes(before, guards.listing(tmp_path)) == []
    (tmp_path / "runs" / "demo" / "command.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.utime(tmp_path / "a.py", ns=(0, 0))  # as long as before
    (tmp_path / "docs" / "page.md").unlink()
    found = guards.changes(before, guards.listing(tmp_path))
    assert found == ["changed: a.py", "removed: docs/page.md", "made: empty", "made: link", "made: runs/demo/command.json"]
    assert guards.complaint("the repository", found) == (
        "While the tests ran, the repository changed:\n"
        "  changed: a.py\n"
        "  removed: docs/page.md\n"
        "  made: empty\n"
        "  made: link\n"
        "  made: runs/demo/command.json\n"
        "Tests write to tmp_path only; a command needs --output, or monkeypatch.chdir(tmp_path). "
        "If an editor or another program wrote there, run the tests again."
    )
    assert guards.complaint("it", [f"made: {i}" for i in range(25)]).splitlines()[-2] == "  and 5 more"


def closing(done: forks.Fork) -> str:
    """The last line of pytest, without its count of warnings."""
    return re.sub(r", \d+ warnings?", "", done.stdout.splitlines()[-1])


def planted(folder: Path, test: str, *options: str, **variables: str) -> forks.Fork:
    """Runs pytest on a repository that holds our guards and one file of tests."""
    (folder / "tests" / "support").mkdir(parents=True)
    for name in ("conftest.py", "support/__init__.py", "support/guards.py"):
        shutil.copy(TESTS / name, folder / "tests" / name)
    (folder / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "-ra --import-mode=importlib -p no:cacheprovider"\npythonpath = ["."]\n'
    )
    (folder / "runs" / "demo").mkdir(parents=True)
    (folder / "tests" / "test_planted.py").write_text(test)
    # Not -n of the run that this is part of.
    unset = {"PYTEST_XDIST_WORKER": "", "PYTEST_ADDOPTS": "", "FEATAUG_NO_SKIPS": "", "COLUMNS": "200"}
    # The fork has imported our own `tests`, which would hide the planted package.
    forget = "for name in [n for n in sys.modules if n.split('.')[0] == 'tests']: del sys.modules[name]"
    code = f"import sys, pytest\n{forget}\nsys.exit(pytest.main({list(options)!r}))"
    return forks.run(code, env=unset | variables, folder=folder)


WRITES = {
    "the repository": "from pathlib import Path\ndef test_it():\n    (Path(__file__).parents[1] / 'runs/demo/command.json').write_text('x')\n",
    # As a command without --output, which notes that it was stopped only where the folder is there.
    "the current folder": "import os\ndef test_it():\n    if os.path.isdir('runs/demo'):\n        open('runs/demo/command.json', 'w').close()\n",
}


@pytest.mark.parametrize("where", WRITES)
def test_a_planted_write_is_found(where, tmp_path):
    done = planted(tmp_path / "a", WRITES[where])
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"While the tests ran, {where} changed:\n  made: runs/demo/command.json\n" in done.stdout
    assert "1 passed, 1 error in" in closing(done)


def test_an_expected_failure_does_not_hide_a_write(tmp_path):
    test = WRITES["the repository"] + "    assert False\n"
    done = planted(tmp_path / "a", "import pytest\n" + test.replace("def test_it", "@pytest.mark.xfail\ndef test_it"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 xfailed, 1 error in" in closing(done)


def test_a_temporary_folder_is_no_fault(tmp_path):
    test = "def test_it(tmp_path, monkeypatch):\n    monkeypatch.chdir(tmp_path)\n    open('a', 'w').close()\n"
    done = planted(tmp_path / "a", test)
    assert done.returncode == 0, done.stdout + done.stderr


SKIPS = """\
import pytest
from tests.support import guards

{top}
def test_runs():
    pass

@pytest.mark.skipif(True, reason="no browser")
def test_marked():
    pass

def test_imports():
    pytest.importorskip("no_such_package")

def test_gpu():
    pytest.skip(guards.NO_GPU)

@pytest.mark.skipif(True, reason=guards.NO_DATA + ": there is no folder shared")
def test_data():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    assert False
"""


def test_planted_skips_fail_where_all_must_run(tmp_path):
    done = planted(tmp_path / "a", SKIPS.format(top=""))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 4 skipped, 1 xfailed in" in closing(done)
    done = planted(tmp_path / "b", SKIPS.format(top=""), FEATAUG_NO_SKIPS="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed, 2 skipped, 1 xfailed, 1 error in" in closing(done)
    for reason in ("no browser", "could not import 'no_such_package'"):
        assert f"skipped although FEATAUG_NO_SKIPS is set: {reason}" in done.stdout


def test_both_are_found_in_several_processes(tmp_path):
    done = planted(tmp_path / "a", WRITES["the repository"] + SKIPS.format(top=""), "-n", "2", FEATAUG_NO_SKIPS="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "While the tests ran, the repository changed:\n  made: runs/demo/command.json\n" in done.stdout
    assert "skipped although FEATAUG_NO_SKIPS is set: no browser" in done.stdout
    # A skip that a mark asks for is an error; the write is one, whatever the last test is.
    assert "1 failed, 2 passed, 2 skipped, 1 xfailed, 2 errors in" in closing(done)


def test_a_whole_file_that_is_skipped_fails_there_too(tmp_path):
    test = SKIPS.format(top='pytest.importorskip("no_such_package")\n')
    assert planted(tmp_path / "a", test).returncode == 5  # nothing ran
    done = planted(tmp_path / "b", test, FEATAUG_NO_SKIPS="1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "skipped although FEATAUG_NO_SKIPS is set: could not import 'no_such_package'" in done.stdout


def test_where_real_data_are_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("FEATAUG_SHARED", raising=False)
    assert guards.real("camvid") == guards.ROOT.parent / "shared" / "data" / "camvid"
    monkeypatch.setenv("FEATAUG_SHARED", str(tmp_path))
    assert guards.real("camvid") == tmp_path / "data" / "camvid"
    mark = guards.needs_real("camvid").mark
    assert mark.args == (True,)
    assert guards.is_allowed(mark.kwargs["reason"])
    assert guards.is_allowed("Skipped: no CUDA device")
    assert not guards.is_allowed("Skipped: no browser: none of chromium")
