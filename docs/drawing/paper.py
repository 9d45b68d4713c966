"""Write docs/paper.md from studies/results/*.json, and docs/whole-images-paper.md, its appendix, from what was measured on whole images:
``python -m docs.drawing.paper`` (``--check`` only compares).

The figures in them are told by docs/drawing/paper_tables.py.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from docs.drawing.paper_tables import (
    BOTH,
    RESULTS,
    WHOLE_IMAGES,
    Figures,
    by_class,
    channels,
    gaps,
    generators,
    over_base,
    pictures,
    places,
    recognised,
    results,
    several_scales,
    together,
    within,
)
from feataug.core.measures import TITLES

HERE = Path(__file__).parents[1]
NOT_YET = "not run at its full setting yet"
NOT_AGAIN = "not measured again yet"


class Claim(NamedTuple):
    """What the paper says, how to ask it here, what came out; whether that agreed, and what we made of it, when it was measured on whole images;
    and what we make of it now."""

    where: str
    claim: str
    command: str
    figures: Callable[[], Figures]
    agrees: str
    remark: str
    now: tuple[str, str] | None = None

    @property
    def anchor(self) -> str:
        """Of its section, as Sphinx and GitHub make it from the heading."""
        return "".join(c for c in self.where.lower() if c.isalnum() or c in " -").replace(" ", "-")


CLAIMS = (
    Claim(
        "Table 1: ours",
        "Synthetic features beside real images: +0.06 PixelAcc, +0.95 ClassAcc, +0.57 mIoU, +0.12 fwIoU over the released model",
        "studies/own/compare.py",
        over_base,
        "in ClassAcc and mIoU",
        "The paper compares with a released model that was not trained further, so here the base. Most of the gain is the class weights', which "
        "the paper does not have.",
        (
            "with a quarter of the labels in ClassAcc and mIoU, with all of them no",
            "The paper compares with a released model that was not trained further, so here the base; both after a class bias, without class "
            "weights. What training further gains by itself is in it: see *Control*.",
        ),
    ),
    Claim(
        "Control",
        "(not in the paper) The same model trained further on real images alone",
        "studies/own/compare.py",
        gaps("compare", "feataug"),
        "-",
        "The gain holds over the control; most of it is the class weights' ([results](results.md)). At half the resolution the weights alone gain "
        "as much.",
        (
            "-",
            "With a quarter of the labels class accuracy is gained beyond the control and beyond a class bias (three seeds, the interval above "
            "zero); real features of the left-out labelled images gain 0.7 and 0.4 in their place. With all labels nothing is shown (two seeds).",
        ),
    ),
    Claim(
        "Without class weights",
        "The paper has no class weights: +0.95 ClassAcc, +0.57 mIoU (Table 1) come from the features, and the masks that were mined",
        "studies/own/settings.py",
        gaps("settings", "features alone, random, 0.3", "features alone, both, 0.3", brief=["features alone, both, 0.3"]),
        "in ClassAcc; in mIoU at half the resolution",
        "Over the control, which the paper does not have, the features by themselves gain as much class accuracy as there, where masks are drawn "
        "by class and rare objects pasted in (*both*); evenly drawn masks (*random*) gain less. At half the resolution they gain the paper's mIoU, "
        "too, and lose no pixel accuracy; at CamVid's own they gain none and lose some (one seed). Class weights alone gain 2.6 to 3.8 times "
        "as much class accuracy.",
    ),
    Claim(
        "Table 1: images",
        "Synthetic images in place of features cost -3.18 to -0.13 mIoU",
        "studies/paper/table1.py",
        together(gaps("table1", "images"), gaps("compare", "images")),
        "yes, but for CamVid, half resolution",
        "Images made by the same generator harm on IDD-Lite (intervals below zero) and, in one seed, on CamVid at its own resolution, as in the "
        "paper; at half of it they neither harm nor help beyond noise. Their arm has no class weights, feataug's has: Table 4 compares stages "
        "without.",
    ),
    Claim(
        "Table 1: validation masks",
        "Validation masks, without their images, beside the training set's (T+V) add 0.18 ClassAcc",
        "studies/paper/table1.py",
        gaps("table1", "feataug", "masks T+V"),
        "yes",
        "Over feataug +0.1 ClassAcc at CamVid's own resolution (one seed: as in the paper, but within noise), 0.4 at half of it, in all three "
        "seeds; Table 5 says why.",
    ),
    Claim(
        "Table 2",
        "ADE20K: -0.04 PixelAcc, +2.08 ClassAcc, +0.34 mIoU; at several scales +2.43 and +0.57",
        "studies/paper/table2.py",
        several_scales,
        "yes, but for CamVid's mIoU",
        "As in the paper, what is gained at one scale is gained at several, too, and more of it: ClassAcc on both data sets and at both "
        "resolutions, mIoU everywhere but on CamVid at its own resolution (one seed).",
    ),
    Claim(
        "Table 3",
        "Masks encoded from the images' resolution: features recognised with 74.33 mIoU, 63.40 without; +0.55 mIoU against -0.52",
        "studies/paper/table3.py",
        generators,
        "no",
        "After 2,400 images each, small masks are recognised better, by less at CamVid's own resolution than at half of it. At half of it both "
        "teach the decoder alike (three seeds); at its own small masks gain 0.4 mIoU more, as much ClassAcc (one seed). The encoder of masks has "
        "more to learn before it is any use, and at stride 16 of small images there is little within a cell for it to tell.",
    ),
    Claim(
        "Table 4",
        "Later stages have lower entropy, tell classes apart better and are recognised better; the middle one gains most",
        "studies/paper/table4.py",
        places,
        "in recognition, and in the order of gains at CamVid's own resolution",
        "Late stages are recognised best, the images and the first stage least, in which it agrees; entropy and overlap are lowest for the "
        "images, and hardly differ from blocks.1 on, in which it does not. At CamVid's own resolution (one seed on each of two base models, of "
        "which one has six stages) the images and the first stages lose most mIoU, late ones little or nothing: the paper's order, but no stage "
        "gains any. In ClassAcc blocks.3 gains most with both base models (0.3 and 0.4), then blocks.1. At half of it (three seeds) features of "
        "blocks.1 and of blocks.3 to blocks.6 gain more ClassAcc in the mean than images do, those of blocks.0 less; in mIoU blocks.1, .3 and "
        ".6 gain more; nearly all intervals hold zero. The rule of `feataug.stages` names blocks.2, which gained no more than images at half "
        "the resolution and lost at the own one. These arms have neither weights nor filter, evenly drawn masks, and generators of 1,200 "
        "images: without these settings features teach little.",
    ),
    Claim(
        "Sec. 4.4",
        "PSPNet-score 74.33 of 86.15 (0.86)",
        "studies/own/compare.py --until generator",
        recognised,
        "yes",
        "Of the validation masks, which no generator has seen; the paper's is of training masks.",
        (
            "yes",
            "By windows of the crops' size, on validation masks, which no generator has seen; the paper's is of training masks. It says little of "
            "what features teach ([results](results.md#what-features-teach)).",
        ),
    ),
    Claim(
        "Table 5",
        "Additional masks, 3 : 1: +0.18 to +0.26 ClassAcc more, mIoU between -0.27 and +0.03",
        "studies/paper/table5.py",
        gaps("table5", measures=BOTH),
        "as little",
        "At CamVid's own resolution (one seed) they add -0.2 to +0.2 ClassAcc and up to -0.04 mIoU: as in the paper, and nothing that one seed "
        "could show. At half of it validation masks gain 0.4 ClassAcc and 0.5 mIoU over feataug, in all seeds, with a quarter of the images 1.0 "
        "and 1.0: they are the labels that are measured on. True masks of the images that this quarter leaves out, pseudo labels, rendered and "
        "composed masks gain 0.1 to 0.3 there, within noise.",
    ),
    Claim(
        "Fig. 3 and 4",
        "Smoother and more accurate predictions",
        "studies/paper/fig3.py",
        pictures,
        "no",
        "Pixel accuracy falls in most images: class accuracy, which gains, is no measure of a single image. Best and worst are shown alike, in "
        "pictures beside the run.",
    ),
    Claim(
        "Fig. 5",
        "Classes with less training data gain most",
        "studies/paper/fig5.py",
        by_class,
        "it points so",
        "Of 11 classes a rank correlation is beyond chance from 0.62 on; one rare class, the fence, loses.",
    ),
    Claim(
        "Fig. 6",
        "The encoder of masks gives sharper channels and boundaries",
        "studies/paper/fig6.py",
        channels,
        "no",
        "As Table 3: the other way round.",
    ),
    Claim(
        "Fig. 7",
        "More synthetic features, more ClassAcc; past 30 % less of the rest",
        "studies/paper/fig7.py",
        gaps("fig7"),
        "in one seed",
        "At CamVid's own resolution (one seed) as in the paper: ClassAcc rises to 30 %, and the other measures fall from 15 % on. At half of it "
        "there is no trend beyond noise in three seeds.",
    ),
    Claim(
        "Fig. 8",
        "Hard negative mining gains over random masks",
        "studies/paper/fig8.py",
        gaps("fig8", "feataug", "random", "mined", "learned"),
        "no",
        "No difference in ClassAcc at either resolution, with class weights in all arms, and less of the rest at CamVid's own (one seed); nor was "
        "there one in the screening, without.",
    ),
)

HEAD = """# The paper, claim by claim

