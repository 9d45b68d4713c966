"""One HTML page of a run: what it was, what it gave, and what calls for a second look."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from feataug import __version__
from feataug.errors import DataError, message
from feataug.io.atomic import explain_write_errors
from feataug.reporting.page import pictures, sections
from feataug.reporting.page.html import Html, joined, tag
from feataug.reporting.page.run_reader import KINDS, Run, read_run

LARGEST = 5 * 10**6
# Nothing is to be fetched, and nothing to run, whatever a folder's files hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(run: str | Path, path: str | Path | None = None) -> Path:
    """Make one HTML page of what a command left in a folder: settings, measures, curves, pictures, warnings with advice.

    Nothing else is needed: no data, no model, no network; and the page needs no other file. ``feataug report`` calls this.

    Args:
        run: The ``output`` of ``feataug demo``, ``fit-generator``, ``finetune``, ``compare``, ``teach`` or ``evaluate``, or of ``feataug.compare``, a
            ``GeneratorTrainer`` or a ``Finetuner``. A run that has not finished will do.
        path: Where to write; ``report.html`` in the folder by default.

    Returns:
        The path.

    Raises:
        MissingDataError: there is no such folder.
        DataError: the folder holds no run of ours.
        CheckpointError: ``result.json`` is damaged, or the page cannot be written.
    """
    found = read_run(run)
    text = page(found)
    if len(text.encode(errors="replace")) > LARGEST and found.samples:
        found = replace(found, samples={}, notes=[*found.notes, "the pictures: with them the page would be larger than 5 MB."])
        text = page(found)
    if len(text.encode(errors="replace")) > LARGEST:
        raise DataError(
            message("feataug report: the page would be too large.", given=f"{len(text)} characters", needed=f"at most {LARGEST}")
        )
    target = Path(path) if path is not None else found.folder / "report.html"
    with explain_write_errors(target):
        # A lone half of a character, as JSON can hold it, has no UTF-8.
        target.write_text(text, encoding="utf-8", errors="replace")
    return target


def page(run: Run) -> str:
    """The page's text."""
    parts: list[tuple[str, str, Callable[[Run], Html]]] = [
        ("run", "What was run", sections.what),
        ("metrics", "Measures", sections.metrics),
        ("warnings", "Warnings", sections.warnings),
        ("classes", "By class", sections.classes),
        ("losses", "Losses", sections.losses),
        ("features", "Masks and features", _features),
        ("predictions", "Predictions", _predictions),
    ]
    title = f"feataug report: {run.folder.resolve().name}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Html(files("feataug.reporting.page").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    links = tag("ol", [tag("li", tag("a", name, href=f"#{key}")) for key, name, _ in parts])
    bodies = [tag("section", tag("h2", name), make(run), id=key) for key, name, make in parts]
    made = f"Made by feataug {__version__} on {time.strftime('%Y-%m-%d %H:%M')}. Measures are percent, differences are points."
    inner = [
        tag("header", tag("h1", title), tag("p", KINDS[run.kind], class_="soft"), tag("nav", links, aria_label="Contents")),
        tag("main", sections.tiles(run), bodies),
        tag("footer", tag("p", made, class_="soft")),
    ]
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", tag("div", inner, class_="page")), lang="en") + "\n"


def _features(run: Run) -> Html:
    found = pictures.features(run)
    if found is None:
        return sections.missing("No features were kept.", "feataug fit-generator, compare, or finetune --generator FOLDER")
    level = next((str(s.about["level"])[:80] for s in run.samples.values() if s.about.get("level")), "the cut")
    text = f"Features at {level}: their three principal directions as red, green and blue, the same for all. z1 and z2 are two draws of the noise."
    return joined(tag("p", text, class_="note"), pictures.class_legend(run), found)


def _predictions(run: Run) -> Html:
    found = pictures.predictions(run)
    if found is None:
        return sections.missing("No predictions were kept.", "feataug finetune, compare or evaluate")
    return joined(pictures.class_legend(run), found)
