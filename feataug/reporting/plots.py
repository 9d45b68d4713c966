"""Draw images, masks, features, predictions and comparisons: ``draw_...`` returns a figure for a notebook, ``save_...`` writes a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feataug.core.checks import describe
from feataug.core.measures import TITLES
from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from feataug.errors import ShapeError
from feataug.io.samples import feature_colors as feature_colors  # so that notebooks find it beside color_images and color_masks
from feataug.reporting.tables import share_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def color_images(images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Convert images ``(B, 3, H, W)`` to colours ``(B, H, W, 3)``: bytes stay as they are, floats are denormalised to 0 .. 1."""
    shown = images.detach().cpu().movedim(1, -1)
    if not shown.is_floating_point():
        return shown
    return (shown.float() * torch.tensor(std) + torch.tensor(mean)).clamp(0, 1)


def color_masks(masks: Tensor, palette: Sequence[tuple[int, int, int]]) -> Tensor:
    """Convert label maps ``(B, H, W)`` to uint8 colours ``(B, H, W, 3)``; labels without a colour are black."""
    table = torch.zeros(len(palette) + 1, 3, dtype=torch.uint8)
    table[:-1] = torch.tensor(palette, dtype=torch.uint8)
    labels = masks.long().cpu()  # torch would take uint8 indices for a mask
    return table[torch.where((labels >= 0) & (labels < len(palette)), labels, len(palette))]


def save_comparison(path: str | Path, result: Mapping[str, Any]) -> Path:
    """Write the figure of ``draw_comparison`` as a PNG."""
    draw_comparison(result).savefig(path)
    return Path(path)


def draw_comparison(result: Mapping[str, Any]) -> Figure:
    """Draw the result of ``compare``: differences to the control with their intervals, for the measures and for each class.

    If a class bias was fitted, hollow circles show the differences before it. If there is a ceiling, the legend shows each arm's share of the
    ceiling's gain in mIoU.
    """
    before = result.get("differences_before_bias", {})
    shares = result.get("ceiling", {}).get("share_of_ceiling", {})
    classes = list(result["difference"]["per_class"])
    arms = result["differences"]
    figure = _figure(9, 1.6 + 0.28 * max(len(classes), 4) * max(1.0, len(arms) / 4))
    left, right = figure.subplots(1, 2)
    for number, (arm, gaps) in enumerate(arms.items()):
        shift = 0.6 * (number + 0.5) / len(arms) - 0.3
        panels = ((left, [gaps[name] for name in TITLES]), (right, [gaps["per_class"].get(c, {}).get("iou") for c in classes]))
        for axes, rows in panels:
            for row, gap in enumerate(rows):
                if gap is None:
                    continue
                y = len(rows) - 1 - row - shift
                share = shares.get(arm, {}).get("miou")
                label = (arm if share is None else f"{arm} ({share_text(share)} of the ceiling's mIoU)") if row == 0 else None
                if gap["low"] is not None:
                    axes.plot([gap["low"], gap["high"]], [y, y], color=f"C{number}", linewidth=2)
                axes.plot([gap["mean"]], [y], "o", color=f"C{number}", markersize=5, label=label)
        if arm in before:
            rows = [len(TITLES) - 1 - row - shift for row in range(len(TITLES))]
            means = [before[arm][name]["mean"] for name in TITLES]
            label = "before the class bias" if number == 0 else None
            left.plot(means, rows, "o", color=f"C{number}", markersize=6, fillstyle="none", label=label)
    for axes, names, title in ((left, list(TITLES.values()), "measures"), (right, classes, "IoU per class")):
        axes.axvline(0, color="gray", linewidth=1)
        axes.set_yticks(range(len(names)), reversed(names))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("points, arm minus control")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return figure


def save_grid(path: str | Path, columns: Mapping[str, Tensor]) -> Path:
    """Write the figure of ``draw_grid`` as a PNG."""
    _draw_grid("save_grid", columns).savefig(path)
    return Path(path)


def draw_grid(columns: Mapping[str, Tensor]) -> Figure:
    """Draw a grid of pictures with one column for each entry and one row for each sample.

    Args:
        columns: The pictures ``(B, H, W, 3)`` of each column by its title, uint8 or float in 0 .. 1, all with the same ``B``.

    Raises:
        ShapeError: a column is not a batch of colour pictures, or the numbers of rows differ.
    """
    return _draw_grid("draw_grid", columns)


def _draw_grid(who: str, columns: Mapping[str, Tensor]) -> Figure:
    rows = {len(pictures) for pictures in columns.values()}
    wrong = [f"{title}: {describe(p)}" for title, p in columns.items() if p.ndim != 4 or p.shape[-1] != 3]
    if wrong or len(rows) != 1:
        raise ShapeError(
            f"{who}: columns do not fit.", given="; ".join(wrong) or f"{sorted(rows)} rows", needed="(B, H, W, 3), equal B"
        )
    count = rows.pop()
    height, width = next(iter(columns.values())).shape[1:3]
    figure = _figure(2.2 * len(columns), 2.2 * count * height / width + 0.3)
    axes = figure.subplots(count, len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        axes[0][column].set_title(title, fontsize=9)
        for row in range(count):
            axes[row][column].imshow(pictures[row].cpu().numpy(), interpolation="nearest", aspect="auto")
            axes[row][column].set_axis_off()
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure  # not pyplot, which has windows and a global state

    class Shown(Figure):
        # Without this, notebooks show only figures of pyplot.
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file)
            return file.getvalue()

    return Shown(figsize=(width, height), dpi=110, layout="constrained")
