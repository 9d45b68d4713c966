"""Write docs/results.md, and the tables of README.md, from studies/results/*.json: ``python -m docs.drawing.results``.

``--check`` compares only. Tables are in docs/drawing/protocol_tables.py, findings in findings.py. Figures that were measured on whole images have a
page of their own, drawn by docs/drawing/whole_images.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from docs.drawing.findings import findings
from docs.drawing.page import DOCS, wrap, write_or_check
from docs.drawing.protocol_tables import bias, comparison, protocol, ways
from docs.drawing.room_tables import room, sites
from docs.drawing.settings_table import read_result, settings_table
from docs.drawing.teaching_tables import ALTERNATIVES, gains_over_views, images_gone, learning_rates, teaching, variants
from docs.drawing.words import seeds

RESULTS = DOCS.parent / "studies" / "results"
# In the order of the page.
DATA = (
    "camvid-half", "camvid-half-distilled",
    "camvid-half-1600", "camvid-half-1600-alternatives", "camvid-half-1600-distilled", "camvid-half-flow", "camvid-half-flow-composed",
    "camvid-half-0.25", "camvid-half-0.1", "camvid-half-0.1-distilled", "camvid", "idd-half", "idd-half-1600", "idd-half-1600-distilled",
    "idd-half-colored", "idd-half-0.1", "idd", "camvid-half-fpn", "camvid-half-fpn-matched", "camvid-half-fpn-colored-matched",
    "camvid-half-vit", "camvid-half-vit-distilled", "camvid-half-vit-matched", "camvid-half-vit-colored-matched",
)  # fmt: skip


def read(study: str, folder: Path = RESULTS) -> dict[str, dict]:
    """A study's result files, by data set."""
    files = {name: folder / f"{study}-{name}.json" for name in DATA}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


HEAD = """# Results

<!-- Drawn by docs/drawing/results.py from studies/results/*.json; do not edit. -->

Where there is something to gain, and how much of it features of a flow gain; everything is predicted by windows of the crops' size and after a
[class bias](class-bias.md):

{settings}

{findings}

All of this is one small model on small data sets. `feataug compare` measures your own. The [studies](../studies/README.md) write the files.

## How we measure

A model is predicted by windows of its crops' size where training images show that this is better. Every arm is given the
[class bias](class-bias.md) that suits it, fitted on training images. Only what remains after it is called a gain.

**Our earlier figures misled.** They were measured on whole images, without a class bias. At half the resolution images have 180 rows, which the
output stride of 16 does not divide: 12 rows of logits are stretched over 180 pixels in place of 192, and every object is predicted too far up.
That cost {windows:.0f} points of mIoU against windows and {padded:.0f} against images padded to a multiple of the stride
(`Inference(model, divisor=16)`), mostly in thin and rare classes. Class weights raise these classes and gained part of it back. The pyramid
pooling's context, which we first suspected, is not the reason: padded images have the same context and do better than windows before a class
bias. At CamVid's own resolution whole images cost less than a point.

The same trained models, predicted in several ways; the class bias is fitted on every sixth training image (`python -m studies.own.protocol --data DIR
--dataset camvid --half --larger`; without `--half`; `--dataset idd --half --steps 700`; `--dataset camvid --half --model fpn|vit --steps 300`):

"""

BIAS = """
## Class weights and features after a class bias
"""

TEACHING = """
## What features teach

A fresh decoder is trained on features of one source alone and measured on real images, by windows and after a class bias ([the teaching
score](evaluate.md#what-do-the-features-teach)). The encoder is the trained model's, frozen. The BicycleGAN was chosen by how well a trained decoder
*recognises* its features, which says little about what they teach; the flow was chosen by this score. A flow that is not called distilled was
trained without the [distillation](losses.md#a-flow) that is now the last part of its training.
"""

ARMS = """
## Does it help? All arms

Encoder and decoder are trained further, as a user would do it. The control is the same model trained further on real images alone, which the paper
does not report. *feataug* has the features of a BicycleGAN, or of a flow where the title says so. *Class weights* are
`deficit_weights` without synthetic features. The *ceiling* has, in place of synthetic features, real features of labelled images that no other arm
sees: it shows what real data would gain.
"""

