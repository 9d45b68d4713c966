"""The parts of the page that are text, tables and charts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from feataug.core.measures import TITLES
from feataug.evaluation.comparison.verdicts import CEILING
from feataug.reporting.page import svg as draw
from feataug.reporting.page.findings import findings
from feataug.reporting.page.html import DASH, Html, joined, shown, table, tag
from feataug.reporting.page.loss_curves import charts, style
from feataug.reporting.page.quality import quality
from feataug.reporting.page.run_reader import KINDS, Run
from feataug.reporting.page.untrusted import figures, listed, mapping, number, said, said_of_bias, said_of_room, words
from feataug.reporting.tables import absent_text, prediction_text, share_text

_ROWS = 400


def tiles(run: Run) -> Html | None:
    """The few figures that one looks for first."""
    found: list[tuple[str, str, str]] = []
    for arm, gaps in run.differences.items():
        if arm == "feataug":
            found += [(f"{TITLES[name]}, feataug", *_points(gaps[name])) for name in ("miou", "class_acc")]
    if taught := run.teaching.get("generator"):
        found = [("Teaching score", shown(taught["after"]["score"]), "synthetic over real features' mIoU")]
    if not found and run.arms:
        name, last = list(run.arms.items())[-1]
        found = [(f"{TITLES[m]}, {name}", shown(last[m]), "percent") for m in ("miou", "class_acc")]
    score = run.recognition
    if score:
        found.append(("Recognition ratio", shown(score["ratio"]), "synthetic over real mIoU"))
        found.append(("Diversity ratio", shown(score["diversity"]), "1: as varied as real"))
    count = len(findings(run))
    found.append(("Warnings", str(count), "see below" if count else "none"))
    return tag("dl", [tag("div", tag("dt", a), tag("dd", b, tag("small", c))) for a, b, c in found], class_="tiles")


def verdicts(run: Run) -> list[str]:
    """What can be said, in words; for every arm."""
    if run.kind == "demo":
        gap = run.differences["feataug"]["miou"]["mean"]
        if gap is None:
            return []
        way = "ahead" if gap > 0 else "behind"
        text = f"One pair of runs: feataug is {way} by {abs(gap):.2f} points of mIoU."
        return [f"{text} With one seed, about a point is noise: nothing is shown yet."]
    if run.kind == "teach":
        return [words(run.result.get("verdict"), 2000)]
    spoken = [sentence for arm, gaps in run.differences.items() if (sentence := said(gaps, arm))]
    if run.beyond_weights is not None and (sentence := said(run.beyond_weights, "feataug")):
        spoken.insert(1, f"Over the class weights alone: {sentence}")
    before, after = run.differences_before_bias, run.differences
    spoken += [sentence for arm in after if arm in before and arm != CEILING and (sentence := said_of_bias(before[arm], after[arm], arm))]
    if CEILING in after and (sentence := said_of_room(after[CEILING])):
        spoken.append(sentence)
    if not spoken and run.recognition.get("ratio") is not None:
        score = run.recognition
        spoken = [
            f"The frozen decoder recognises synthetic features {score['ratio']:.0%} as well as real ones (mIoU "
            f"{shown(score['synthetic'])} against {shown(score['real'])})."
        ]
    return spoken


def what(run: Run) -> Html:
    """What was run."""
    command, settings = run.command, run.settings
    arguments, versions = mapping(command.get("arguments")), mapping(command.get("versions"))
    seeds = [words(entry.get("seed")) for entry in run.seeds]
    stages = run.result.get("seconds")
    model = [words(x) for x in (arguments.get("model") or arguments.get("encoder"), settings.get("model")) if x]
    if run.kind == "compare" and settings.get("model"):
        model[-1] = f"weights {model[-1]}"  # their fingerprint
    data = arguments.get("data") or settings.get("data")
    facts: dict[str, Any] = {
        "What": KINDS[run.kind],
        "Folder": run.folder.resolve().name,
        "Command": f"feataug {words(command['command'])}" if "command" in command else None,
        "Begun": command.get("began"),
        "Took": _duration(number(command.get("seconds"))) or _duration(number(mapping(stages).get("total"))),
        "Stages, seconds": [f"{words(k, 40)} {words(v, 20)}" for k, v in mapping(stages).items()] or None,
        "Versions": [f"{words(k, 40)} {words(v, 40)}" for k, v in versions.items()] or None,
        "Device": run.result.get("device") or arguments.get("device"),
        "Model": model or None,
        "Cut at": run.result.get("at") or settings.get("at") or arguments.get("at"),
        "Data": [words(x) for x in (arguments.get("dataset"), data) if x] or None,
        "Classes": len(run.classes) or None,
        "Seeds": seeds or run.result.get("seed", settings.get("seed", arguments.get("seed"))),
    }
    rows = [(name, words(value)) for name, value in facts.items() if value is not None]
    rest = {f"setting {k}": v for k, v in settings.items()} | {f"option {k}": v for k, v in arguments.items()}
    flat = {f"{k}.{inner}" if inner else k: v for k, value in rest.items() for inner, v in _flat(value)}
    parts = [tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows], class_="facts")]
    if not command:
        parts.append(missing("Versions, date and options are not known: the commands of this release leave them in command.json."))
    if flat:
        items = [(words(k, 80), words(v)) for k, v in list(flat.items())[:_ROWS]]
        inner = tag("div", table(("name", "value"), items, "Settings and options", text=2), class_="words")
        parts.append(tag("details", tag("summary", f"All {len(items)} settings and options"), inner))
    return joined(*parts)


def metrics(run: Run) -> Html:
    """The four measures, the recognition score, and the verdict."""
    parts: list[Any] = [tag("p", text, class_="verdict") for text in verdicts(run)]
    arms, differences = run.arms, run.differences
    rows = [[name, *(shown(x[m]) for m in TITLES)] for name, x in list(arms.items())[:_ROWS]]
    rows += [[f"{arm} − control", *(_cell(gaps[m]) for m in TITLES)] for arm, gaps in differences.items()]
    if run.beyond_weights is not None:
        rows.append(["feataug − class weights", *(_cell(run.beyond_weights[m]) for m in TITLES)])
    rows += [[f"{arm}: share of the ceiling's gain", *(share_text(x[m]) for m in TITLES)] for arm, x in run.shares.items()]
    if rows:
        parts.append(table(("", *TITLES.values()), rows, f"Percent{_over(run)}"))
    if taught := run.teaching:
        rows = [[n, *(shown(x[m][key]) for key in ("miou", "score") for m in ("before", "after"))] for n, x in taught.items()]
        head = ("features", "mIoU", "mIoU with class bias", "score", "score with class bias")
        parts.append(table(head, rows[:_ROWS], "What features teach fresh decoders; score: share of the real features' mIoU"))
    if prediction := mapping(run.settings.get("prediction")):
        parts.append(tag("p", _prediction(prediction), class_="note"))
    if earlier := run.arms_before_bias:
        rows = [[name, *(shown(x[m]) for m in TITLES)] for name, x in list(earlier.items())[:_ROWS]]
        rows += [[f"{arm} − control", *(_cell(x[m]) for m in TITLES)] for arm, x in run.differences_before_bias.items()]
        inner = table(("", *TITLES.values()), rows, "Before the class bias, percent; differences in points")
        parts.append(tag("details", tag("summary", "Before the class bias"), inner))
    parts += [tag("p", absent_text(names), class_="note absent") for names in _absent(run)]
    if run.seeds:
        names = list(mapping(run.result.get("arms")))
        rows = [
            [words(entry.get("seed"), 20), words(arm, 80), *(shown(figures(entry.get(arm))[m]) for m in TITLES)]
            for entry in run.seeds[:_ROWS]
            for arm in names
        ]
        inner = table(("seed", "arm", *TITLES.values()), rows, "Every run, percent", text=2)
        parts.append(tag("details", tag("summary", "Every seed"), inner))
    score = run.recognition
    if score:
        cells = [(name, shown(score[key], digits)) for key, name, digits in _SCORE]
        parts.append(tag("h3", "The generator"))
        parts.append(table(("", "value"), cells, "How the frozen decoder recognises synthetic features, and how much samples vary"))
    parts.append(quality(run))
    if not arms and not score:
        parts.append(missing("No measures: the run has not been measured yet.", "feataug evaluate --model FOLDER"))
    if not differences and not taught:
        parts.append(
            missing("No differences to a control on paired seeds.", "feataug compare --model FOLDER --generator FOLDER --seeds 5")
        )
    return joined(*parts)


def _prediction(prediction: dict[str, Any]) -> str:
    window = [number(side) for side in listed(prediction.get("window"))]
    sides = [int(side) for side in window if side is not None]
    plain = {"window": sides if len(sides) == 2 else None, "bias": prediction.get("bias") is True}
    return prediction_text(plain | {"decided_by": words(prediction.get("decided_by"))})


def _absent(run: Run) -> list[list[str]]:
    """Classes without a pixel in the masks that were measured on, if there are any."""
    measured = [*run.arms.values(), *run.recognition.get("measures", {}).values()]
    names = [name for name in run.classes if any(name in x["absent"] for x in measured)]
    return [names] if names else []


def _over(run: Run) -> str:
    """What a table's figures are, besides percent."""
    if run.kind == "teach":
        return " with class bias, means over seeds"
    if not run.differences:
        return ""
    means = f", means over {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
    paired = any(gaps["miou"]["low"] is not None for gaps in run.differences.values())
    return f"{means}; differences in points, " + ("with 95 % intervals by Student's t" if paired else "of one pair: no intervals")


