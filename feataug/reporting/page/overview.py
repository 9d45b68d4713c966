"""The beginning of the page: the main figures, and what was run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from feataug.core.measures import TITLES
from feataug.reporting.page.run_reader import KINDS, Run
from feataug.reporting.page.table import Table, interval_text, number_text
from feataug.reporting.page.untrusted import as_dict, as_list, as_number, as_text

_ROWS = 400


def tiles(run: Run, warnings: int) -> list[tuple[str, str, str]]:
    """The main figures: title, value, and a remark."""
    shown: list[tuple[str, str, str]] = []
    if gaps := run.differences.get("feataug"):
        for name in ("miou", "class_acc"):
            remark = f"points against control{interval_text(gaps[name]) or ', one pair'}"
            shown.append((f"{TITLES[name]}, feataug", number_text(gaps[name]["mean"], sign=True), remark))
    if taught := run.teaching.get("generator"):
        shown = [("Teaching score", number_text(taught["after"]["score"]), "synthetic over real features' mIoU")]
    if not shown and run.arms:
        name, last = list(run.arms.items())[-1]
        shown = [(f"{TITLES[m]}, {name}", number_text(last[m]), "percent") for m in ("miou", "class_acc")]
    if score := run.recognition:
        shown.append(("Recognition ratio", number_text(score["ratio"]), "synthetic over real mIoU"))
        shown.append(("Diversity ratio", number_text(score["diversity"]), "1: as varied as real"))
    return [*shown, ("Warnings", str(warnings), "see below" if warnings else "none")]


def facts(run: Run) -> list[tuple[str, str]]:
    """What was run: names and values."""
    command, settings = run.command, run.settings
    arguments, versions = as_dict(command.get("arguments")), as_dict(command.get("versions"))
    seeds = [as_text(entry.get("seed")) for entry in run.seeds]
    stages = as_dict(run.result.get("seconds"))
    model = [as_text(x) for x in (arguments.get("model") or arguments.get("encoder"), settings.get("model")) if x]
    if run.kind == "compare" and settings.get("model"):
        model[-1] = f"weights {model[-1]}"  # their fingerprint
    data = arguments.get("data") or settings.get("data")
    found: dict[str, Any] = {
        "What": KINDS[run.kind],
        "Folder": run.folder.resolve().name,
        "Command": f"feataug {as_text(command['command'])}" if "command" in command else None,
        "Begun": command.get("began"),
        "Took": _duration(as_number(command.get("seconds"))) or _duration(as_number(stages.get("total"))),
        "Stages, seconds": [f"{as_text(k, 40)} {as_text(v, 20)}" for k, v in stages.items()] or None,
        "Versions": [f"{as_text(k, 40)} {as_text(v, 40)}" for k, v in versions.items()] or None,
        "Device": run.result.get("device") or arguments.get("device"),
        "Model": model or None,
        "Cut at": run.result.get("at") or settings.get("at") or arguments.get("at"),
        "Data": [as_text(x) for x in (arguments.get("dataset"), data) if x] or None,
        "Classes": len(run.classes) or None,
        "Seeds": seeds or run.result.get("seed", settings.get("seed", arguments.get("seed"))),
    }
    return [(name, as_text(value)) for name, value in found.items() if value is not None]


def settings_table(run: Run) -> Table | None:
    """All settings of the run and options of its command."""
    options = as_dict(run.command.get("arguments"))
    nested = {f"setting {k}": v for k, v in run.settings.items()} | {f"option {k}": v for k, v in options.items()}
    flat = {f"{k}.{inner}" if inner else k: v for k, value in nested.items() for inner, v in _flatten(value)}
    rows = [(as_text(k, 80), as_text(v)) for k, v in list(flat.items())[:_ROWS]]
    return Table("Settings and options", ("name", "value"), rows, text_columns=2) if rows else None


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _flatten(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Nested settings with their names joined by dots."""
    if isinstance(value, dict) and value and depth < 4:
        for name, inner in value.items():
            for rest, leaf in _flatten(inner, depth + 1):
                yield f"{name}.{rest}" if rest else str(name), leaf
    else:
        yield "", as_list(value) or value
