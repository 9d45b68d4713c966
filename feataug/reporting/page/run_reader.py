"""What a command left in a folder, as plain data; nothing is run, and nothing damaged is fatal but ``result.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feataug.core.measures import TITLES
from feataug.errors import CheckpointError, DataError, FeatAugError, MissingDataError, message
from feataug.io.samples import SAMPLES, Samples, read_samples
from feataug.reporting.page.untrusted import figures, gaps, listed, mapping, number, plain_gaps, quality
from feataug.training.checkpoint import checkpoints, stored_settings
from feataug.training.run_settings import IDENTITY

KINDS = {
    "demo": "a demo run",
    "generator": "the training of a generator",
    "finetune": "the training of a segmentation model",
    "compare": "a comparison on paired seeds",
    "teach": "what features teach fresh decoders",
    "evaluate": "the measurement of a model",
    "training": "a training without result.json: not finished, or called from Python",
}
_BYTES = 64 * 2**20
_FILES = 60
_NAMES = "result.json or stats.jsonl, as feataug demo, fit-generator, finetune, compare, teach and evaluate leave them in --output"


@dataclass(frozen=True)
class Run:
    """A run's files.

    Attributes:
        folder: Where they are.
        kind: One of ``KINDS``.
        result: ``result.json``.
        command: ``command.json``.
        settings: Of the trainings, from ``result.json`` or from a checkpoint's header.
        lines: Of every ``stats.jsonl``, by its folder's path within the run.
        samples: Pictures, by the path of their folder.
        notes: What could not be read.
    """

    folder: Path
    kind: str
    result: dict[str, Any] = field(default_factory=dict)
    command: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """What was measured, by name: means over seeds in a comparison."""
        result = self.result
        if self.kind == "compare":
            found = {"base": result.get("base")} | mapping(result.get("arms"))
        elif self.kind == "demo":
            found = {name: result.get(name) for name in ("base", "control", "feataug")}
        elif self.kind == "teach":
            found = {name: mapping(x).get("after") for name, x in mapping(result.get("sources")).items()}
        elif self.kind in ("finetune", "evaluate"):
            name = "trained" if self.kind == "finetune" else "model"
            found = {f"{name}, whole images": result["whole"]} if "whole" in result else {}
            found |= {name: result}
            found |= {f"{name}, with class bias": result["after_bias"]} if "after_bias" in result else {}
        else:
            last = [line for lines in self.lines.values() for line in lines if "miou" in line][-1:]
            found = {"trained": last[0]} if last and self.kind == "training" else {}
        return {str(name)[:80]: figures(value) for name, value in found.items()}

    @property
    def differences(self) -> dict[str, dict[str, Any]]:
        """Arms minus control, with intervals where there are pairs."""
        if self.kind == "compare":
            return {str(name)[:80]: gaps(value) for name, value in mapping(self.result.get("differences")).items()}
        if self.kind == "demo":
            return {"feataug": plain_gaps(self.arms["control"], self.arms["feataug"])}
        return {}

    @property
    def arms_before_bias(self) -> dict[str, dict[str, Any]]:
        """A comparison's arms before the class bias, by name; empty where none was fitted."""
        found = mapping(self.result.get("arms_before_bias")) if self.kind == "compare" else {}
        base = mapping(mapping(self.result.get("base")).get("before_bias")) if found else {}
        return {str(name)[:80]: figures(value) for name, value in (({"base": base} if base else {}) | found).items()}

    @property
    def differences_before_bias(self) -> dict[str, dict[str, Any]]:
        """``differences`` before the class bias; empty where none was fitted."""
        found = mapping(self.result.get("differences_before_bias")) if self.kind == "compare" else {}
        return {str(name)[:80]: gaps(value) for name, value in found.items()}

    @property
    def shares(self) -> dict[str, dict[str, float | None]]:
        """Each arm's share of the ceiling's mean gain, by measure; empty where there is no ceiling."""
        found = mapping(mapping(self.result.get("ceiling")).get("share_of_ceiling")) if self.kind == "compare" else {}
        return {str(name)[:80]: {m: number(mapping(value).get(m)) for m in TITLES} for name, value in found.items()}

    @property
    def beyond_weights(self) -> dict[str, Any] | None:
        """feataug minus the class weights alone, where a comparison has that arm."""
        found = self.result.get("beyond_weights") if self.kind == "compare" else None
        return gaps(found) if found is not None else None

    @property
    def seeds(self) -> list[dict[str, Any]]:
        """The pairs of a comparison."""
        return [mapping(entry) for entry in listed(self.result.get("seeds"))] if self.kind == "compare" else []

    @property
    def recognition(self) -> dict[str, Any]:
        """``real``, ``synthetic`` (mIoU), ``ratio``, ``diversity``, ``measures`` by features; empty where not measured."""
        found = mapping(self.result.get("recognition"))
        if not found:
            last = [line for lines in self.lines.values() for line in lines if "ratio" in line][-1:]
            found = {"measures": last[0]} | last[0] if last else {}
            found |= {name: mapping(found.get(name)).get("miou") for name in ("real", "synthetic")} if found else {}
        if not found:
            return {}
        measures = mapping(found.get("measures"))
        return {name: number(found.get(name)) for name in ("real", "synthetic", "ratio", "diversity")} | {
            "measures": {name: figures(measures.get(name)) for name in ("real", "synthetic") if name in measures}
        }

    @property
    def teaching(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By source and ``before`` or ``after`` the class bias: ``miou`` and ``score``; empty where features did not teach."""
        if self.kind != "teach":
            return {}
        sources, scores = mapping(self.result.get("sources")), mapping(self.result.get("score"))
        return {
            str(name)[:80]: {
                moment: {
                    "miou": number(mapping(mapping(sources[name]).get(moment)).get("miou")),
                    "score": number(mapping(scores.get(name)).get(moment)),
                }
                for moment in ("before", "after")
            }
            for name in sources
        }

    @property
    def quality(self) -> dict[str, Any]:
        """Synthetic features against real ones; see ``plain.quality``."""
        return quality(self.result.get("quality"))

    @property
    def classes(self) -> list[str]:
        """Names of the classes, as far as they are known."""
        tables = [*self.arms.values(), *self.recognition.get("measures", {}).values()]
        return max((list(x["per_class"]) for x in tables), key=len, default=[])


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        MissingDataError: there is no such folder.
        DataError: it holds nothing of ours.
        CheckpointError: ``result.json`` is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingDataError(
            message("feataug report: there is no such folder.", given=str(folder), needed="the --output of another command")
        )
    notes: list[str] = []
    result = _json(folder / "result.json", notes, fatal=True)
    command = _json(folder / "command.json", notes)
    lines = {_within(file, folder): _lines(file, notes) for file in _below(folder, "stats.jsonl")}
    kind = _kind(result, lines)
    if kind is None:
        runs = sorted({file.parent.name for file in folder.glob("*/result.json")})
        raise DataError(
            message(
                "feataug report: the folder holds no run.",
                given=str(folder) + (f", with a result.json that has {', '.join(sorted(result)[:5])}" if result else ""),
                needed=_NAMES,
                advice=f"Runs lie below it: {', '.join(runs[:8])}. Name one of them." if runs else None,
            )
        )
    samples: dict[str, Samples] = {}
    for file in _below(folder, SAMPLES):
        try:
            samples[_within(file, folder)] = read_samples(file)
        except FeatAugError as error:
            notes.append(str(error).replace("\n", " "))
    settings = mapping(result.get("config")) or mapping(result.get("settings")) or _stored(folder)
    # Digests and transforms that tell runs apart say nothing to people; a comparison's model and generator stay named.
    hidden = IDENTITY if kind == "training" else IDENTITY - {"model", "generator"} if kind in ("compare", "teach") else frozenset()
    settings = {name: value for name, value in settings.items() if name not in hidden}
    return Run(folder, kind, result, command, settings, lines, samples, notes)


def _kind(result: dict[str, Any], lines: dict[str, Any]) -> str | None:
    if "differences" in result and "arms" in result:
        return "compare"
    if {"sources", "score", "verdict"} <= result.keys():
        return "teach"
    if "recognition" in result and {"control", "feataug"} <= result.keys():
        return "demo"
    if "recognition" in result:
        return "generator"
    if set(TITLES) <= result.keys():
        return "finetune" if "config" in result else "evaluate"
    return "training" if lines and not result else None


def _below(folder: Path, name: str) -> list[Path]:
    """Files of that name in the folder, in those of its stages, and in those of its seeds."""
    found = [*folder.glob(name), *sorted(folder.glob(f"*/{name}")), *sorted(folder.glob(f"seed-*/*/{name}"), key=_by_number)]
    return [file for file in found if file.is_file()][:_FILES]


def _by_number(file: Path) -> tuple[int, str]:
    digits = file.parent.parent.name.removeprefix("seed-")
    return (int(digits) if digits.isdecimal() and len(digits) < 12 else 0, str(file))


def _within(file: Path, folder: Path) -> str:
    return file.parent.relative_to(folder).as_posix()


def _json(file: Path, notes: list[str], fatal: bool = False) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        if file.stat().st_size > _BYTES:
            raise ValueError(f"more than {_BYTES // 2**20} MiB")
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no dictionary")
    except (OSError, ValueError, RecursionError) as error:
        if not fatal:
            notes.append(f"{file.name} cannot be read ({error}); what it says is left out.")
            return {}
        raise CheckpointError(
            message(
                "feataug report: result.json cannot be read.",
                given=f"{file} ({type(error).__name__}: {error})",
                needed="the file as a command wrote it",
                advice="Give that command again: finished parts are not run again.",
            )
        ) from error
    return value


def _lines(file: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Whole lines of a ``stats.jsonl``; the others are counted."""
    kept, bad = [], 0
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            text = stream.read(_BYTES)
    except OSError as error:
        notes.append(f"{file.parent.name}/{file.name} cannot be read ({error}).")
        return []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and number(value.get("progress")) is not None:
            kept.append(value)
        else:
            bad += 1
    if bad:
        notes.append(f"{file.parent.name}/{file.name}: {bad} of {bad + len(kept)} lines cannot be read and are left out.")
    return kept


def _stored(folder: Path) -> dict[str, Any]:
    for place in (folder, folder / "run"):
        for path in checkpoints(place):
            try:
                return stored_settings(path)
            except FeatAugError:
                continue
    return {}
