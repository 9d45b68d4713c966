"""Disks that are full, folders that are none, workers that die, files that would run code."""

import json
import os
import resource
import shutil
import signal

import pytest
import torch
from PIL import Image

from feataug import FeatureBank
from feataug.data import MaskedImages, seeded_loader
from feataug.errors import CheckpointError, DataError, TrainingError
from feataug.io.atomic import write_json
from feataug.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from feataug.training.run_folder import RunFolder
from tests.support.kill import data, make


@pytest.fixture
def small_disk():
    """No file may grow beyond 20 kB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, small_disk):
    save_checkpoint(tmp_path, 1, {"a": torch.ones(3)})
    small_disk()
    with pytest.raises(CheckpointError) as error:
        save_checkpoint(tmp_path, 2, {"a": torch.ones(100_000)})
    text = str(error.value).splitlines()
    assert text[0] == "feataug: a file cannot be written."
    assert text[1].startswith(f"  given:   {tmp_path / 'checkpoint-0000000002.safetensors'} (")
    assert text[2:] == [
        "  needed:  a folder that may be written to, with room",
        "Files from before are untouched: fix this, and run the same command again.",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0000000001.safetensors"]
    assert load_checkpoint(checkpoints(tmp_path)[0])[0] == 1


def test_training_on_a_full_disk_ends_in_our_error_and_goes_on_when_there_is_room(tmp_path, small_disk):
    loader = seeded_loader(data(), 3, seed=1)
    undisturbed, module = make("generator", tmp_path / "undisturbed")
    undisturbed.fit(loader)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    trainer, _ = make("generator", tmp_path / "full")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    small_disk()
    with pytest.raises(CheckpointError, match=r"^feataug: a file cannot be written\."):
        trainer.fit(loader)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    trainer, module = make("generator", tmp_path / "full")
    trainer.fit(loader)
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_json(tmp_path / "runs" / "result.json", {})
    trainer, _ = make("finetune", tmp_path / "runs")
    with pytest.raises(CheckpointError, match="cannot be written"):
        trainer.fit(seeded_loader(data(), 3, seed=1))


class Deadly(torch.utils.data.Dataset):
    """Its third item ends the process that reads it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 2 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return data()[index % 4]


def test_a_worker_that_dies_ends_in_our_error(tmp_path):
    trainer, _ = make("finetune", tmp_path)
    with pytest.raises(TrainingError) as error:
        trainer.fit(seeded_loader(Deadly(), 4, num_workers=1))
    assert str(error.value).splitlines()[0] == "feataug: a process that loads data has died."


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mknod, (self.path,)


def test_a_pickle_offered_as_a_checkpoint_does_not_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"state": Touch(tmp_path / "proof")}, tmp_path / "pickled.pt")
    shutil.copy(tmp_path / "pickled.pt", folder / "checkpoint-0000000004.safetensors")
    trainer, _ = make("finetune", folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer.fit(seeded_loader(data(), 3, seed=1))
    assert not (tmp_path / "proof").exists()
    # It would have.
    torch.load(tmp_path / "pickled.pt", weights_only=False)
    assert (tmp_path / "proof").exists()


def test_a_safetensors_header_that_lies(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"a": torch.ones(4)})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    lies = [
        (2**62).to_bytes(8, "little") + content[8:],  # a header longer than the file
        content[:8] + header.replace(b"[4]", b"[9]") + content[8 + length :],  # more numbers than bytes
        content[:8] + header.replace(b"[0,16]", b"[0,99]") + content[8 + length :],  # data behind the end
    ]
    assert len({*lies, content}) == 4
    for lie in lies:
        path.write_bytes(lie)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(path)


def test_an_index_cannot_point_out_of_the_bank(tmp_path):
    trainer, _ = make("finetune", None)
    FeatureBank.write(tmp_path / "bank", trainer.cut, seeded_loader(data(), 3, seed=1), 6, progress=False)
    index = tmp_path / "bank" / "bank.json"
    stored = json.loads(index.read_text())
    for shards in (
        [{"images": 6, "batches": 2, "sha256": "0", "file": "../../etc/passwd"}],
        [{"images": -6, "batches": 2, "sha256": "0"}],
        "x",
    ):
        index.write_text(json.dumps(stored | {"shards": shards}))
        with pytest.raises(DataError, match=r"^FeatureBank: the index cannot be read\."):
            FeatureBank(tmp_path / "bank")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_unpacks_to_gigabytes(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("1", (30_000, 30_000)).save(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="a file cannot be decoded"):
        MaskedImages(tmp_path / "images", tmp_path / "masks", ["sky"])[0]


def noted(monkeypatch):
    """What is synced and renamed, in order."""
    log = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        log.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def renamed(source, target):
        log.append(("rename", os.path.basename(source), os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return log


def test_files_are_synced_under_another_name_then_renamed_then_their_folder_is_synced(tmp_path, monkeypatch):
    log = noted(monkeypatch)
    write_json(tmp_path / "result.json", {"a": 1})
    assert log == [("sync", "result.partial"), ("rename", "result.partial", "result.json"), ("sync", tmp_path.name)]
    log.clear()
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2)})
    # Renames of safetensors itself come before.
    assert log[-3:] == [
        ("sync", "checkpoint-0000000001.partial"),
        ("rename", "checkpoint-0000000001.partial", "checkpoint-0000000001.safetensors"),
        ("sync", tmp_path.name),
    ]


def test_statistics_are_written_anew_beside_the_old_ones(tmp_path, monkeypatch):
    """To cut a file in place is to lose it where the machine stops in between."""
    folder = RunFolder(tmp_path, {})
    for progress in (1, 2, 3):
        folder.log(progress, {"loss": 0.5})
    folder.save(2, {})
    whole = (tmp_path / "stats.jsonl").read_text()

    def stopped(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(tmp_path, {}).resume()
    assert (tmp_path / "stats.jsonl").read_text() == whole
    log = noted(monkeypatch)
    RunFolder(tmp_path, {}).resume()
    assert log == [("sync", "stats.partial"), ("rename", "stats.partial", "stats.jsonl"), ("sync", tmp_path.name)]
    assert [line["progress"] for line in folder.history()] == [1, 2]


def test_lines_are_on_the_disk_before_the_checkpoint_that_follows_them(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, {})
    folder.log(1, {"loss": 0.5})
    log = noted(monkeypatch)
    folder.save(1, {})
    assert log[0] == ("sync", "stats.jsonl")
    assert ("sync", "checkpoint-0000000001.partial") in log[1:]


def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    fsync = os.fsync

    def refusing(handle):
        if os.path.isdir(os.readlink(f"/proc/self/fd/{handle}")):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refusing)
    assert json.loads(write_json(tmp_path / "result.json", {"a": 1}).read_text()) == {"a": 1}

    def broken(handle):
        raise OSError(5, "Input/output error")

    # A file that is not on the disk is an error, and the one before it stays.
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(CheckpointError, match=r"^feataug: a file cannot be written\.\n  given:   .*Input/output error"):
        write_json(tmp_path / "result.json", {"a": 2})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
