"""Read what a command left in a folder. Only a damaged ``result.json`` is an error; other damaged files become notes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feataug.core.measures import TITLES
from feataug.errors import CheckpointError, DataError, FeatAugError, MissingDataError
from feataug.io.samples import SAMPLES, Samples, read_samples
from feataug.reporting.page.untrusted import as_dict, as_figures, as_gaps, as_list, as_number, as_quality
from feataug.training.checkpoint import checkpoints, stored_settings
from feataug.training.run_settings import IDENTITY

KINDS = {
    "generator": "the training of a generator",
    "finetune": "the training of a segmentation model",
    "compare": "a comparison on paired seeds",
    "teach": "a teaching score: fresh decoders trained on features",
    "evaluate": "the evaluation of a model",
    "training": "a training without result.json: unfinished, or started from Python",
}
_BYTES = 64 * 2**20
_FILES = 60
_NEEDED = "result.json or stats.jsonl, as feataug demo, fit-generator, finetune, compare, teach and evaluate leave them in --output"


@dataclass(frozen=True)
class Run:
    """The content of a run's files.

    Attributes:
        folder: The run's folder.
        kind: One of ``KINDS``.
        result: The content of ``result.json``.
        command: The content of ``command.json``.
        settings: The training settings, from ``result.json`` or from a checkpoint's header.
        lines: The lines of every ``stats.jsonl``, by its folder's path within the run.
        samples: The pictures, by the path of their folder within the run.
        notes: Sentences about files that could not be read.
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
        """The measures of each model or arm, by name; means over seeds in a comparison."""
        result = self.result
        if self.kind == "compare":
            found = {"base": result.get("base")} | as_dict(result.get("arms"))
        elif self.kind == "teach":
            found = {name: as_dict(x).get("after") for name, x in as_dict(result.get("sources")).items()}
        elif self.kind in ("finetune", "evaluate"):
            name = "trained" if self.kind == "finetune" else "model"
            found = {f"{name}, whole images": result["whole"]} if "whole" in result else {}
            found |= {name: result}
            found |= {f"{name}, with class bias": result["after_bias"]} if "after_bias" in result else {}
        else:
            last = [line for lines in self.lines.values() for line in lines if "miou" in line][-1:]
            found = {"trained": last[0]} if last and self.kind == "training" else {}
        return {str(name)[:80]: as_figures(value) for name, value in found.items()}

    @property
    def differences(self) -> dict[str, dict[str, Any]]:
        """Each arm minus the control, with intervals if there are several pairs."""
        if self.kind == "compare":
            return {str(name)[:80]: as_gaps(value) for name, value in as_dict(self.result.get("differences")).items()}
        return {}

    @property
    def arms_before_bias(self) -> dict[str, dict[str, Any]]:
        """The measures of a comparison's arms before the class bias; empty if none was fitted."""
        found = as_dict(self.result.get("arms_before_bias")) if self.kind == "compare" else {}
        base = as_dict(as_dict(self.result.get("base")).get("before_bias")) if found else {}
        return {str(name)[:80]: as_figures(value) for name, value in (({"base": base} if base else {}) | found).items()}

    @property
    def differences_before_bias(self) -> dict[str, dict[str, Any]]:
        """``differences`` before the class bias; empty if none was fitted."""
        found = as_dict(self.result.get("differences_before_bias")) if self.kind == "compare" else {}
        return {str(name)[:80]: as_gaps(value) for name, value in found.items()}

    @property
    def shares(self) -> dict[str, dict[str, float | None]]:
        """Each arm's share of the ceiling's mean gain, by measure; empty without a ceiling."""
        found = as_dict(as_dict(self.result.get("ceiling")).get("share_of_ceiling")) if self.kind == "compare" else {}
        return {str(name)[:80]: {m: as_number(as_dict(value).get(m)) for m in TITLES} for name, value in found.items()}

    @property
    def beyond_weights(self) -> dict[str, Any] | None:
        """feataug minus the arm with class weights alone; ``None`` if a comparison has no such arm."""
        found = self.result.get("beyond_weights") if self.kind == "compare" else None
        return as_gaps(found) if found is not None else None

    @property
    def seeds(self) -> list[dict[str, Any]]:
        """The results of each seed of a comparison."""
        return [as_dict(entry) for entry in as_list(self.result.get("seeds"))] if self.kind == "compare" else []

    @property
    def recognition(self) -> dict[str, Any]:
        """``real`` and ``synthetic`` (mIoU), ``ratio``, ``diversity``, and ``measures`` of both; empty if not measured."""
        found = as_dict(self.result.get("recognition"))
        if not found:
            last = [line for lines in self.lines.values() for line in lines if "ratio" in line][-1:]
            found = {"measures": last[0]} | last[0] if last else {}
            found |= {name: as_dict(found.get(name)).get("miou") for name in ("real", "synthetic")} if found else {}
        if not found:
            return {}
        measures = as_dict(found.get("measures"))
        return {name: as_number(found.get(name)) for name in ("real", "synthetic", "ratio", "diversity")} | {
            "measures": {name: as_figures(measures.get(name)) for name in ("real", "synthetic") if name in measures}
        }

    @property
    def teaching(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``miou`` and ``score`` of each source, ``before`` and ``after`` the class bias; empty for other commands."""
        if self.kind != "teach":
            return {}
        sources, scores = as_dict(self.result.get("sources")), as_dict(self.result.get("score"))
        return {
            str(name)[:80]: {
                moment: {
                    "miou": as_number(as_dict(as_dict(sources[name]).get(moment)).get("miou")),
                    "score": as_number(as_dict(scores.get(name)).get(moment)),
                }
                for moment in ("before", "after")
            }
            for name in sources
        }

    @property
    def quality(self) -> dict[str, Any]:
        """Synthetic features compared with real ones; see ``as_quality``."""
        return as_quality(self.result.get("quality"))

    @property
    def classes(self) -> list[str]:
        """The names of the classes, if they are known."""
        tables = [*self.arms.values(), *self.recognition.get("measures", {}).values()]
        return max((list(x["per_class"]) for x in tables), key=len, default=[])


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        MissingDataError: there is no such folder.
        DataError: it does not hold a run.
        CheckpointError: ``result.json`` is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingDataError(
            "feataug report: there is no such folder.", given=str(folder), needed="the --output of another command"
        )
    notes: list[str] = []
    result = _json(folder / "result.json", notes, fatal=True)
    command = _json(folder / "command.json", notes)
    lines = {_relative_folder(file, folder): _lines(file, notes) for file in _find(folder, "stats.jsonl")}
    kind = _kind(result, lines)
    if kind is None:
        runs = sorted({file.parent.name for file in folder.glob("*/result.json")})
        raise DataError(
            "feataug report: the folder holds no run.",
            given=str(folder) + (f", with a result.json that has {', '.join(sorted(result)[:5])}" if result else ""),
            needed=_NEEDED,
            advice=f"There are runs in it: {', '.join(runs[:8])}. Give one of these folders." if runs else None,
        )
    samples: dict[str, Samples] = {}
    for file in _find(folder, SAMPLES):
        try:
            samples[_relative_folder(file, folder)] = read_samples(file)
        except FeatAugError as error:
            notes.append(str(error).replace("\n", " "))
    settings = as_dict(result.get("config")) or as_dict(result.get("settings")) or _checkpoint_settings(folder)
    # Fingerprints that tell runs apart mean nothing to readers, except for those of a comparison's model and generator.
    hidden = IDENTITY if kind == "training" else IDENTITY - {"model", "generator"} if kind in ("compare", "teach") else frozenset()
    settings = {name: value for name, value in settings.items() if name not in hidden}
    return Run(folder, kind, result, command, settings, lines, samples, notes)


def _kind(result: dict[str, Any], lines: dict[str, Any]) -> str | None:
    if "differences" in result and "arms" in result:
        return "compare"
    if {"sources", "score", "verdict"} <= result.keys():
        return "teach"
    if "recognition" in result:
        return "generator"
    if set(TITLES) <= result.keys():
        return "finetune" if "config" in result else "evaluate"
    return "training" if lines and not result else None


def _find(folder: Path, name: str) -> list[Path]:
    """The files of this name in the folder itself and in the folders of its stages and seeds."""
    found = [*folder.glob(name), *sorted(folder.glob(f"*/{name}")), *sorted(folder.glob(f"seed-*/*/{name}"), key=_seed_order)]
    return [file for file in found if file.is_file()][:_FILES]


def _seed_order(file: Path) -> tuple[int, str]:
    digits = file.parent.parent.name.removeprefix("seed-")
    return (int(digits) if digits.isdecimal() and len(digits) < 12 else 0, str(file))


def _relative_folder(file: Path, folder: Path) -> str:
    return file.parent.relative_to(folder).as_posix()


def _json(file: Path, notes: list[str], fatal: bool = False) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        if file.stat().st_size > _BYTES:
            raise ValueError(f"more than {_BYTES // 2**20} MiB")
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not a dictionary")
    except (OSError, ValueError, RecursionError) as error:
        if not fatal:
            notes.append(f"{file.name} cannot be read ({error}). Its content is left out.")
            return {}
        raise CheckpointError(
            "feataug report: result.json cannot be read.",
            given=f"{file} ({type(error).__name__}: {error})",
            needed="the file as a command wrote it",
            advice="Give that command again. Parts that are finished are not run again.",
        ) from error
    return value


def _lines(file: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The intact lines of a ``stats.jsonl``; damaged ones are counted in a note."""
    intact, damaged = [], 0
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
        if isinstance(value, dict) and as_number(value.get("progress")) is not None:
            intact.append(value)
        else:
            damaged += 1
    if damaged:
        notes.append(f"{file.parent.name}/{file.name}: {damaged} of {damaged + len(intact)} lines cannot be read and are left out.")
    return intact


def _checkpoint_settings(folder: Path) -> dict[str, Any]:
    for training in (folder, folder / "run"):
        for path in checkpoints(training):
            try:
                return stored_settings(path)
            except FeatAugError:
                continue
    return {}
