"""Progress of a loop: a bar on a terminal and in a notebook, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

from tqdm.auto import tqdm

# Seconds between lines in a log.
LINE_EVERY = 30.0


def progress_bar(total: int, done: int, text: str, unit: str, shown: bool) -> Any:
    """Return a context manager with ``update(n)`` and ``set_postfix_str(text)``.

    Args:
        total: The length of the loop.
        done: The steps that an earlier run has done.
        text: The label of the bar.
        unit: The name of a step.
        shown: ``False`` shows nothing.
    """
    # In a log file, a bar that redraws itself would become one endless line. tqdm handles notebooks itself.
    notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    if shown and not notebook and not (sys.stderr and sys.stderr.isatty()):
        return ProgressLines(total, done, text, unit)
    return tqdm(total=total, initial=done, desc=text, unit=unit, disable=not shown)


class ProgressLines:
    """Progress as lines on standard error: at most one every ``LINE_EVERY`` seconds, and one at the end."""

    def __init__(self, total: int, done: int, text: str, unit: str) -> None:
        self.total, self.done, self.text, self.unit = total, done, text.strip(), unit
        self._start, self._postfix = done, ""
        self._began = self._last = time.monotonic()
        self._printed: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._print()

    def update(self, n: int = 1) -> None:
        """Count ``n`` more steps."""
        self.done += n
        if time.monotonic() - self._last >= LINE_EVERY:
            self._print()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Set the end of the next line."""
        self._postfix = text

    def _print(self) -> None:
        if self._printed == self.done or not sys.stderr:
            return
        self._printed, self._last = self.done, time.monotonic()
        passed, new = self._last - self._began, self.done - self._start
        left = (
            f", {tqdm.format_interval(passed / new * (self.total - self.done))} left" if new > 0 and self.done < self.total else ""
        )
        postfix = f", {self._postfix}" if self._postfix else ""
        line = f"{self.text}: {self.done}/{self.total} {self.unit}, {tqdm.format_interval(passed)} passed{left}{postfix}"
        print(line, file=sys.stderr, flush=True)
