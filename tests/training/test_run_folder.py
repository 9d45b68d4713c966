"""The output folder of a run: its lock, damaged checkpoints, and what a kill leaves behind."""

import os
import time

import pytest

from feataug.errors import CheckpointError, FeatAugWarning
from feataug.training.checkpoint import checkpoints
from feataug.training.run_folder import folder_lock
from tests.support.forks import Fork
from tests.support.small_trainings import TRAININGS, Loader, equal, finetuner, run


@pytest.fixture(params=TRAININGS)
def make(request):
    return request.param


@pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
def test_one_run_at_a_time_in_a_folder(tmp_path, make):
    texts = []

    def second():
        with pytest.raises(CheckpointError) as error:
            run(make, tmp_path)
        texts.append(str(error.value))

    first = run(make, tmp_path, Loader(3, second))
    assert texts == [
        f"feataug: another run is using the output folder.\n  given:   {tmp_path}\n  needed:  one run at a time\n"
        "Wait for it, or use another folder."
    ]
    assert equal(run(make, tmp_path), first)  # afterwards the folder is free
    with folder_lock(None), folder_lock(None):
        pass


LOCKED = """
import os, sys, time
from pathlib import Path
from feataug.training.run_folder import folder_lock
with folder_lock(Path(sys.argv[1])):
    Path(sys.argv[1], "entered").touch()
    time.sleep(600)
"""


def test_a_killed_process_leaves_the_folder_free(tmp_path):
    holder, began = Fork(LOCKED, tmp_path), time.monotonic()
    while not (tmp_path / "entered").exists():
        assert time.monotonic() - began < 120, holder.wait(0).stderr
        time.sleep(0.05)
    with pytest.raises(CheckpointError, match="another run is using"), folder_lock(tmp_path):
        pass
    holder.kill()
    with folder_lock(tmp_path):  # the lock file is still there
        assert (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    # The superuser may write anywhere: for a moment the test is nobody.
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match=r"^feataug: a file cannot be written\."), folder_lock(tmp_path):
            pass
    finally:
        if superuser:
            os.seteuid(0)


def test_the_lock_makes_its_folder(tmp_path):
    with folder_lock(tmp_path / "runs" / "first"):
        assert (tmp_path / "runs" / "first").is_dir()
    (tmp_path / "file").write_text("a file")
    with pytest.raises(CheckpointError, match=r"^feataug: a file cannot be written\."), folder_lock(tmp_path / "file"):
        pass


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[-5] ^= 1
    path.write_bytes(bytes(content[: len(content) // 2] if kind == "cut short" else b"" if kind == "emptied" else content))


@pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
@pytest.mark.parametrize("kind", ["flipped", "cut short", "emptied"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, make, kind):
    undisturbed = run(make, tmp_path)
    newest, before = checkpoints(tmp_path)
    damage(newest, kind)
    with pytest.warns(
        FeatAugWarning, match=rf"^feataug: a checkpoint cannot be read\.\n(.|\n)*\nThe run continues from {before.name} instead\.$"
    ):
        again = run(make, tmp_path)
    assert equal(again, undisturbed)
    for path in checkpoints(tmp_path):
        damage(path, kind)
    with pytest.warns(FeatAugWarning), pytest.raises(CheckpointError, match=r"^feataug: a checkpoint cannot be read\."):
        run(make, tmp_path)


def test_what_a_kill_left_in_the_folder_is_cleared_away(tmp_path):
    run(finetuner, tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    for name in (".tmpAbC123", "checkpoint-0000000005.partial"):
        (tmp_path / name).write_bytes(b"half of a file")
    run(finetuner, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == names
