"""Kept samples as pictures within the page: small PNG images, with label maps in the classes' colours."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from feataug.data.label_maps import default_palette
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.table import number_text
from feataug.reporting.page.untrusted import as_list, as_number

_SHOWN = 6
# The frozen decoder on real and on synthetic features; the other predictions are named after their models.
_DECODER = {"real features": "decoder on real features", "synthetic features": "decoder on synthetic features"}


@dataclass(frozen=True)
class Picture:
    """A picture for the template.

    Attributes:
        png: The PNG file, in base64.
        name: What it shows.
        sample: The sample that it belongs to.
        width, height: Its size in pixels.
        note: A remark for its caption.
    """

    png: str
    name: str
    sample: str
    width: int
    height: int
    note: str | None = None


def palette(run: Run) -> list[tuple[int, int, int]]:
    """The first palette that a file of the run has, or a default one."""
    for samples in run.samples.values():
        colors = [tuple(int(as_number(x) or 0) & 255 for x in as_list(c)) for c in as_list(samples.about.get("palette"))]
        if colors and len(colors) < 256 and all(len(c) == 3 for c in colors):
            return colors  # type: ignore[return-value]
    highest = max([int(s.masks.max()) for s in run.samples.values()] + [len(run.classes) - 1, 0])
    return list(default_palette(min(highest + 1, 255)))


def class_colors(run: Run) -> list[tuple[str, tuple[int, int, int]]]:
    """The names and colours of the classes."""
    names = run.classes or [str(x) for s in run.samples.values() for x in as_list(s.about.get("classes"))]
    return [(name[:40], color) for name, color in zip(names, palette(run), strict=False)]


def features(run: Run) -> dict[str, Any] | None:
    """Masks beside real and synthetic features, as three principal directions and as single channels; ``None`` without features."""
    kept = next((s for s in run.samples.values() if s.colors), None)
    if kept is None:
        return None
    colors = palette(run)
    rows = []
    for i in range(min(len(kept.masks), _SHOWN)):
        sample = f"sample {i + 1}"
        row = [image_picture(kept.images[i], "image", sample), label_picture(kept.masks[i], "mask", sample, colors)]
        rows.append(row + [image_picture(x[i], f"{kind} features" if kind == "real" else kind, sample) for kind, x in kept.colors.items()])
    numbers = [int(as_number(x) or 0) for x in as_list(kept.about.get("shown"))]
    channels = []
    for k in range(next(iter(kept.channels.values())).shape[1] if kept.channels else 0):
        name = f"channel {numbers[k] if k < len(numbers) else k}"
        channels.append([image_picture(x[0, k], f"{name}, {kind}", "sample 1") for kind, x in kept.channels.items() if k < x.shape[1]])
    level = next((str(s.about["level"])[:80] for s in run.samples.values() if s.about.get("level")), "the cut")
    return {"level": level, "samples": rows, "channels": channels}


def predictions(run: Run) -> dict[str, Any] | None:
    """Predictions beside image and mask, of the arms and of the frozen decoder; ``None`` without predictions."""
    # The run's own file comes first, because an arm's file does not hold how to show its images.
    files = sorted((path for path, s in run.samples.items() if s.predictions), key=lambda path: path.count("/"))
    if not files:
        return None
    first, colors = run.samples[files[0]], palette(run)
    matching = {path: s for path in files if (s := run.samples[path]).masks.equal(first.masks)}
    rows = []
    for i in range(min(len(first.masks), _SHOWN)):
        sample = f"sample {i + 1}"
        row = [image_picture(first.images[i], "image", sample), label_picture(first.masks[i], "mask", sample, colors)]
        for path, samples in matching.items():
            seed = f", {path.split('/')[0].replace('-', ' ')}" if path.startswith("seed-") else ""
            # The frozen decoder first, then the trained models.
            for name, labels in sorted(samples.predictions.items(), key=lambda item: item[0] not in _DECODER):
                row.append(label_picture(labels[i], f"{_DECODER.get(name, name[:60])}{seed}", sample, colors, first.masks[i]))
        rows.append(row)
    return {"samples": rows, "left_out": len(files) - len(matching)}


def label_picture(labels: Tensor, name: str, sample: str, colors: list[Any], truth: Tensor | None = None) -> Picture:
    """A label map in the classes' colours, ``(H, W)``; anything that is no class is black. With the truth, its caption says how much is right."""
    known = (labels >= 0) & (labels < len(colors))
    pixels = np.where(known.numpy(), labels.numpy(), len(colors)).astype(np.uint8)
    note = None
    if truth is not None and bool((truth >= 0).any()):
        note = f"{number_text(100 * float((labels == truth)[truth >= 0].float().mean()), 1)} % of pixels right"
    return _picture(pixels, name, sample, note, [*colors, (0, 0, 0)])


def image_picture(pixels: Tensor, name: str, sample: str) -> Picture:
    """A picture of uint8 pixels, ``(H, W, 3)`` or ``(H, W)``."""
    return _picture(pixels.numpy(), name, sample)


def _picture(pixels: np.ndarray, name: str, sample: str, note: str | None = None, colors: list[Any] | None = None) -> Picture:
    from PIL import Image

    image = Image.fromarray(pixels)
    if colors is not None:
        image = image.convert("P")
        image.putpalette([x for c in colors for x in c])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Picture(base64.b64encode(file.getvalue()).decode(), name, sample, pixels.shape[1], pixels.shape[0], note)