KEPT = """
## Images are gone

A site may not keep its images, or a decoder is trained where they must not go. What is left is what was made of them while they were there. Below,
one encoded view of each image is compared with a generator, which has learned from all views; both have the masks. *Real features* are what the
images themselves would teach, in ever new views. The decoders are trained for 1,600 steps, on [CamVid](#camvid-half-resolution-1600-steps) and
[IDD-Lite](#idd-lite-half-resolution-1600-steps), where a flow was also [distilled and trained for
longer](#idd-lite-half-resolution-1600-steps-a-distilled-flow).

{tables}

What else one could do with the views, on CamVid with another base model ({runs}), compared with the same views alone. CutMix and ClassMix paste
whole cells of the features, and their labels, from one image's view into another's:

{alternatives}
"""

ROOM = """
## Few labels, many masks

A tenth of the images are labelled; of the others only the masks are known, as from planners, simulators or maps. The base model and the generator
see the few images alone. *feataug*, and the other features, are mixed in for all masks. The *ceiling* has real features of the images that belong
to the other masks. The first flow was trained without [distillation](losses.md#a-flow), the second, for another base model, with it.
"""

SITES = """
## Two sites, no images shared

CamVid and IDD-Lite in seven classes, as two sites that may share no images. Both encode with one frozen ImageNet encoder. Each trains a generator on
its features, and hands out generator and masks. A fresh decoder is trained on what both generate, and measured at both sites.
"""

WHEN_NOT = """
## When not to use us

- **Before you have padded images to the stride (or predicted by windows) and fitted a class bias.** Neither needs training, and together they
  gain more than any arm here.
- **In place of class Gaussians**, if these are enough: they need no network and no training.
- **If you cannot spare the time for a generator**: minutes here on one thread, hours at the paper's scale.

## What has not been measured again

The paper's other tables and figures, the baselines (OHEM, ISDA, ClassMix, ...), the generators' ablations and the choice of the cut were measured on
whole images alone: [appendix](whole-images.md), and [the paper, claim by claim](whole-images-paper.md). No conclusion about arms should be drawn
from them.
"""


def page() -> str:
    means = read("protocol")["camvid-half"]["means"]["base"]
    cost = {way: means[way]["miou"] - means["whole"]["miou"] for way in ("windows", "padded")}
    parts = [HEAD.format(settings=settings_table(), findings=findings(read), **cost), ways(read("protocol"))]
    parts += [protocol(name, r) for name, r in read("protocol").items()]
    for title, draw, study in ((BIAS, bias, "bias"), (TEACHING, teaching, "teaching"), (ARMS, comparison, "compare")):
        if results := read(study):
            parts += [title, *(draw(name, r) for name, r in results.items())]
        if study == "teaching":
            parts += ["", *(variants(r) for r in read("teaching-variants").values())]
            parts += ["", *(learning_rates(r) for r in read("learning-rates").values())]
    taught = read("teaching")
    other = taught["camvid-half-1600-alternatives"]
    runs, alternatives = seeds(other["settings"]["seeds"]), gains_over_views(other, (*ALTERNATIVES, "real"))
    tables = "\n\n".join(images_gone(taught[name]) for name in ("camvid-half-1600", "idd-half-1600", "idd-half-1600-distilled"))
    parts.append(KEPT.format(tables=tables, runs=runs, alternatives=alternatives))
    if results := read("room"):
        parts += [ROOM, *(room(name, r) for name, r in results.items())]
    parts += [SITES, sites(read_result("sites"))]
    return wrap("\n".join([*parts, WHEN_NOT]))


def readme() -> str:
    """Both tables of the README."""
    return settings_table("docs/results.md") + "\n\n" + ways(read("protocol"))


if __name__ == "__main__":
    write_or_check({"results.md": page()}, "results")
    if "--check" not in sys.argv:
        front = DOCS.parent / "README.md"
        begin, end = "<!-- Drawn by docs/drawing/results.py. -->\n", "<!-- Until here. -->\n"
        before, _, rest = front.read_text().partition(begin)
        front.write_text(before + begin + readme() + end + rest.partition(end)[2])
