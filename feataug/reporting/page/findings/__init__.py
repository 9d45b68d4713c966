"""Warnings about a run. Each states the figures, the threshold that they cross, and what to do."""

from __future__ import annotations

from feataug.reporting.page.findings import comparison, generator, training
from feataug.reporting.page.findings.finding import Finding
from feataug.reporting.page.run_reader import Run


def findings(run: Run) -> list[Finding]:
    """Every warning that a run's figures give."""
    return [*generator.findings(run), *comparison.findings(run), *training.findings(run)]
