"""``result.json``, the figures of a run, and ``command.json``, the command that made it."""

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
    """Return the result of ``metrics.scores`` with class names: ``per_class`` maps each to ``{"acc", "iou"}``, ``absent`` lists names."""
    lists = result["per_class"]
    named = {name: {"acc": acc, "iou": iou} for name, acc, iou in zip(classes, lists["acc"], lists["iou"], strict=True)}
    return {name: result[name] for name in MEASURES} | {"per_class": named, "absent": absent_classes(named)}


def absent_classes(per_class: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the classes without a pixel in the masks: their accuracy is undefined."""
    return [name for name, figures in per_class.items() if figures["acc"] is None]


def recognition_summary(result: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the result of ``recognition`` with the two scores (mIoU) first and all measures below them."""
    return {
        "real": result["real"]["miou"],
        "synthetic": result["synthetic"]["miou"],
        "ratio": result["ratio"],
        "diversity": result["diversity"],
        "measures": {name: by_class(result[name], classes) for name in ("real", "synthetic")},
    }


def quality_summary(result: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the result of ``feature_quality`` with ``per_class`` by class names and without ``levels``."""
    kept = {name: value for name, value in result.items() if name != "levels"}
    return kept | {"per_class": dict(zip(classes, result["per_class"], strict=True))}


def write_result(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Write ``result.json`` atomically."""
    return write_json(Path(folder) / "result.json", result)


def write_command(options: Mapping[str, Any], began: float, *, finished: bool) -> Path | None:
    """Write ``command.json``: the command, its options, versions, start and duration.

    Args:
        options: The options of the command line, with ``command`` and ``output``.
        began: ``time.time()`` at the start of the command.
        finished: ``False`` if the command was stopped.

    Returns:
        The path of the file; ``None`` for commands without a run, and if the output folder does not exist yet.
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
    """Return one source's result of ``teaching_score`` as the fact ``teaching`` of a model card: mIoU after the class bias, and the score."""
    gaussians = {"gaussians": result["sources"]["gaussians"]["after"]["miou"]} if "gaussians" in result["sources"] else {}
    return {
        "real": result["sources"]["real"]["after"]["miou"],
        "synthetic": result["sources"][source]["after"]["miou"],
        "score": result["score"][source]["after"],
    } | gaussians
