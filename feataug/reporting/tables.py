"""Results as text tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feataug.core.label_checks import listed
from feataug.core.measures import MEASURES, TITLES
from feataug.core.specs import FeatureSpec, crossing
from feataug.cutting.cut_points import CutPoint
from feataug.evaluation.paired_differences import interval

QUALITIES = {"frechet": "Fréchet", "precision": "precision", "recall": "recall"}


def absent_text(names: Sequence[str]) -> str:
    """A sentence about classes without a pixel, for wherever mIoU is shown."""
    return f"No pixel in the validation masks: {listed(names)}. mIoU counts such a class, as 0, only where it is predicted."


def quality_table(result: Mapping[str, Any]) -> str:
    """A table of Fréchet distance, precision and recall by class, each beside that of real features; and whether features are copied.

    Args:
        result: What ``quality_summary`` returns.
    """
    rows = [("", "cells", *(x for title in QUALITIES.values() for x in (title, "(real)")))]
    for name, figures in ({"all classes": result} | dict(result["per_class"])).items():
        both = (figures or {}, (figures or {}).get("reference") or {})
        cells = (x.get(key) for key in QUALITIES for x in both)
        count = "-" if figures is None else str(figures["cells"])
        rows.append((name, count, *("-" if cell is None else f"{cell:.2f}" for cell in cells)))
    return "\n".join([*_aligned(rows, left=1), memory_text(result["memory"])])


def memory_text(memory: Mapping[str, Any]) -> str:
    """The result of the memory test, in a line."""
    parts = [
        f"{name} {test['synthetic']:.2f} from training features, {test['held_out']:.2f} from held-out ones"
        for name, test in ((name, memory.get(name)) for name in ("cells", "maps"))
        if test and test.get("synthetic") is not None and test.get("held_out") is not None
    ]
    verdict = "copies training features" if memory.get("copies") else "no sign of copying"
    return f"Memory: {verdict}" + (f" (median distance: {'; '.join(parts)})" if parts else "")


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the measures in percent with one line for each row, the IoU of each class, and the names of classes without a pixel.

    Args:
        rows: What ``by_class`` returns, by the name of each row.
    """
    width = max(map(len, rows), default=0) + 2
    lines = [" " * width + "".join(f"{TITLES[name]:>10}" for name in MEASURES)]
    lines += [f"{name:<{width}}" + "".join(f"{row[m]:>10.2f}" for m in MEASURES) for name, row in rows.items()]
    names = list(next(iter(rows.values()))["per_class"])
    first = max(map(len, names)) + 2
    widths = [max(10, len(name) + 2) for name in rows]
    lines += ["", f"{'IoU':<{first}}" + "".join(f"{name:>{width}}" for name, width in zip(rows, widths, strict=True))]
    for name in names:
        cells = ("-" if (cell := row["per_class"][name]["iou"]) is None else f"{cell:.2f}" for row in rows.values())
        lines.append(f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    # The rows of a table share their masks, so a class without a pixel has no accuracy in any row.
    if absent := [name for name in names if all(row["per_class"][name].get("acc", 0) is None for row in rows.values())]:
        lines += ["", absent_text(absent)]
    return "\n".join(lines)


def comparison_table(result: Mapping[str, Any]) -> str:
    """The result of ``compare`` as text: every arm's measures, the IoU of each class, and the differences with their intervals.

    Args:
        result: What ``compare`` returned, with or without class biases and a ceiling.
    """
    lines = [table({"base": result["base"]} | result["arms"]), ""]
    before = result.get("differences_before_bias", {})
    if prediction := result.get("settings", {}).get("prediction"):
        lines += [prediction_text(prediction), ""]
    seeds = len(result["seeds"])
    over = f"95 % intervals over {seeds} seeds" if seeds > 1 else "one seed"
    found = {f"{arm} minus control": gaps for arm, gaps in result["differences"].items()}
    found |= {"feataug minus class weights": result["beyond_weights"]} if "beyond_weights" in result else {}
    for title, gaps in found.items():
        cells = ", ".join(f"{TITLES[name]} {interval(gaps[name])}" for name in MEASURES)
        lines.append(f"{title}, {over}: {cells}")
        if (earlier := before.get(title.removesuffix(" minus control"))) is not None:
            lines.append("  before the class bias: " + ", ".join(f"{TITLES[name]} {interval(earlier[name])}" for name in MEASURES))
    for arm, shares in result.get("ceiling", {}).get("share_of_ceiling", {}).items():
        cells = ", ".join(f"{TITLES[name]} {share_text(shares[name])}" for name in MEASURES)
        lines.append(f"share of the ceiling's gain, {arm}: {cells}")
    return "\n".join([*lines, result["verdict"]])


def teaching_table(result: Mapping[str, Any]) -> str:
    """The result of ``teaching_score`` as text: mIoU and score of each source before and after the class bias, and the verdict."""
    rows = [("features", "seeds", "mIoU", "with bias", "score", "with bias")]
    for name, parts in result["sources"].items():
        figures = [f"{parts[moment]['miou']:.2f}" for moment in ("before", "after")]
        shares = [f"{result['score'][name][moment]:.2f}" for moment in ("before", "after")]
        rows.append((name, str(len(result["seeds"])), *figures, *shares))
    return "\n".join([*_aligned(rows), "", result["verdict"]])


def share_text(share: float | None) -> str:
    """A share of the ceiling's gain in percent; a dash if it is not defined."""
    return "-" if share is None else f"{share:.0%}"


def prediction_text(prediction: Mapping[str, Any]) -> str:
    """How a comparison predicted, in sentences, from its ``settings["prediction"]``."""
    window = prediction.get("window")
    way = f"windows of {window[0]} x {window[1]}" if window else "whole images"
    bias = "after a class bias fitted to each model" if prediction.get("bias") else "without a class bias"
    return f"Measured by {way}, {bias}. Decided by: {prediction.get('decided_by')}."


def places_table(places: Sequence[CutPoint]) -> str:
    """A table of the places where a model can be cut: layers, tensors that cross, and the encoder's shares of parameters and operations."""
    rows = [("at", "crosses (channels / stride)", "parameters", "multiply-adds")]
    for place in places:
        # The last layer in the forward pass is where the cut is; the others are skip connections.
        names = [place.at] if isinstance(place.at, str) else list(place.at)
        parameters = place.encoder_parameters / max(place.encoder_parameters + place.decoder_parameters, 1)
        macs = place.encoder_macs / max(place.encoder_macs + place.decoder_macs, 1)
        rows.append((" ".join(names), crossing(place.spec), f"{parameters:.0%}", f"{macs:.0%}"))
    return "\n".join(_aligned(rows))


def stages_table(result: Mapping[str, Any]) -> str:
    """The result of ``stages`` as text: one line for each stage, and the recommendation."""
    heads = ("at", "channels / stride", "after it", "entropy", "overlap", "real", "synthetic", "ratio", "seconds")
    rows = [heads]
    for stage in result["stages"]:
        names = [stage["at"]] if isinstance(stage["at"], str) else stage["at"]
        overlap = "-" if stage["hist_iou"] is None else f"{stage['hist_iou']:.3f}"
        score = stage["recognition"]
        scores = ("-",) * 4
        if score is not None:
            scores = (f"{score['real']:.2f}", f"{score['synthetic']:.2f}", f"{score['ratio']:.2f}", f"{score['seconds']:.0f}")
        share, entropy = f"{stage['decoder_share']:.0%}", f"{stage['entropy']:.3f}"
        rows.append((" ".join(names), crossing(FeatureSpec.from_dict(stage)), share, entropy, overlap, *scores))
    return "\n".join([*_aligned(rows), "", result["why"]])


def _aligned(rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """A line for each row; the first ``left`` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if column < left else ">" for column in range(len(widths))]
    return ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows]
