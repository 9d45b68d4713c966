"""Pictures of masks and predictions, and of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feataug.checks import describe
from feataug.errors import ShapeError, message
from feataug.report import TITLES


def color_masks(masks: Tensor, palette: Sequence[tuple[int, int, int]]) -> Tensor:
    """Label maps ``(B, H, W)`` to uint8 ``(B, H, W, 3)``; whatever is no class is black."""
    table = torch.zeros(len(palette) + 1, 3, dtype=torch.uint8)
    table[:-1] = torch.tensor(palette, dtype=torch.uint8)
    labels = masks.long().cpu()  # an index of bytes would be a mask
    return table[torch.where((labels >= 0) & (labels < len(palette)), labels, len(palette))]


def save_comparison(path: str | Path, result: Mapping[str, Any]) -> Path:
    """Write a PNG of what ``compare`` returns: differences to the control with their intervals, for the measures and for each class.

    Args:
        path: Where to write.
        result: Of ``compare``.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    classes = list(result["difference"]["per_class"])
    figure = Figure(figsize=(9, 1.6 + 0.28 * max(len(classes), 4)), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = result["differences"]
    for number, (arm, gaps) in enumerate(arms.items()):
        shift = 0.6 * (number + 0.5) / len(arms) - 0.3
        panels = ((left, [gaps[name] for name in TITLES]), (right, [gaps["per_class"].get(c, {}).get("iou") for c in classes]))
        for axes, rows in panels:
            for row, gap in enumerate(rows):
                if gap is None:
                    continue
                y = len(rows) - 1 - row - shift
                label = arm if row == 0 else None
                if gap["low"] is not None:
                    axes.plot([gap["low"], gap["high"]], [y, y], color=f"C{number}", linewidth=2)
                axes.plot([gap["mean"]], [y], "o", color=f"C{number}", markersize=5, label=label)
    for axes, names, title in ((left, list(TITLES.values()), "measures"), (right, classes, "IoU per class")):
        axes.axvline(0, color="gray", linewidth=1)
        axes.set_yticks(range(len(names)), reversed(names))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("points, arm minus control")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return Path(path)


def save_grid(path: str | Path, columns: dict[str, Tensor]) -> Path:
    """Write a PNG with one column for each entry and one row for each sample.

    Args:
        path: Where to write.
        columns: Title to pictures ``(B, H, W, 3)``, uint8 or float in 0 .. 1, all with the same ``B``.

    Raises:
        ShapeError: a column is no batch of colour pictures, or the numbers of rows differ.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    rows = {len(pictures) for pictures in columns.values()}
    wrong = [f"{title}: {describe(p)}" for title, p in columns.items() if p.ndim != 4 or p.shape[-1] != 3]
    if wrong or len(rows) != 1:
        raise ShapeError(
            message(
                "save_grid: columns do not fit.", given="; ".join(wrong) or f"{sorted(rows)} rows", needed="(B, H, W, 3), equal B"
            )
        )
    count = rows.pop()
    height, width = next(iter(columns.values())).shape[1:3]
    figure = Figure(figsize=(2.2 * len(columns), 2.2 * count * height / width + 0.3), layout="constrained")
    axes = figure.subplots(count, len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        axes[0][column].set_title(title, fontsize=9)
        for row in range(count):
            axes[row][column].imshow(pictures[row].cpu().numpy(), interpolation="nearest", aspect="auto")
            axes[row][column].set_axis_off()
    figure.savefig(path, dpi=110)
    return Path(path)
