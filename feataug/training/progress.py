"""How far a loop is: a bar on a terminal and in a notebook, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

from tqdm.auto import tqdm

# Seconds between lines in a log.
LINE_EVERY = 30.0


def progress_bar(total: int, done: int, text: str, unit: str, shown: bool) -> Any:
    """A context manager with ``update(n)`` and ``set_postfix_str(text)``.

    Args:
        total: Length of the loop.
        done: What an earlier run did of it.
        text: What is going on.
        unit: What is counted.
        shown: False for one that writes nothing.
    """
    # tqdm knows notebooks; a bar that is redrawn makes one endless line of a log.
    notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    if shown and not notebook and not (sys.stderr and sys.stderr.isatty()):
        return Lines(total, done, text, unit)
    return tqdm(total=total, initial=done, desc=text, unit=unit, disable=not shown)


class Lines:
    """Progress as lines on the standard error, at most one every ``LINE_EVERY`` seconds, and one at the end."""

    def __init__(self, total: int, done: int, text: str, unit: str) -> None:
        self.total, self.done, self.text, self.unit = total, done, text.strip(), unit
        self._start, self._postfix = done, ""
        self._began = self._last = time.monotonic()
        self._told: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._tell()

    def update(self, n: int = 1) -> None:
        """Count ``n`` more."""
        self.done += n
        if time.monotonic() - self._last >= LINE_EVERY:
            self._tell()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What the next line ends in."""
        self._postfix = text

    def _tell(self) -> None:
        if self._told == self.done or not sys.stderr:
            return
        self._told, self._last = self.done, time.monotonic()
        passed, new = self._last - self._began, self.done - self._start
        left = (
            f", {tqdm.format_interval(passed / new * (self.total - self.done))} left" if new > 0 and self.done < self.total else ""
        )
        postfix = f", {self._postfix}" if self._postfix else ""
        line = f"{self.text}: {self.done}/{self.total} {self.unit}, {tqdm.format_interval(passed)} passed{left}{postfix}"
        print(line, file=sys.stderr, flush=True)
