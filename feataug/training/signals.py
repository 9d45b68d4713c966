"""Ctrl-C and SIGTERM: noted during a step, obeyed after it, by all processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from feataug.core.distributed import all_reduce_sum, rank_and_world


class StopRequest:
    """Ctrl-C or SIGTERM, noted while a step is under way and obeyed after it, in all processes after the same one.

    Attributes:
        noted: The signal that has arrived here, or 0; it may arrive at any moment.
        signum: The signal that all processes have agreed on, or 0. Only ``sync`` changes it, so that it holds for the rest of the step.
    """

    def __init__(self) -> None:
        self.noted = self.signum = 0
        self._at_once = False

    def handle(self, signum: int, frame: Any) -> None:
        """The handler: the second Ctrl-C does not wait."""
        again, self.noted = self.noted == signum, signum
        if self._at_once or again:
            self.noted = 0  # it is obeyed here
            _leave(signum)

    def sync(self, device: torch.device) -> None:
        """Share stop requests, so that all processes stop after the same step: otherwise some would wait for the others for ever.

        A signal that arrives meanwhile stays noted, and is shared after the next step.
        """
        if rank_and_world()[1] == 1:
            self.signum = self.noted
            return
        noted = self.noted
        asked = torch.tensor([noted == number for number in (signal.SIGINT, signal.SIGTERM)], dtype=torch.int32, device=device)
        interrupted, terminated = all_reduce_sum(asked).tolist()
        self.signum = signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0

    def raise_if_requested(self) -> None:
        """Leave, if that was agreed on: ``KeyboardInterrupt`` for Ctrl-C, ``SystemExit(143)`` for SIGTERM."""
        _leave(self.signum)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Obey without waiting: around what is long and changes nothing, such as an evaluation. One process of several waits."""
        if rank_and_world()[1] > 1:
            yield
            return
        self._at_once = True
        try:
            _leave(self.noted)
            yield
        finally:
            self._at_once = False


def _leave(signum: int) -> None:
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    if signum:
        raise SystemExit(128 + signum)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of breaking off in the middle of a step; in the main thread only, where signals arrive.

    A signal that arrived after the last step was agreed on is obeyed at the end: it is not lost.
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
    _leave(request.noted)
