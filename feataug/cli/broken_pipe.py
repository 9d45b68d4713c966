"""What is printed may be read by a program that stops reading, such as ``head``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

# As a shell reports a program that SIGPIPE ended.
UNREAD = 141


def until_unread(command: Callable[..., int]) -> Callable[..., int]:
    """Let a program end without a traceback when nobody reads its output any more; its exit code is then 141."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                # Else Python does it at its very end, and complains.
                sys.stdout.flush()
        except BrokenPipeError:
            if not _unread():
                raise
            return UNREAD

    return run


def _unread() -> bool:
    """Whether it is our own output that broke, and not some other pipe; what is left of it then goes nowhere."""
    try:
        # Unbuffered output has nothing left to flush. Where another pipe broke, an empty line before its traceback does no harm.
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
