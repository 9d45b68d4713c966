"""Several processes train as one: gloo, on the CPU, with really that many processes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

from tests.support import distributed_run
from tests.support.forks import Fork

pytestmark = [
    pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z"),
    pytest.mark.xdist_group("processes"),  # what they share takes half a minute to make
]
BATCH, IMAGES, STEPS = 12, 48, 5


def start(folders, modes, **variables):
    """``distributed_run.py`` in as many processes as folders."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": len(folders)} | variables
    words = (BATCH // len(folders), IMAGES, STEPS, *modes)
    return [
        Fork(Path(distributed_run.__file__), folder, *words, env=env | {"RANK": rank, "LOCAL_RANK": rank})
        for rank, folder in enumerate(folders)
    ]


def finish(running, status=0):
    for process in [process.wait() for process in running]:
        assert process.returncode == status, process.stderr


def weights(folder, rank=0):
    return torch.load(folder / f"weights-{rank}.pt", weights_only=True)


def apart(found, expected, parts=("generator", "model")):
    """The largest difference of any weight."""
    return max(
        float((found[part][name].float() - value.float()).abs().max())
        for part in parts
        for name, value in expected[part].items()
    )


def progress(folder):
    """What was written, in order."""
    return [json.loads(line)["progress"] for line in (folder / "stats.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each mode in one process."""
    folder = tmp_path_factory.mktemp("alone")
    for mode in ("plain", "bicyclegan", "mined", "learned", "bank"):
        distributed_run.run(folder / mode, BATCH, IMAGES, STEPS, mode)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Each mode in two processes, undisturbed."""
    folder = tmp_path_factory.mktemp("pair")
    finish(start([folder] * 2, ["plain", "bicyclegan", "learned", "bank", *distributed_run.FAULTS]))
    return folder


def check(folder, alone, mode, processes):
    """Equal weights in all processes; all pixels counted, each once; written by one."""
    found, single = (json.loads((where / mode / "results.json").read_text()) for where in (folder, alone))
    assert found["processes"] == processes
    expected = weights(alone / mode)
    for rank in range(processes):
        there = weights(folder / mode, rank)
        assert apart(there, expected) < 2e-4
        assert mode not in ("mined", "learned") or torch.equal(there["pool"], expected["pool"])
    for one, other in zip(single["tuned"], found["tuned"], strict=True):
        assert one["pixel_acc"] == pytest.approx(other["pixel_acc"], abs=0.1)
    for one, other in zip(single["generator"], found["generator"], strict=True):
        assert one.get("held_out", 0) == pytest.approx(other.get("held_out", 0), rel=1e-3)
    for part in ("generator", "tuned"):
        assert progress(folder / mode / part) == progress(alone / mode / part)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "bicyclegan", "learned", "bank"])
def test_two_processes_with_half_the_batch_end_with_the_weights_of_one(alone, pair, mode):
    check(pair, alone, mode, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "part"), [("deaf", "model"), ("same noise", "generator")])
def test_the_check_finds_processes_that_count_their_own_pixels_alone_or_draw_the_same_noise(alone, pair, fault, part):
    assert apart(weights(pair / fault), weights(alone / "plain"), [part]) > 2e-3


@pytest.mark.slow
def test_three_processes_mine_as_one(alone, tmp_path):
    finish(start([tmp_path] * 3, ["mined"]))
    check(tmp_path, alone, "mined", 3)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_they_go_on_as_if_nothing_had_happened(tmp_path, pair):
    # Each has its own folder, as on nodes that share no disk: the main process's checkpoint serves all.
    folders = [tmp_path / "main", tmp_path / "other"]
    finish(start(folders, ["plain"], STOP_AT="24"), status=143)
    assert not list(folders[1].rglob("checkpoint-*"))
    assert max(path.name for path in folders[0].rglob("checkpoint-*")) == "checkpoint-0000000036.safetensors"
    finish(start(folders, ["plain"]))
    for rank, folder in enumerate(folders):
        assert apart(weights(folder / "plain", rank), weights(pair / "plain", rank)) == 0
