"""Runs of ``feataug.teaching_score``: killed ones resume, finished ones are not run again, and loaders must repeat themselves."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from feataug.data import seeded_loader
from feataug.errors import CheckpointError, DataError
from feataug.training.checkpoint import checkpoints
from tests.support import forks
from tests.support.teaching_runs import (
    Dropping,
    figures,
    planted,
    teach,
)

pytestmark = pytest.mark.xdist_group("teaching")

STOPPED = """
import os, signal
import torch
torch.set_num_threads(1)
from feataug.data import seeded_loader
from tests.support import teaching_runs as t
calls = []
def source(masks, real, rng):
    calls.append(1)
    if {stop} and len(calls) == {stop}:
        os.kill(os.getpid(), signal.SIGKILL)
    return tuple(x + torch.randn(x.shape, generator=rng) for x in real)
model = t.Dropping()
model.load_state_dict(torch.load({weights!r}))
data = [(x, y) for images, masks in t.planted("loud", 10) for x, y in zip(images, masks)]
# Of other loaders it is not known what a later batch is.
loader = lambda seed: seeded_loader(data, 4, seed=seed)
result = t.teach(model, steps=8, loader=loader, others={{"own": source}}, output={folder!r})
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tmp_path):
    torch.manual_seed(0)
    torch.save(Dropping().state_dict(), tmp_path / "weights")

    def run(folder, stop):
        text = STOPPED.format(stop=stop, weights=str(tmp_path / "weights"), folder=str(tmp_path / folder))
        done = forks.run(text)
        assert done.returncode in (0, -9), done.stderr
        return done.returncode

    assert run("undisturbed", 0) == 0
    # In training after its second checkpoint, then while BatchNorm is measured.
    assert run("killed", 6) == -9
    assert not (tmp_path / "killed/seed-0/own.json").exists()
    assert checkpoints(tmp_path / "killed/seed-0/own")[0].name.endswith("4.safetensors")
    assert run("killed", 7) == -9
    assert run("killed", 0) == 0
    wanted, found = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("undisturbed", "killed"))
    for name in ("real", "own"):
        assert figures(wanted, name) == figures(found, name)
        assert wanted["seeds"][0][name]["class_bias"] == found["seeds"][0][name]["class_bias"]


def test_what_is_done_is_not_run_again_and_other_runs_are_refused(loud, tmp_path):
    calls = []

    class Shifted:
        def __init__(self, by):
            self.by = by

        def __call__(self, masks, real, rng):
            calls.append(self.by)
            return tuple(level + self.by for level in real)

    first = teach(loud, steps=2, others={"shifted": Shifted(1.0)}, output=tmp_path)
    count = len(calls)
    assert count == 2 + 6
    assert teach(loud, steps=2, others={"shifted": Shifted(1.0)}, output=tmp_path) == first
    both = teach(loud, steps=2, others={"shifted": Shifted(1.0)}, output=tmp_path, seeds=(0, 1))
    assert both["seeds"][0] == first["seeds"][0]
    assert len(calls) == 2 * count
    # A source less, or one more, leaves the others as they are.
    assert teach(loud, steps=2, output=tmp_path)["seeds"][0]["real"] == first["seeds"][0]["real"]
    with pytest.raises(CheckpointError) as error:
        teach(loud, steps=2, others={"shifted": Shifted(2.0)}, output=tmp_path)
    arm = tmp_path / "seed-0/shifted"
    assert str(error.value) == (
        "teaching_score: the output folder holds a run with other settings.\n"
        "  given:   source.function.by=2.0\n"
        f"  needed:  source.function.by=1.0, as in {arm}.json\n"
        f"Use another output folder, or delete this file and {arm} to run that arm again."
    )
    with pytest.raises(CheckpointError, match=r"given:   config\.num_steps=3, window=\[8, 8\]\n  needed:  config\.num_steps=2, window=None"):
        teach(loud, steps=3, window=(8, 8), output=tmp_path)
    other = copy.deepcopy(loud)
    other.head[3].bias.data += 1
    with pytest.raises(CheckpointError, match=r"given:   model=\S+\n  needed:  model=\S+, as in "):
        teach(other, steps=2, output=tmp_path)


def test_a_loader_that_does_not_repeat_itself(loud):
    order = iter(range(100))
    with pytest.raises(DataError, match="teaching_score: the loader does not repeat itself"):
        teach(loud, loader=lambda seed: planted("loud", next(order)))
    data = [(images[0], masks[0]) for images, masks in planted("loud", 1)]
    assert teach(loud, steps=2, loader=lambda seed: seeded_loader(data, 2, seed=seed))["score"]["real"]["after"] == 1
