"""Signals: nothing is lost, all processes stop after the same step, and what goes on is the undisturbed run."""

import signal
import socket
import threading

import pytest
import torch

from feataug.training import signals
from feataug.training.checkpoint import checkpoints
from feataug.training.signals import StopRequest, stop_requests
from tests.support.forks import Fork
from tests.support.small_trainings import TRAININGS, Loader, equal, finetuner, run


@pytest.fixture(params=TRAININGS)
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
    steps = at + 1 - (0 if make is finetuner else 2)
    progress = steps * (1 if make is finetuner else 3)
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
