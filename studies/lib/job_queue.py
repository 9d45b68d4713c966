"""Jobs in processes of their own, each when what it needs is done, within a time."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """Something to do in a process of its own, when those that it comes ``after`` are done (or, with ``anyway``, are over)."""

    name: str
    run: Callable[[], Any]
    after: Sequence[str] = ()
    anyway: bool = False


def work(jobs: Sequence[Job], processes: int, logs: Path, until: float = math.inf) -> list[str]:
    """Do all jobs, earlier ones first; names of those that failed, that needed one that did, or that were not done ``until`` then.

    Args:
        jobs: In the order in which they are begun, as far as what they come after allows.
        processes: At a time.
        logs: Folder for what they print.
        until: Of ``time.monotonic()``; what runs is then ended, but for jobs that are to be done ``anyway``.
    """
    context = multiprocessing.get_context("fork")
    waiting, running, done, failed = list(jobs), {}, set(), []
    logs.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        late = time.monotonic() > until
        for job in [job for job in waiting if not job.anyway and (late or set(job.after) & set(failed))]:
            waiting.remove(job)
            failed.append(job.name)
        for job, process, _ in running.values():
            if late and not job.anyway:
                process.terminate()
        over = done | set(failed)
        ready = [job for job in waiting if set(job.after) <= (over if job.anyway else done)]
        for job in ready[: processes - len(running)]:
            waiting.remove(job)
            process = context.Process(target=_logged, args=(job.run, logs / f"{job.name.replace(' ', '-')}.log"))
            process.start()
            running[process.sentinel] = job, process, time.monotonic()
        for sentinel in multiprocessing.connection.wait(list(running), timeout=1):
            job, process, began = running.pop(sentinel)  # type: ignore[index]
            process.join()
            print(f"{job.name}: {'done' if process.exitcode == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
            if process.exitcode:
                failed.append(job.name)
            else:
                done.add(job.name)
    return failed


def _logged(run: Callable[[], Any], log: Path) -> None:
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            run()
        except BaseException:
            traceback.print_exc()
            file.flush()
            # Without what the parent registered to be done at its end.
            os._exit(1)
