"""A warning about a run."""

from __future__ import annotations

from dataclasses import dataclass

from feataug.reporting.page.table import DASH


@dataclass(frozen=True)
class Finding:
    """A warning about a run.

    Attributes:
        name: A short name, for tests and anchors.
        title: What is wrong.
        seen: The figures of the run.
        threshold: The value from which on the warning is given.
        advice: What to do.
    """

    name: str
    title: str
    seen: str
    threshold: str
    advice: str


def two_digits(value: float | None) -> str:
    """A figure within a sentence; a dash for none."""
    return DASH if value is None else f"{value:.2f}"
