"""Kept samples as pictures within the page: small PNG, label maps by palette."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from torch import Tensor

from feataug.data.label_maps import default_palette
from feataug.reporting.page.html import Html, joined, shown, tag
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.untrusted import listed, number

_SHOWN = 6


def palette(run: Run) -> list[tuple[int, int, int]]:
    """The first palette that a file of the run has, or a default one."""
    for samples in run.samples.values():
        colors = [tuple(int(number(x) or 0) & 255 for x in listed(c)) for c in listed(samples.about.get("palette"))]
        if colors and len(colors) < 256 and all(len(c) == 3 for c in colors):
            return colors  # type: ignore[return-value]
    highest = max([int(s.masks.max()) for s in run.samples.values()] + [len(run.classes) - 1, 0])
    return list(default_palette(min(highest + 1, 255)))


def class_legend(run: Run) -> Html:
    """Colours and names of the classes."""
    names = run.classes or [str(x) for s in run.samples.values() for x in listed(s.about.get("classes"))]
    pairs = zip(names, palette(run), strict=False)
    items = [tag("li", tag("span", style=f"background:rgb({r},{g},{b})"), " ", name[:40]) for name, (r, g, b) in pairs]
    return tag("ul", items, tag("li", tag("span", style="background:#000"), " void"), class_="legend colors")


def features(run: Run) -> Html | None:
    """Masks beside real and synthetic features: three principal directions, and single channels."""
    found = next((s for s in run.samples.values() if s.colors), None)
    if found is None:
        return None
    colors = palette(run)
    rows = []
    for i in range(min(len(found.masks), _SHOWN)):
        which = f"sample {i + 1}"
        cells = [_picture(found.images[i], "image", which), _labels(found.masks[i], "mask", which, colors)]
        cells += [_picture(x[i], f"{kind} features" if kind == "real" else kind, which) for kind, x in found.colors.items()]
        rows.append(tag("div", cells, class_="sample"))
    parts: list[Html] = rows
    if found.channels:
        numbers = [int(number(x) or 0) for x in listed(found.about.get("shown"))]
        trios = []
        for k in range(next(iter(found.channels.values())).shape[1]):
            name = f"channel {numbers[k] if k < len(numbers) else k}"
            cells = [_picture(x[0, k], f"{name}, {kind}", "sample 1") for kind, x in found.channels.items() if k < x.shape[1]]
            trios.append(tag("div", cells, class_="sample"))
        parts += [tag("h3", "Single channels of sample 1"), tag("p", _CHANNELS, class_="note"), tag("div", trios, class_="trios")]
    return joined(*parts)


_CHANNELS = "The channels that vary most in real features, on the scale that they have there; brighter is larger."


def predictions(run: Run) -> Html | None:
    """Predictions beside image and mask: of the arms, and of the decoder on real and on synthetic features."""
    # An arm's own file has no units to show images by: the run's comes first.
    files = sorted((path for path, s in run.samples.items() if s.predictions), key=lambda path: path.count("/"))
    if not files:
        return None
    first, colors = run.samples[files[0]], palette(run)
    alike = {path: s for path in files if (s := run.samples[path]).masks.equal(first.masks)}
    rows = []
    for i in range(min(len(first.masks), _SHOWN)):
        which = f"sample {i + 1}"
        cells = [_picture(first.images[i], "image", which), _labels(first.masks[i], "mask", which, colors)]
        for path, samples in alike.items():
            seed = f", {path.split('/')[0].replace('-', ' ')}" if path.startswith("seed-") else ""
            # The decoder alone first, then what was trained.
            for name, labels in sorted(samples.predictions.items(), key=lambda item: item[0] not in _TITLES):
                cells.append(_labels(labels[i], f"{_TITLES.get(name, name[:60])}{seed}", which, colors, first.masks[i]))
        rows.append(tag("div", cells, class_="sample"))
    left = len(files) - len(alike)
    note = tag("p", f"Left out: {left} files with other samples.", class_="note") if left else None
    return joined(rows, note)


_TITLES = {"real features": "decoder on real features", "synthetic features": "decoder on synthetic features"}


def _labels(labels: Tensor, name: str, which: str, colors: list[Any], truth: Tensor | None = None) -> Html:
    known = (labels >= 0) & (labels < len(colors))
    pixels = np.where(known.numpy(), labels.numpy(), len(colors)).astype(np.uint8)
    agree = None
    if truth is not None and bool((truth >= 0).any()):
        agree = f"{shown(100 * float((labels == truth)[truth >= 0].float().mean()), 1)} % of pixels right"
    return _figure(_png(pixels, [*colors, (0, 0, 0)]), pixels.shape, name, which, agree)


def _picture(pixels: Tensor, name: str, which: str) -> Html:
    return _figure(_png(pixels.numpy()), pixels.shape, name, which)


def _figure(data: str, shape: Any, name: str, which: str, more: str | None = None) -> Html:
    image = tag("img", src=f"data:image/png;base64,{data}", alt=f"{name}, {which}", width=int(shape[1]), height=int(shape[0]))
    return tag("figure", image, tag("figcaption", name, tag("br") if more else None, more))


def _png(pixels: np.ndarray, colors: list[Any] | None = None) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels)
    if colors is not None:
        picture = picture.convert("P")
        picture.putpalette([x for c in colors for x in c])
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()
