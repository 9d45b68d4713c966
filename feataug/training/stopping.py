"""Ctrl-C and SIGTERM: noted during a step, obeyed after it, by all processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from feataug.processes import place, total


class StopRequest:
    """Ctrl-C or SIGTERM, noted while a step is under way and obeyed after it, in all processes after the same one."""

    def __init__(self) -> None:
        self.signum = 0
        self._at_once = False

    def note(self, signum: int, frame: Any) -> None:
        """The handler: the second Ctrl-C does not wait."""
        again, self.signum = self.signum == signum, signum
        if self._at_once or again:
            self.obey()

    def agree(self, device: torch.device) -> None:
        """Make a signal to one process one to all: they have to stop after the same step, or some would wait for the others for ever."""
        if place()[1] > 1:
            asked = torch.tensor(
                [self.signum == number for number in (signal.SIGINT, signal.SIGTERM)], dtype=torch.int32, device=device
            )
            interrupted, terminated = total(asked).tolist()
            self.signum = signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0

    def obey(self) -> None:
        """Leave, if that was asked for: ``KeyboardInterrupt`` for Ctrl-C, ``SystemExit(143)`` for SIGTERM."""
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signum:
            raise SystemExit(128 + self.signum)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Obey without waiting: around what is long and changes nothing, such as an evaluation. One process of several waits."""
        if place()[1] > 1:
            yield
            return
        self._at_once = True
        try:
            self.obey()
            yield
        finally:
            self._at_once = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of breaking off in the middle of a step; in the main thread only, where signals arrive."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, request.note)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
