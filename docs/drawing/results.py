"""Write docs/results.md, and a table in README.md, from studies/results/*.json: ``python -m docs.drawing.results`` (``--check`` only compares).

Its tables are in docs/drawing/protocol_tables.py. What was measured on whole images is on a page of its own, by docs/drawing/whole_images.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from docs.drawing.protocol_tables import bias, comparison, protocol, summary, teaching, ways

HERE = Path(__file__).parents[1]
RESULTS = HERE.parent / "studies" / "results"
# In the order of the page.
DATA = ("camvid-half", "camvid-half-0.25", "camvid", "idd-half", "idd", "camvid-half-fpn", "camvid-half-vit")


def read(study: str) -> dict[str, dict]:
    """What a study left, by data set."""
    files = {name: RESULTS / f"{study}-{name}.json" for name in DATA}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


HEAD = """# Results

<!-- Drawn by docs/drawing/results.py from studies/results/*.json; do not edit. -->

## How we measure

**How we measured.** Models were trained on crops, measured on whole images, and compared as they came out of training. **Why it misled.** At half
the resolution images have 180 rows, which the output stride of 16 does not divide: 12 rows of logits are stretched over 180 pixels in place of
192, and every object is predicted too far up. That cost 5 points of mIoU against windows of the crops' size and 6 against images padded to a
multiple of the stride (`Inference(model, divisor=16)`), most of them in thin and rare classes; class weights, which press on these, gained a part
of it back. (We first took the pyramid pooling's context for the reason. The padded images have the same context, and do better than windows
before a class bias.) At CamVid's own resolution whole images cost less than a point, but there, too, a class bias gains about what class weights
had gained. **What it is now.** A model is predicted by windows of the crops' size where training images say that it does better so, every arm is
given the [class bias](class-bias.md) that suits it, fitted on training images, and only what remains after it is called a gain.

The same trained models, predicted in four ways; the class bias is fitted on every sixth training image (`python -m studies.own.protocol --data DIR
--dataset camvid --half --larger`; without `--half`; `--dataset idd --half --steps 700`; `--dataset camvid --half --model fpn|vit --steps 300`):

"""

BIAS = """
## Class weights and features after a class bias
"""

TEACHING = """
## What features teach

A fresh decoder is trained on features of one source alone, and measured on real images ([the teaching score](evaluate.md)). The generator was
chosen by how well a trained decoder *recognises* its features, which says nothing of this.
"""

ARMS = """
## Does it help? All arms

Encoder and decoder trained further, as a user would. The control is the same model trained further on real images alone, which the paper does not
report. *Class weights* are `deficit_weights` without a synthetic feature. The *ceiling* has, in place of synthetic features, real features of
labelled images that no other arm sees: what the truth would gain in their place.
"""

WHEN_NOT = """
## When not to use us

{when_not}
## What is not measured again

The paper's other tables and figures, the baselines (OHEM, ISDA, ClassMix, ...), the generators' ablations and the choice of the cut were measured on
whole images alone: [appendix](whole-images.md), and [the paper, claim by claim](whole-images-paper.md). No conclusion about arms should be drawn
from them.
"""

SAID = """- **Begin with what needs no training.** Images padded to the stride (or windows) and a class bias gained nine points of mIoU on CamVid
  at half its resolution; no arm gained a tenth of that over the control.
- **Class weights gain nothing beyond a class bias**, which costs seconds; with a quarter of the labels they lose a point of mIoU.
- **What our features gain is small.** With a quarter of the labels 0.4 points of class accuracy after the class bias (the interval lies above zero),
  and nothing in mIoU that the intervals show. With all labels nothing is shown. The ceiling says why so little can be seen: in 100 steps real
  features of three times as many labelled images gain 0.7 and 0.4 in their place.
- **Our generator teaches less than class Gaussians do**, which need no network: {generator} of what real features teach, against {gaussians}. Its
  features are recognised nearly as well as real ones, and lack variety: recall is {recall} where features of other real images get {reference}.
- **A generator takes time**, minutes here on one thread, hours at the paper's scale.
- Everything here is one small model on a small data set at a resolution where poles are hardly seen. `feataug compare` tells about yours.
"""


def page() -> str:
    parts = [HEAD, ways(read("protocol")), *(protocol(name, r) for name, r in read("protocol").items())]
    for title, draw, study in ((BIAS, bias, "bias"), (TEACHING, teaching, "teaching"), (ARMS, comparison, "compare")):
        if found := read(study):
            parts += [title, *(draw(name, r) for name, r in found.items())]
    return "\n".join([*parts, WHEN_NOT.replace("{when_not}", said())])


def said() -> str:
    """What the tables come to, with the figures of what features teach."""
    r = read("teaching")["camvid-half"]
    scores = {name: f"{score['after']:.2f}" for name, score in r["teaching"]["score"].items()}
    return SAID.format(**scores, recall=f"{r['quality']['recall']:.2f}", reference=f"{r['quality']['reference']['recall']:.2f}")


def compared() -> dict[str, dict]:
    """The data sets on which arms have been run."""
    return read("compare")


def readme() -> str:
    """Both tables of the README."""
    return ways(read("protocol")) + "\n" + summary(compared())


if __name__ == "__main__":
    text, target = page(), HERE / "results.md"
    if "--check" in sys.argv:
        sys.exit(
            0 if target.read_text() == text else "docs/results.md is not what studies/results/*.json give: run docs/drawing/results.py"
        )
    target.write_text(text)
    front = HERE.parent / "README.md"
    begin, end = "<!-- Drawn by docs/drawing/results.py. -->\n", "<!-- Until here. -->\n"
    before, _, rest = front.read_text().partition(begin)
    front.write_text(before + begin + readme() + end + rest.partition(end)[2])