_SCORE = (
    ("real", "mIoU on real features, percent", 2),
    ("synthetic", "mIoU on synthetic features, percent", 2),
    ("ratio", "recognition ratio", 3),
    ("diversity", "diversity ratio", 3),
)


def warnings(run: Run) -> Html:
    """Warnings with thresholds and advice, and what could not be read."""
    items = [
        tag(
            "li",
            tag("h3", f.title),
            tag("p", f.seen),
            tag("p", tag("b", "Said from: "), f.threshold + "."),
            tag("p", tag("b", "What to do: "), f.advice),
            id=f"warning-{f.name}",
        )
        for f in findings(run)
    ]
    notes = [tag("p", tag("b", "Not read: "), words(note, 600), class_="note") for note in run.notes[:20]]
    none = None if items else tag("p", "None of the thresholds was crossed.")
    return joined(tag("ol", items, class_="findings") if items else none, notes)


def classes(run: Run) -> Html:
    """Bars by class, differences, and the numbers of both."""
    # Without arms, the decoder on real and on synthetic features.
    tables = {name: x["per_class"] for name, x in run.arms.items() if x["per_class"]}
    if not tables:
        measures = run.recognition.get("measures", {})
        tables = {f"{name} features": x["per_class"] for name, x in measures.items() if x["per_class"]}
    if not tables:
        return missing("No figures by class.", "feataug evaluate --model FOLDER")
    names = run.classes[:_ROWS]
    styles = {name: 1 + i if "features" in name else style(name, tables) for i, name in enumerate(tables)}
    parts: list[Any] = [draw.legend(styles)]
    pictures = []
    for key, title in (("iou", "IoU"), ("acc", "Accuracy")):
        rows = [(name, [t.get(name, {}).get(key) for t in tables.values()]) for name in names]
        caption = tag("figcaption", tag("b", title), ", percent")
        pictures.append(tag("figure", caption, draw.bars(rows, styles, title)))
    for key, title in (("iou", "IoU"), ("acc", "Accuracy")):
        arms = {arm: style(arm, tables) for arm, gaps in run.differences.items() if gaps["per_class"]}
        if arms:
            found = [run.differences[arm]["per_class"] for arm in arms]
            gaps_of = [(name, [x.get(name, {}).get(key, _NONE) for x in found]) for name in names]
            caption = tag("figcaption", tag("b", f"{title}: difference to the control"), ", points", _bars_note(run))
            pictures.append(tag("figure", caption, draw.intervals(gaps_of, arms, title)))
    parts.append(tag("div", pictures, class_="charts wide"))
    tables_of = []
    for key, title in (("iou", "IoU"), ("acc", "Accuracy")):
        rows_all = []
        for name in names:
            cells = [shown(t.get(name, {}).get(key)) for t in tables.values()]
            rows_all.append(
                [name, *cells, *(_cell(g["per_class"].get(name, {}).get(key, _NONE)) for g in run.differences.values())]
            )
        head = ("class", *tables, *(f"{arm} − control" for arm in run.differences))
        tables_of.append(
            table(head, rows_all, f"{title} by class, percent" + ("; differences in points" if run.differences else ""))
        )
    return joined(*parts, tag("div", tables_of, class_="tables"))


