"""``.ci/browser`` installs a browser where none is found, and only there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "browser"
TOOLS = ("bash", "env", "dirname", "mktemp", "tail", "rm", "cp", "chmod")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell of Unix")


def run(folder: Path, user: int = 0, **commands: str) -> tuple[int, str, str, str]:
    """Exit code, both outputs, and what was called; on a machine that has nothing but a few tools and ``commands``."""
    programs = folder / "bin"
    programs.mkdir()
    for name in TOOLS:
        (programs / name).symlink_to(shutil.which(name))
    for name, text in {"id": f"echo {user}", **commands}.items():
        (programs / name.replace("_", "-")).write_text(f'#!/bin/sh\necho "{name} $*" >> "{folder}/called"\n{text}\n')
        (programs / name.replace("_", "-")).chmod(0o755)
    env = {"PATH": str(programs), "PYTHON": sys.executable, "HOME": str(folder)}
    done = subprocess.run([str(SCRIPT)], env=env, cwd=folder, capture_output=True, text=True, timeout=60)
    called = (folder / "called").read_text() if (folder / "called").exists() else ""
    return done.returncode, done.stdout, done.stderr, called.replace("id -u\n", "")


UPDATE = "apt_get -q update\n"
INSTALL = "apt_get -q install -y --no-install-recommends chromium fonts-liberation\n"


def working(folder: Path) -> str:
    return f'if [ "$2" = install ]; then echo "Setting up chromium"; cp "{folder}/bin/id" "{folder}/bin/chromium"; fi'


def test_where_a_browser_is_nothing_is_installed(tmp_path):
    assert run(tmp_path, chromium="", apt_get="exit 1") == (0, "", "", "")


def test_chromium_is_installed_once_and_quietly(tmp_path):
    assert run(tmp_path, apt_get=working(tmp_path)) == (0, "installed chromium for the browser tests\n", "", UPDATE + INSTALL)


def test_without_root_by_sudo(tmp_path):
    code, out, _, called = run(tmp_path, 1000, apt_get=working(tmp_path), sudo='shift; "$@"')
    assert (code, out) == (0, "installed chromium for the browser tests\n")
    assert called == "sudo -n apt-get -q update\n" + UPDATE + "sudo -n " + INSTALL.replace("apt_get", "apt-get") + INSTALL


@pytest.mark.parametrize("commands", [{}, {"apt_get": ""}], ids=["no apt-get", "no root and no sudo"])
def test_where_nothing_can_be_installed(commands, tmp_path):
    assert run(tmp_path, 1000, **commands) == (
        1,
        "",
        "No browser was found, and none can be installed here: install chromium, or give a browser's path as FEATAUG_BROWSER.\n",
        "",
    )


def test_a_failure_shows_what_apt_said(tmp_path):
    assert run(tmp_path, apt_get="echo E: no network; exit 100") == (
        1,
        "",
        "E: no network\nInstalling chromium failed.\n",
        UPDATE,
    )


def test_an_installation_that_brings_no_browser(tmp_path):
    assert run(tmp_path, apt_get="")[:3] == (
        1,
        "",
        "apt-get installed chromium, yet no browser was found: see NAMES in tests/support/browser.py.\n",
    )


def test_the_script_is_executable_and_part_of_ci():
    assert os.access(SCRIPT, os.X_OK)
    ci = SCRIPT.with_name("run").read_text()
    assert "\n.ci/browser\n" in ci
    assert "\nexport FEATAUG_NO_SKIPS=1\n" in ci
    assert ci.rstrip().endswith("make test")  # its summary closes the log
