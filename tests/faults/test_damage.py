"""The short form of damage.py."""

from pathlib import Path

import pytest

from tests.support import damage, forks


@pytest.mark.slow
def test_damage_is_noticed_or_does_no_harm():
    done = forks.run(Path(damage.__file__), "--damages", 24, "--seed", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 damages:" in done.stdout
