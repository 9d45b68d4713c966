"""Draw what README shows of the demo, from a run of it: ``python -m docs.drawing.teaser runs/demo``.

The picture is ``docs/teaser.png``, the figures ``docs/teaser.json``; README's table holds these figures (``table``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from feataug.core.measures import TITLES
from feataug.io.samples import SAMPLES, read_samples
from feataug.reporting.plots import color_masks, save_grid

PICTURE, FIGURES = (Path(__file__).parents[1] / f"teaser.{suffix}" for suffix in ("png", "json"))
ROWS = [2, 0]
MEASURES = ("miou", "class_acc")


def table() -> str:
    """README's table of the demo."""
    kept = json.loads(FIGURES.read_text())
    labelled, masks = kept["labelled"], kept["unlabelled"]
    titles = {
        "base": f"trained on {labelled} labelled scenes",
        "control": "trained further on these alone",
        "feataug": f"trained further, also on features generated from {masks} masks",
        "ceiling": f"trained further, also on the images of these {masks} masks",
    }
    head = ["", *(TITLES[measure] for measure in MEASURES)]
    rows = [[title, *(f"{kept['arms'][arm][measure]:.1f}" for measure in MEASURES)] for arm, title in titles.items()]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines).replace("|  |", "| |")


def main(folder: str) -> None:
    """Two of the demo's scenes (image, mask, features, and what the decoder predicts from each kind of features), and the arms' figures."""
    samples = read_samples(Path(folder) / SAMPLES)
    palette = samples.about["palette"]
    decoded = {name.split()[-2]: color_masks(x[ROWS], palette) for name, x in samples.predictions.items()}
    columns = {
        "image": samples.images[ROWS],
        "label mask": color_masks(samples.masks[ROWS], palette),
        "the image's features": samples.colors["real"][ROWS],
        "generated from the mask": samples.colors["synthetic, z1"][ROWS],
        "decoded from real": decoded["real"],
        "from generated": decoded["synthetic"],
    }
    save_grid(PICTURE, columns)
    result = json.loads((Path(folder) / "result.json").read_text())
    sizes = {name: result["settings"]["demo"][name] for name in ("labelled", "unlabelled", "pairs")}
    arms = {name: {m: arm[m] for m in TITLES} for name, arm in {"base": result["base"], **result["arms"]}.items()}
    FIGURES.write_text(json.dumps(sizes | {"arms": arms, "verdict": result["verdict"]}, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
