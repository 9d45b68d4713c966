"""Figures of a run as ``result.json``, and how the command was called as ``command.json``."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from feataug.core.measures import MEASURES
from feataug.io.atomic import write_json


def by_class(result: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Measures as ``metrics.scores`` gives them, with ``per_class`` by the classes' names: ``{"acc", "iou"}`` each, and ``absent`` as names."""
    lists = result["per_class"]
    named = {name: {"acc": acc, "iou": iou} for name, acc, iou in zip(classes, lists["acc"], lists["iou"], strict=True)}
    return {name: result[name] for name in MEASURES} | {"per_class": named, "absent": absent_classes(named)}


def absent_classes(per_class: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Classes without a pixel in the masks: those whose accuracy is not defined."""
    return [name for name, figures in per_class.items() if figures["acc"] is None]


def recognition_summary(result: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What ``metrics.recognition`` returns, with the two scores (mIoU) first and all measures below them."""
    return {
        "real": result["real"]["miou"],
        "synthetic": result["synthetic"]["miou"],
        "ratio": result["ratio"],
        "diversity": result["diversity"],
        "measures": {name: by_class(result[name], classes) for name in ("real", "synthetic")},
    }


def quality_summary(result: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What ``evaluation.feature_quality`` returns, with ``per_class`` by the classes' names and without ``levels``."""
    kept = {name: value for name, value in result.items() if name != "levels"}
    return kept | {"per_class": dict(zip(classes, result["per_class"], strict=True))}


def write_result(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Write ``result.json``, whole or not at all."""
    return write_json(Path(folder) / "result.json", result)


def write_command(options: Mapping[str, Any], began: float, *, finished: bool) -> Path | None:
    """Write ``command.json``: what was called, with which versions, when, and how long it took.

    Args:
        options: Of the command line, with ``command`` and ``output``; a later call replaces what an earlier one left.
        began: ``time.time()`` at its start.
        finished: False if it was stopped.

    Returns:
        The file; ``None`` for commands without a run, and where nothing was written yet.
    """
    command, folder = options["command"], options["output"]
    if command in ("inspect", "report") or folder is None or not folder.is_dir():
        return None
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return write_json(
        folder / "command.json",
        {
            "command": command,
            "arguments": {name: value for name, value in plain.items() if name not in ("command", "traceback", "quiet")},
            "began": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(began)),
            "seconds": round(time.time() - began, 1),
            "finished": finished,
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in ("feataug", "torch", "timm")},
        },
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def teaching_summary(result: Mapping[str, Any], source: str = "generator") -> dict[str, float]:
    """What ``teaching_score`` returns for one source, as the fact ``teaching`` of a model card: mIoU after the class bias, and the score."""
    gaussians = {"gaussians": result["sources"]["gaussians"]["after"]["miou"]} if "gaussians" in result["sources"] else {}
    return {
        "real": result["sources"]["real"]["after"]["miou"],
        "synthetic": result["sources"][source]["after"]["miou"],
        "score": result["score"][source]["after"],
    } | gaussians
