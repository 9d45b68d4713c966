"""The part of the page with the measures: verdicts and tables."""

from __future__ import annotations

from typing import Any

from feataug.core.measures import TITLES
from feataug.evaluation.comparison.verdicts import CEILING, beyond_bias, room
from feataug.evaluation.paired_differences import verdict
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.table import Table, gap_text, number_text
from feataug.reporting.page.untrusted import as_dict, as_figures, as_list, as_number, as_text, is_complete
from feataug.reporting.tables import QUALITIES, absent_text, prediction_text, share_text

_ROWS = 400
_HEAD = ("", *TITLES.values())
_SCORE = (
    ("real", "mIoU on real features, percent", 2),
    ("synthetic", "mIoU on synthetic features, percent", 2),
    ("ratio", "recognition ratio", 3),
    ("diversity", "diversity ratio", 3),
)
_COPIES = {True: "The generator copies training features.", False: "No sign of copying.", None: "Not known whether it copies."}
_MEMORY = {
    "synthetic": "to training features",
    "held_out": "held-out masks, to held-out features",
    "real": "real held-out, to training features",
    "copied": "share of copies",
}


def measures(run: Run) -> dict[str, Any]:
    """Everything that this part of the template shows; ``None`` for what the run does not have."""
    measured = [*run.arms.values(), *run.recognition.get("measures", {}).values()]
    absent = [name for name in run.classes if any(name in x["absent"] for x in measured)]
    return {
        "verdicts": _verdicts(run),
        "main": _main_table(run),
        "teaching": _teaching_table(run),
        "prediction": _prediction_sentence(run),
        "before_bias": _before_bias_table(run),
        "absent": absent_text(absent) if absent else None,
        "seeds": _seeds_table(run),
        "recognition": _recognition_table(run),
        "quality": _quality(run.quality) if run.quality else None,
        "has_measures": bool(run.arms or run.recognition),
        "has_differences": bool(run.differences or run.teaching),
    }


def _verdicts(run: Run) -> list[str]:
    """The conclusions in words, for every arm."""
    if run.kind == "teach":
        return [as_text(run.result.get("verdict"), 2000)]
    after = {arm: gaps for arm, gaps in run.differences.items() if is_complete(gaps)}
    before = {arm: gaps for arm, gaps in run.differences_before_bias.items() if is_complete(gaps)}
    sentences: list[str | None] = [verdict(gaps, arm) for arm, gaps in after.items()]
    if run.beyond_weights is not None and is_complete(run.beyond_weights):
        sentences.insert(1, f"Over the class weights alone: {verdict(run.beyond_weights, 'feataug')}")
    sentences += [beyond_bias(before[arm], after[arm], arm) for arm in after if arm in before and arm != CEILING]
    sentences += [room(after[CEILING])] if CEILING in after else []
    verdicts = [sentence for sentence in sentences if sentence]
    if not verdicts and run.recognition.get("ratio") is not None:
        score = run.recognition
        verdicts = [
            f"The frozen decoder recognises synthetic features {score['ratio']:.0%} as well as real ones (mIoU "
            f"{number_text(score['synthetic'])} against {number_text(score['real'])})."
        ]
    return verdicts


def _rows(arms: dict[str, Any], differences: dict[str, Any]) -> list[list[str]]:
    rows = [[name, *(number_text(x[m]) for m in TITLES)] for name, x in list(arms.items())[:_ROWS]]
    return rows + [[f"{arm} − control", *(gap_text(gaps[m]) for m in TITLES)] for arm, gaps in differences.items()]


def _main_table(run: Run) -> Table | None:
    rows = _rows(run.arms, run.differences)
    if run.beyond_weights is not None:
        rows.append(["feataug − class weights", *(gap_text(run.beyond_weights[m]) for m in TITLES)])
    rows += [[f"{arm}: share of the ceiling's gain", *(share_text(x[m]) for m in TITLES)] for arm, x in run.shares.items()]
    caption = "Percent"
    if run.kind == "teach":
        caption += " with class bias, means over seeds"
    elif run.differences:
        means = f", means over {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
        paired = any(gaps["miou"]["low"] is not None for gaps in run.differences.values())
        intervals = "with 95 % intervals by Student's t" if paired else "of one pair: no intervals"
        caption += f"{means}; differences in points, {intervals}"
    return Table(caption, _HEAD, rows) if rows else None


def _teaching_table(run: Run) -> Table | None:
    keys = [(moment, key) for key in ("miou", "score") for moment in ("before", "after")]
    rows = [[name, *(number_text(x[moment][key]) for moment, key in keys)] for name, x in run.teaching.items()]
    head = ("features", "mIoU", "mIoU with class bias", "score", "score with class bias")
    caption = "What features teach fresh decoders; score: share of the real features' mIoU"
    return Table(caption, head, rows[:_ROWS]) if rows else None


def _prediction_sentence(run: Run) -> str | None:
    prediction = as_dict(run.settings.get("prediction"))
    if not prediction:
        return None
    window = [int(side) for side in map(as_number, as_list(prediction.get("window"))) if side is not None]
    safe = {"window": window if len(window) == 2 else None, "bias": prediction.get("bias") is True}
    return prediction_text(safe | {"decided_by": as_text(prediction.get("decided_by"))})


def _before_bias_table(run: Run) -> Table | None:
    if not run.arms_before_bias:
        return None
    rows = _rows(run.arms_before_bias, run.differences_before_bias)
    return Table("Before the class bias, percent; differences in points", _HEAD, rows)


def _seeds_table(run: Run) -> Table | None:
    rows = [
        [as_text(entry.get("seed"), 20), as_text(arm, 80), *(number_text(as_figures(entry.get(arm))[m]) for m in TITLES)]
        for entry in run.seeds[:_ROWS]
        for arm in as_dict(run.result.get("arms"))
    ]
    return Table("Every run, percent", ("seed", "arm", *TITLES.values()), rows, text_columns=2) if run.seeds else None


def _recognition_table(run: Run) -> Table | None:
    score = run.recognition
    rows = [(name, number_text(score[key], digits)) for key, name, digits in _SCORE] if score else []
    caption = "How the frozen decoder recognises synthetic features, and how much samples vary"
    return Table(caption, ("", "value"), rows) if score else None


def _quality(found: dict[str, Any]) -> dict[str, Any]:
    """Fréchet distance, precision and recall beside those of real features, and the memory test."""

    def row(name: str, figures: dict[str, Any]) -> list[str]:
        cells = [number_text(x[key]) for key in QUALITIES for x in (figures, figures["reference"])]
        return [name, number_text(figures["cells"], 0), *cells]

    rows = [row("all classes", found), *(row(name, x) for name, x in list(found["per_class"].items())[:_ROWS])]
    head = ("", "cells", *(title for quality in QUALITIES.values() for title in (quality, "real")))
    distances = [(name, *(number_text(test[key]) for key in _MEMORY)) for name, test in found["memory"].items()]
    caption = "Median distance of samples to the nearest feature"
    return {
        "figures": Table("Synthetic features compared with real ones", head, rows),
        "copies": _COPIES[found["copies"]],
        "memory": Table(caption, ("", *_MEMORY.values()), distances) if distances else None,
    }