<!-- Drawn by docs/drawing/paper.py from studies/results/*.json; do not edit. -->

Every table and figure of *Synthetic Convolutional Features for Improved Semantic Segmentation* has a command here. Each takes

```
--data DIR --dataset camvid|idd|cityscapes|ade20k|folder [--quick | --half]
```

with the official folders as they are downloaded ([data](data.md)), trains what it needs (base model, generator, arms), goes on where it was
stopped, and shares what is trained with the other studies. `--quick` says in minutes whether it runs, not what comes out; `--half` takes all
images at half their resolution, for a quarter of the time. All of them in one go, in several processes at a time:

```
python -m studies.everything --data CamVid --dataset camvid --half --in-memory --jobs 2 --few 3 --device cpu
python -m studies.everything --data CamVid --dataset camvid --in-memory --workers 3 --jobs 12 --device cuda
```

**Most of this table waits to be measured again.** Its first figures came of models that were measured on whole images, at half the resolution 5
to 6 points of mIoU below what they can do, and without a class bias; both favoured whatever presses on rare classes ([how we
measure](results.md#how-we-measure)). They are in an [appendix](whole-images-paper.md), and say nothing about the paper's claims. What stands here
was predicted by windows of the crops' size, and differences are taken after a class bias that is fitted to every arm on training images.

Differences are against the control, in points; two figures are ClassAcc / mIoU; the sections below have all measures, with 95 % intervals
over paired seeds. *Half resolution* is `--half`.

The paper's own data sets have not been run: 20 GB of images were not at hand. What is measured here is a small model
(`tf_efficientnet_lite0`, ImageNet weights) on CamVid and IDD-Lite, on two CPU cores. At half its resolution CamVid has no poles and hardly a
sign that can be learned: those figures tell arms apart, not how good a model can be.

| where, command | the paper | here | agrees? |
|---|---|---|---|
"""

OLD_HEAD = """# Appendix: the paper, claim by claim, measured on whole images

<!-- Drawn by docs/drawing/paper.py from studies/results/whole-images/*.json; do not edit. -->

**Draw no conclusion about the paper's claims from this page.** Its models were trained on crops and measured on whole images, which at half the
resolution cost them 5 points of mIoU; differences between arms are without a class bias, and no arm shows what could be gained at all ([how we
measure now](results.md#how-we-measure)). What has been measured again is in [the paper, claim by claim](paper.md). The remarks and the column
*agreed?* are those of then.

Differences are against the control, in points; two figures are ClassAcc / mIoU. Where there is one seed, at the images' own resolution, there is
no interval; feataug's gain differs there by {spread} from seed to seed (standard deviation over five). There, figures come of three base models
of one setting (`studies/own/compare.py`; Table 4 and *without class weights*; the rest); each is against the control of its own.

| where, command | the paper | here, on whole images | agreed? |
|---|---|---|---|
"""

SETTINGS = """
## Where the settings differ

`FeatureGenerator(preset="paper")` and `GeneratorConfig.paper()` are the paper's generator and objective. What the studies train is the default, which
measured better at equal numbers of images ([results](results.md)): a task loss through the frozen decoder, balanced by class, a mode-seeking
term, a moving average, critics on class shares. The paper fine-tunes at 1e-6 and 1e-7, the studies
at 0.01, a third of it for the encoder. Masks are drawn evenly instead of mined, 15 % of a batch are synthetic, synthetic pixels are filtered,
and classes are weighted by their deficit: each chosen on CamVid's validation images.
"""


def spread() -> str:
    """How much feataug's gain on CamVid differs from seed to seed."""
    runs = results("compare")["camvid"]["seeds"]
    found = {m: statistics.stdev(run["feataug"][m] - run["control"][m] for run in runs) for m in BOTH}
    return " and ".join(f"{value:.2f} {TITLES[m]}" for m, value in found.items())


def page(old: bool = False) -> str:
    """The page on the paper, or its appendix."""
    overview, sections = [], []
    for claim in CLAIMS:
        with within(WHOLE_IMAGES if old else RESULTS):
            figures = claim.figures()
        agrees, remark = (claim.agrees, claim.remark) if old else claim.now or ("-", "")
        missing = NOT_YET if old else f"{NOT_AGAIN} ([on whole images](whole-images-paper.md#{claim.anchor}))"
        brief = "<br>".join(figures.brief) or missing
        overview.append(
            f"| [{claim.where}](#{claim.anchor})<br>`{claim.command}` | {claim.claim} | {brief} | {agrees if figures.rows else '-'} |"
        )
        sections += ["", f"### {claim.where}", "", f"{claim.claim}. `python {claim.command}`", "", *(figures.table() or [missing])]
        sections += ["", remark] if remark and figures.rows else []
    if old:
        with within(WHOLE_IMAGES):
            head = OLD_HEAD.replace("{spread}", spread())
    return (head if old else HEAD) + "\n".join([*overview, "", "## Every claim's figures", *sections]) + "\n" + ("" if old else SETTINGS)


PAGES = {"paper.md": False, "whole-images-paper.md": True}

if __name__ == "__main__":
    for name, old in PAGES.items():
        text, target = page(old), HERE / name
        if "--check" in sys.argv and not (target.exists() and target.read_text() == text):
            sys.exit(f"docs/{name} is not what the files in studies/results give: run docs/drawing/paper.py")
        target.write_text(text)
