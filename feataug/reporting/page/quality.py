"""The part of the page that compares synthetic features with real ones as sets."""

from __future__ import annotations

from typing import Any

from feataug.reporting.page.html import Html, joined, shown, table, tag
from feataug.reporting.page.run_reader import Run
from feataug.reporting.tables import QUALITIES

_ROWS = 400
_ABOUT = (
    "Cells of feature maps, of held-out images and of their masks. The Fréchet distance is 0 for equal distributions. Precision is the share "
    "of synthetic cells that look real, recall the share of real cells that the generator can make. Real: what real features of training "
    "images get in the generator's place."
)
_VERDICTS = {True: "The generator copies training features.", False: "No sign of copying.", None: "Not known whether it copies."}


def quality(run: Run) -> Html | None:
    """Fréchet distance, precision and recall beside those of real features, by class, and the memory test."""
    found = run.quality
    if not found:
        return None
    rows = [_row("all classes", found), *(_row(name, x) for name, x in list(found["per_class"].items())[:_ROWS])]
    head = ("", "cells", *(x for title in QUALITIES.values() for x in (title, "real")))
    parts: list[Any] = [tag("h3", "Varied, and no copies?"), tag("p", _ABOUT, class_="note")]
    parts.append(table(head, rows, "Synthetic features against real ones"))
    parts.append(tag("p", tag("b", "Memory: "), _VERDICTS[found["copies"]], class_="memory"))
    if found["memory"]:
        columns = {
            "synthetic": "to training features",
            "held_out": "held-out masks, to held-out features",
            "real": "real held-out, to training features",
            "copied": "share of copies",
        }
        cells = [(name, *(shown(test[key]) for key in columns)) for name, test in found["memory"].items()]
        parts.append(table(("", *columns.values()), cells, "Median distance of samples to the nearest feature"))
    return joined(*parts)


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    both = (figures, figures["reference"])
    return [name, shown(figures["cells"], 0), *(shown(x[key]) for key in QUALITIES for x in both)]
