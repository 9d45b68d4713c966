"""Warnings about any training: files that were skipped, values that are not finite, runs that have not finished."""

from __future__ import annotations

from collections.abc import Iterator

from feataug.reporting.page.findings.finding import Finding
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.untrusted import as_number


def findings(run: Run) -> Iterator[Finding]:
    """The warnings that the course of a run gives."""
    lines = [x for each in run.lines.values() for x in each]
    bad = max((as_number(x.get("bad_samples")) or 0 for x in (run.result, *lines)), default=0)
    if bad > 0:
        yield Finding(
            "bad",
            "Unreadable samples were skipped",
            f"bad_samples {bad:g}: other samples were used instead",
            "more than 0",
            "Read the warnings of the run, and repair or remove those files. "
            'feataug.data.seeded_loader(on_bad_sample="raise") names the first one.',
        )
    for name, each in run.lines.items():
        broken = sorted({key for x in each for key, value in x.items() if isinstance(value, float) and as_number(value) is None})
        if broken:
            yield Finding(
                "finite",
                f"{name}: values that are not finite",
                ", ".join(broken[:8]),
                "any such value",
                "Lower lr, or train without mixed_precision.",
            )
    goal = as_number(run.settings.get("num_images")) or as_number(run.settings.get("num_steps"))
    reached = max((as_number(x["progress"]) or 0 for x in lines), default=None)
    if run.command.get("finished") is False or (run.kind == "training" and goal and reached and reached < goal):
        yield Finding(
            "stopped",
            "The run has not finished",
            f"{reached or 0:g} of {goal:g}" if goal else "stopped",
            "fewer images or steps than planned",
            "Give the same command again: it resumes from its last checkpoint.",
        )
