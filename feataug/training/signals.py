"""Ctrl-C and SIGTERM stop training after the current step, in all processes after the same one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from feataug.core.distributed import all_reduce_sum, rank_and_world


class StopRequest:
    """A request to stop training, by Ctrl-C or SIGTERM.

    Attributes:
        pending: The signal that this process has received, or 0. It can change at any moment.
        signum: The signal that all processes have agreed on, or 0. Only ``sync`` changes it, so it is constant for the rest of a step.
    """

    def __init__(self) -> None:
        self.pending = self.signum = 0
        self._immediate = False

    def handle(self, signum: int, frame: Any) -> None:
        """Handle a signal. A second Ctrl-C stops the run immediately."""
        repeated, self.pending = self.pending == signum, signum
        if self._immediate or repeated:
            self.pending = 0  # handled by the exception
            _raise_for(signum)

    def sync(self, device: torch.device) -> None:
        """Share stop requests so that all processes stop after the same step; otherwise some would wait for the others forever.

        A signal that arrives during the exchange stays pending and is shared after the next step.
        """
        if rank_and_world()[1] == 1:
            self.signum = self.pending
            return
        pending = self.pending
        received = torch.tensor([pending == number for number in (signal.SIGINT, signal.SIGTERM)], dtype=torch.int32, device=device)
        interrupted, terminated = all_reduce_sum(received).tolist()
        self.signum = signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0

    def raise_if_requested(self) -> None:
        """Raise ``KeyboardInterrupt`` for Ctrl-C or ``SystemExit(143)`` for SIGTERM, if the processes have agreed to stop."""
        _raise_for(self.signum)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Stop immediately on a signal: for long work that changes no state, such as an evaluation.

        One process of several still waits for the end of the step.
        """
        if rank_and_world()[1] > 1:
            yield
            return
        self._immediate = True
        try:
            _raise_for(self.pending)
            yield
        finally:
            self._immediate = False


def _raise_for(signum: int) -> None:
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    if signum:
        raise SystemExit(128 + signum)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM instead of interrupting a step. Python delivers signals to the main thread only; others do nothing.

    A signal that arrives after the last ``sync`` raises its exception at the end of the context.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, request.handle)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _raise_for(request.pending)
