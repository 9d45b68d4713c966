"""Signals, locks and damaged checkpoints: nothing is lost, and what goes on is the undisturbed run."""

import os
import signal
import socket
import threading
import time

import pytest
import torch
from torch import nn

from feataug import FeatureGenerator, FinetuneConfig, Finetuner, GeneratorConfig, GeneratorTrainer, split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import CheckpointError, FeatAugWarning
from feataug.training import signals
from feataug.training.checkpoint import checkpoints
from feataug.training.run_folder import folder_lock
from feataug.training.signals import StopRequest, stop_requests
from tests.support.forks import Fork

SIZE, CLASSES = (32, 48), Scenes.num_classes


def finetuner(folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, CLASSES, 1))
    config = FinetuneConfig(num_steps=6, lr=0.05, save_every=2)
    return Finetuner(model, config, output=folder, device="cpu", progress=False), model


def generator_trainer(folder):
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
    cut = split(nn.Sequential(stem, nn.Conv2d(12, CLASSES, 1)), "0")
    generator = FeatureGenerator(CLASSES, cut.spec, mask_widths=(6,), width=8, depth=0, latent_dim=2)
    config = GeneratorConfig(num_images=18, stats_images=6, critic_width=4, snapshot_images=6)
    return GeneratorTrainer(generator, cut, config, output=folder, device="cpu", progress=False), generator


class Loader:
    """Batches of a seeded loader; does something before one of them."""

    def __init__(self, at=None, act=None):
        self.inner = seeded_loader(Scenes(7, SIZE, transforms=train_transforms(SIZE)), 3, seed=1)
        self.batch_sampler, self.at, self.act = self.inner.batch_sampler, at, act

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        for batch in self.inner:
            if self.at is not None:
                self.at -= 1
                if self.at < 0:
                    self.at = None
                    self.act()
            yield batch


def run(make, folder, loader=None):
    trainer, module = make(folder)
    trainer.fit(loader or Loader())
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(params=[finetuner, generator_trainer])
def make(request):
    return request.param


@pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
@pytest.mark.parametrize(("signum", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("at", [3, 4])
def test_a_signal_saves_after_the_step_and_the_run_goes_on(tmp_path, make, signum, error, at):
    undisturbed = run(make, tmp_path / "a")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(error) as stopped:
        run(make, tmp_path / "b", Loader(at, lambda: signal.raise_signal(signum)))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    if error is SystemExit:
        assert stopped.value.code == 143
    # The generator's loader was read for the statistics before, two batches.
    steps = at + 1 - (2 if make is generator_trainer else 0)
    progress = steps * (3 if make is generator_trainer else 1)
    assert checkpoints(tmp_path / "b")[0].name == f"checkpoint-{progress:010d}.safetensors"
    assert equal(run(make, tmp_path / "b"), undisturbed)


@pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
def test_training_outside_of_the_main_thread_leaves_signals_alone(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(finetuner, tmp_path / "b")))
    thread.start()
    thread.join()
    assert equal(found[0], run(finetuner, tmp_path / "a"))


def test_the_second_interrupt_does_not_wait():
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.pending, stop.signum) == (signal.SIGINT, 0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_evaluation_is_broken_off_at_once():
    with stop_requests() as stop, pytest.raises(SystemExit), stop.interruptible():
        signal.raise_signal(signal.SIGTERM)
    stop = StopRequest()
    stop.handle(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt), stop.interruptible():
        raise AssertionError("a request from before is obeyed first")


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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"^feataug: a file cannot be written\."), folder_lock(tmp_path):
        pass


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


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_exchange_is_shared_after_the_next_step(monkeypatch, signum):
    """Each of several processes asks the others; a signal that arrives meanwhile must not be overwritten by their answer."""
    monkeypatch.setattr(signals, "rank_and_world", lambda: (0, 2))
    arriving = [signum]

    def total(asked):
        while arriving:
            signal.raise_signal(arriving.pop())
        return asked

    monkeypatch.setattr(signals, "all_reduce_sum", total)

    def steps():
        with stop_requests() as stop:
            stop.sync(torch.device("cpu"))
            assert (stop.signum, stop.pending) == (0, signum)
            stop.raise_if_requested()  # the other process has not heard of it: this step is not the last
            stop.sync(torch.device("cpu"))
            assert stop.signum == signum
            stop.raise_if_requested()
            raise AssertionError("the run goes on")

    with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:
        steps()
    assert stopped.type is (SystemExit if signum == signal.SIGTERM else KeyboardInterrupt)


def test_a_signal_after_the_agreement_waits_for_the_next_step():
    """A checkpoint is saved where a step was agreed to be the last; a signal between the two must not leave without one."""

    def steps():
        with stop_requests() as stop:
            stop.sync(torch.device("cpu"))
            signal.raise_signal(signal.SIGTERM)
            assert stop.signum == 0
            stop.raise_if_requested()
            stop.sync(torch.device("cpu"))
            assert stop.signum == signal.SIGTERM
            stop.raise_if_requested()
            raise AssertionError("the run goes on")

    with pytest.raises(SystemExit):
        steps()


def test_a_signal_after_the_last_step_is_not_lost():
    reached = []

    def steps():
        with stop_requests():
            signal.raise_signal(signal.SIGTERM)
            reached.append(True)

    with pytest.raises(SystemExit) as stopped:
        steps()
    assert reached
    assert stopped.value.code == 143


TWO = """
import os, signal, sys
import torch
import torch.distributed as dist
from feataug.training import signals

dist.init_process_group("gloo")
rank, kind = dist.get_rank(), sys.argv[1]
whole = signals.all_reduce_sum

def total(asked):
    # The signal arrives after the question was put into a tensor, and before the answer is there.
    if rank == 1 and step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return whole(asked)

signals.all_reduce_sum = total
code = 0
try:
    with signals.stop_requests() as stop:
        for step in range(20):
            if kind == "overwritten":
                # A planted fault: the answer overwrites what the handler has stored.
                stop.sync(torch.device("cpu"))
                stop.pending = stop.signum
            else:
                stop.sync(torch.device("cpu"))
            stop.raise_if_requested()
except SystemExit as stopped:
    code = stopped.code
print(step, code)
"""


@pytest.mark.parametrize(("kind", "printed"), [("ours", "4 143"), ("overwritten", "19 0")])
def test_two_processes_stop_after_the_same_step(kind, printed):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2}
    running = [Fork(TWO, kind, env=env | {"RANK": rank}) for rank in range(2)]
    done = [fork.wait(120) for fork in running]
    assert [(fork.returncode, fork.stdout.strip()) for fork in done] == [(0, printed)] * 2, [fork.stderr for fork in done]
