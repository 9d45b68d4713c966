"""The short form of kill.py."""

import os
from pathlib import Path

import pytest

from tests.support import forks, kill


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_killed_runs_end_with_the_weights_of_the_undisturbed_run():
    # In a process of its own: forks of one that has used several threads may hang.
    done = forks.run(Path(kill.__file__), "--kills", 4, "--seed", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 runs" in done.stdout
