"""A tiny run of the demo, made once."""

from __future__ import annotations

import time
import warnings

import pytest

from feataug.cli.demo.run import DemoConfig, run_demo
from feataug.errors import FeatAugWarning
from feataug.io.results import write_command


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "demo"
    tiny = DemoConfig(
        size=(32, 48), labelled=16, unlabelled=8, val_images=8, batch_size=4, base_steps=6, generator_images=16, further_steps=3, pairs=2
    )
    began = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatAugWarning)
        run_demo(folder, device="cpu", config=tiny, progress=False)
    write_command({"command": "demo", "output": folder, "seed": 0, "device": "cpu", "quiet": True}, began, finished=True)
    return folder
