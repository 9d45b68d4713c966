"""The short form of damage.py."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_damage_is_noticed_or_does_no_harm():
    command = [sys.executable, str(Path(__file__).with_name("damage.py")), "--damages", "24", "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 damages:" in done.stdout
