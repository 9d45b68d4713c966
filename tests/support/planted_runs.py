"""Run folders with figures that a test chooses, and a reader of their pages."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from feataug.evaluation import differences, mean_figures, verdict
from feataug.evaluation.teaching.teaching_summary import summary
from feataug.reporting.page import write_page

CLASSES = ("sky", "road", "pole")
GENERATOR = {"l1": 0.5, "kl": 2.0, "gan": 2.0, "latent": 0.5, "task": 0.6, "diversity": 2.0, "critics": 1.0}


def measured(base: float, shift: float = 0.0, **changes: float) -> dict[str, Any]:
    """A model's figures, as ``by_class`` returns them."""
    figures = {"pixel_acc": base + 30, "class_acc": base + 10, "miou": base, "fw_iou": base + 20}
    figures = {name: value + shift + changes.get(name, 0.0) for name, value in figures.items()}
    per_class = {name: {"acc": base + 5 * i + shift, "iou": base - 5 * i + shift} for i, name in enumerate(CLASSES)}
    return figures | {"per_class": per_class}


def comparison(shifts: list[float], **changes: float) -> dict[str, Any]:
    """What ``compare`` writes. ``shifts`` holds feataug minus control, in all measures, for each seed."""
    pairs = [(measured(50 + i), measured(50 + i, shift, **changes)) for i, shift in enumerate(shifts)]
    control, other = [a for a, _ in pairs], [b for _, b in pairs]
    gaps = differences(control, other)
    return {
        "base": measured(49.0),
        "seeds": [{"seed": i, "control": a | {"seconds": 1.5}, "feataug": b | {"seconds": 2.5}} for i, (a, b) in enumerate(pairs)],
        "arms": {"control": mean_figures(control), "feataug": mean_figures(other)},
        "difference": gaps,
        "differences": {"feataug": gaps},
        "verdict": verdict(gaps),
        "settings": {
            "at": ["encoder"],
            "ratio": 0.15,
            "config": {"num_steps": 100, "lr": 1e-3},
            "model": "abc",
            "generator": "def",
        },
    }


def score(ratio: float = 0.8, diversity: float = 0.5) -> dict[str, Any]:
    """A recognition score as ``result.json`` has it."""
    return {
        "real": 50.0,
        "synthetic": 50 * ratio,
        "ratio": ratio,
        "diversity": diversity,
        "measures": {"real": measured(50), "synthetic": measured(50 * ratio)},
    }


def taught(figures: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """What ``teaching_score`` writes for one seed. ``figures`` holds the mIoU before and after the class bias by source."""
    runs = {name: {"before": measured(a), "after": measured(b)} for name, (a, b) in figures.items()}
    return summary([{"seed": 0} | runs], list(runs), {"at": "encoder", "config": {"num_steps": 400}, "model": "abc"})


def qualities(recall: float = 0.6, copies: bool = False, precision: float = 0.75) -> dict[str, Any]:
    """A generator's quality as ``result.json`` has it, without poles, of which there are too few."""
    reference = {"frechet": 2.5, "precision": 0.8, "recall": 0.7}
    row = {"frechet": 4.0, "precision": precision, "recall": recall, "cells": 900, "reference": reference}
    distance = 0.01 if copies else 0.7
    test = {
        "synthetic": distance,
        "held_out": 0.72,
        "real": 0.9,
        "ratio": distance / 0.72,
        "nearer": 0.5,
        "copied": float(copies),
        "samples": 900,
    }
    test["copies"] = copies
    per_class = {"sky": row | {"frechet": None, "cells": 120}, "road": row | {"reference": None}, "pole": None}
    memory = {"cells": test, "maps": None, "copies": copies}
    return row | {"per_class": per_class, "memory": memory, "settings": {"cells": 900}}


def write(folder: Path, result: dict[str, Any] | None, lines: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    """Write a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    for name, entries in (lines or {}).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps({"progress": 10 * (i + 1)} | entry) + "\n" for i, entry in enumerate(entries))
        (folder / name / "stats.jsonl").write_text(text)
    return folder


class Page(HTMLParser):
    """What a browser sees of a page: elements, addresses, tables by caption, text by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.alts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self._rows: list[list[str]] = []
        self._caption, self._section, self._in = "", "", ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "action", "data", "poster", "srcset"):
                self.addresses.append(value or "")
            elif name.startswith("on"):
                self.handlers.append(name)
            elif name == "alt":
                self.alts.append(value or "")
        if tag == "section":
            self._section = dict(attrs).get("id") or ""
        elif tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        self._in = tag if tag in ("td", "th", "caption") else self._in

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # every element is closed, in order
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag in ("td", "th", "caption"):
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "caption":
            self._caption += data
        elif self._in:
            self._rows[-1][-1] += data
        self.texts[self._section] = self.texts.get(self._section, "") + " " + data

    @property
    def text(self) -> str:
        """All text of the page."""
        return " ".join(self.texts.values())


def page_of(folder: Path) -> Page:
    """Write the page of a run, and read it."""
    return Page(write_page(folder).read_text(encoding="utf-8"))