_NONE: dict[str, float | None] = {"mean": None, "low": None, "high": None}


def _bars_note(run: Run) -> str:
    return "; lines are 95 % intervals" if len(run.seeds) > 1 else "; one pair, no intervals"


def losses(run: Run) -> Html:
    """A chart for every loss and every evaluation."""
    found = charts(run)
    if not found:
        return missing("No losses: there is no stats.jsonl.", "feataug fit-generator, finetune or compare")
    figures_ = []
    for chart in found:
        names: dict[str, int] = {}
        for name, number_ in chart.series:
            # Seeds of one arm share its mark.
            names.setdefault(name.split(", seed")[0], number_)
        caption = tag("figcaption", tag("b", chart.title), tag("br"), chart.about)
        figures_.append(tag("figure", caption, draw.curves(chart), draw.legend(names) if len(names) > 1 else None))
    text = "Unweighted means since the line before; how to read them: docs/losses.md. Values show when pointed at."
    return joined(tag("p", text, class_="note"), tag("div", figures_, class_="charts"))


def missing(text: str, command: str | None = None) -> Html:
    """What is not there, and which command makes it."""
    return tag("p", text, [" To have them: ", tag("code", command), "."] if command else None, class_="note missing")


def _points(gap: dict[str, Any]) -> tuple[str, str]:
    return shown(gap["mean"], sign=True), f"points against control{_ends(gap) or ', one pair'}"


def _cell(gap: dict[str, Any]) -> str:
    text = shown(gap["mean"], sign=True)
    return text if text == DASH else text + _ends(gap)


def _ends(gap: dict[str, Any]) -> str:
    return "" if gap["low"] is None else f" [{shown(gap['low'], sign=True)}, {shown(gap['high'], sign=True)}]"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _flat(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Nested settings with their names joined by dots."""
    if isinstance(value, dict) and value and depth < 4:
        for name, inner in value.items():
            for rest, leaf in _flat(inner, depth + 1):
                yield f"{name}.{rest}" if rest else str(name), leaf
    else:
        yield "", listed(value) or value
