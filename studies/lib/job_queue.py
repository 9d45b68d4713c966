"""Run jobs in separate processes, each after the jobs that it needs, within a time limit."""

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
    """A function that runs in a process of its own.

    Args:
        name: Names the job and its log file.
        run: The function.
        needs: Names of the jobs that must be finished before this one starts.
        even_after_failure: Start also when needed jobs failed or were cancelled; such a job is not cancelled by the time limit.
    """

    name: str
    run: Callable[[], Any]
    needs: Sequence[str] = ()
    even_after_failure: bool = False


def run_jobs(jobs: Sequence[Job], processes: int, logs: Path, until: float = math.inf) -> list[str]:
    """Run all jobs, and return the names of those that failed, needed a failed one, or were cancelled by the time limit.

    Args:
        jobs: Jobs in the order in which they start, as far as their needs allow.
        processes: How many jobs run at the same time.
        logs: Folder of the log files.
        until: The time limit, on the clock of ``time.monotonic()``. Running jobs are then terminated, except ``even_after_failure`` ones.
    """
    context = multiprocessing.get_context("fork")
    waiting, running, done, failed = list(jobs), {}, set(), []
    logs.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        late = time.monotonic() > until
        cancelled = [job for job in waiting if not job.even_after_failure and (late or set(job.needs) & set(failed))]
        for job in cancelled:
            waiting.remove(job)
            failed.append(job.name)
        for job, process, _ in running.values():
            if late and not job.even_after_failure:
                process.terminate()
        over = done | set(failed)
        ready = [job for job in waiting if set(job.needs) <= (over if job.even_after_failure else done)]
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
            # Skip the exit handlers that the parent registered.
            os._exit(1)
