"""One HTML page of a run: its settings, measures, curves and pictures, and warnings with advice."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from feataug import __version__
from feataug.errors import DataError
from feataug.io.atomic import explain_write_errors
from feataug.reporting.page import pictures
from feataug.reporting.page.by_class import by_class
from feataug.reporting.page.findings import findings
from feataug.reporting.page.loss_curves import drawn_charts
from feataug.reporting.page.measures import measures
from feataug.reporting.page.overview import facts, settings_table, tiles
from feataug.reporting.page.run_reader import KINDS, Run, read_run
from feataug.reporting.page.untrusted import as_text

LARGEST = 5 * 10**6


def write_page(run: str | Path, path: str | Path | None = None) -> Path:
    """Make one HTML page of what a command left in a folder: settings, measures, curves, pictures, warnings with advice.

    This needs no data, no model and no network, and the page needs no other file. ``feataug report`` calls it.

    Args:
        run: The ``output`` folder of ``feataug demo``, ``fit-generator``, ``finetune``, ``compare``, ``teach`` or ``evaluate``, or of
            ``feataug.compare``, a ``GeneratorTrainer`` or a ``Finetuner``. The run may be unfinished.
        path: The file to write; ``report.html`` in the folder by default.

    Returns:
        The path of the page.

    Raises:
        MissingDataError: there is no such folder.
        DataError: the folder does not hold a run.
        CheckpointError: ``result.json`` is damaged, or the page cannot be written.
    """
    content = read_run(run)
    text = page(content)
    if len(text.encode(errors="replace")) > LARGEST and content.samples:
        note = "the pictures, because the page would be larger than 5 MB with them."
        content = replace(content, samples={}, notes=[*content.notes, note])
        text = page(content)
    if len(text.encode(errors="replace")) > LARGEST:
        raise DataError(
            "feataug report: the page would be too large.", given=f"{len(text)} characters", needed=f"at most {LARGEST}"
        )
    target = Path(path) if path is not None else content.folder / "report.html"
    with explain_write_errors(target):
        # JSON can hold half of a surrogate pair, which UTF-8 cannot encode.
        target.write_text(text, encoding="utf-8", errors="replace")
    return target


def page(run: Run) -> str:
    """The text of the page: ``templates/page.html.jinja``, filled in."""
    found = findings(run)
    return environment().get_template("page.html.jinja").render(
        title=f"feataug report: {run.folder.resolve().name}",
        kind=KINDS[run.kind],
        tiles=tiles(run, len(found)),
        facts=facts(run),
        settings=settings_table(run),
        has_command=bool(run.command),
        measures=measures(run),
        findings=found,
        notes=[as_text(note, 600) for note in run.notes[:20]],
        by_class=by_class(run),
        losses=drawn_charts(run),
        classes=pictures.class_colors(run) if run.samples else [],
        features=pictures.features(run),
        predictions=pictures.predictions(run),
        version=__version__,
        date=time.strftime("%Y-%m-%d %H:%M"),
    )


def environment() -> Any:
    """The templates of this package."""
    import jinja2

    # Autoescape makes everything from files text: they may come from anyone.
    return jinja2.Environment(
        loader=jinja2.PackageLoader("feataug.reporting.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
