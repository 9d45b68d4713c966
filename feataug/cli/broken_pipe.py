"""Exit quietly when the standard output is closed, as in ``feataug ... | head``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

# The exit code that a shell reports for a program ended by SIGPIPE.
CLOSED = 141


def exit_quietly_on_broken_pipe(command: Callable[..., int]) -> Callable[..., int]:
    """Return the exit code 141 instead of a traceback if the reader of the standard output has gone."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                # Otherwise Python flushes at exit and prints the error there.
                sys.stdout.flush()
        except BrokenPipeError:
            if not _output_is_closed():
                raise
            return CLOSED

    return run


def _output_is_closed() -> bool:
    """Whether the standard output is the pipe that broke; if so, the rest of the output is discarded."""
    try:
        # A write is needed, since unbuffered output has nothing left to flush. An empty line before another pipe's traceback does no harm.
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
