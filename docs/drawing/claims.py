"""The paper's claims, one for each table or figure: how to ask it here, and which figures answer it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from docs.drawing import paper_tables as tables
from docs.drawing import verdicts
from docs.drawing.verdicts import Evidence, arms


class Claim(NamedTuple):
    """A claim of the paper.

    Args:
        where: The table or figure; heading of the claim's section.
        short: The claim in a few words, for the overview.
        claim: The whole claim.
        study: The module that measures it, with its options.
        figures: Reads our figures.
        evidence: The differences that the verdict is computed from.
        remark: What to know when reading the figures.
        old_remark: What else to know about those that were measured on whole images.
    """

    where: str
    short: str
    claim: str
    study: str
    figures: Callable[[], tables.Figures]
    evidence: Callable[[], list[Evidence]]
    remark: str = ""
    old_remark: str = ""

    @property
    def anchor(self) -> str:
        """The anchor of its section, as Sphinx and GitHub derive it from the heading."""
        return "".join(c for c in self.where.lower() if c.isalnum() or c in " -").replace(" ", "-")


ADDED = [(f"{kind} masks", "feataug", "class_acc", 1) for kind in ("rendered", "composed", "pseudo", "left-out")]
CLAIMS = (
    Claim(
        "Table 1: ours",
        "+0.95 ClassAcc, +0.57 mIoU over the released model",
        "Synthetic features beside real images: +0.06 PixelAcc, +0.95 ClassAcc, +0.57 mIoU, +0.12 fwIoU over the released model",
        "studies.own.compare",
        tables.over_base,
        verdicts.over_base,
        "The paper compares with a released model that was not trained further; here that is the base model. The difference includes the gain of "
        "training further, which *Control* separates.",
        "Class weights, which the paper does not have, give most of the gain.",
    ),
    Claim(
        "Control",
        "(not in the paper) over the same model, trained further",
        "(not in the paper) The same model, trained further on real images alone",
        "studies.own.compare",
        tables.gaps("compare", "feataug"),
        arms("compare", [("feataug", "control", "class_acc", 1), ("feataug", "control", "miou", 1)]),
        "The ceiling in [results](results.md#does-it-help-all-arms) shows how much there is to gain: real features of left-out labelled images "
        "in place of synthetic ones.",
        "At half the resolution, class weights by themselves gain as much.",
    ),
    Claim(
        "Without class weights",
        "no class weights: the features gain",
        "The paper has no class weights: +0.95 ClassAcc, +0.57 mIoU (Table 1) come from the features and the mined masks",
        "studies.own.settings",
        tables.gaps("settings", "features alone, random, 0.3", "features alone, both, 0.3", brief=["features alone, both, 0.3"]),
        arms("settings", [("features alone, both, 0.3", "control", m, 1) for m in ("class_acc", "miou")]),
        "*both*: masks are drawn by class, with rare objects pasted in. *random*: masks are drawn evenly.",
    ),
    Claim(
        "Table 1: images",
        "synthetic images cost -3.18 to -0.13 mIoU",
        "Synthetic images in place of features cost -3.18 to -0.13 mIoU",
        "studies.paper.table1",
        tables.together(tables.gaps("table1", "images"), tables.gaps("compare", "images")),
        lambda: arms("table1", [("images", "control", "miou", -1)])() + arms("compare", [("images", "control", "miou", -1)])(),
        "The arm of images and the arm of features have equal base models, real batches, augmentation, steps, masks and label smoothing. They "
        "differ in more than the cut: the generator of images saw 1,800 images, that of features 7,200; synthetic images are not filtered; and "
        "they train the encoder as well.",
        "The feature arm had 15 % synthetic samples and class weights, the image arm 30 % and none. Table 4 compares cuts at equal settings.",
    ),
    Claim(
        "Table 1: validation masks",
        "validation masks add 0.18 ClassAcc",
        "Validation masks, without their images, beside the training set's (T+V) add 0.18 ClassAcc",
        "studies.paper.table1",
        tables.gaps("table1", "feataug", "masks T+V"),
        arms("table1", [("masks T+V", "feataug", "class_acc", 1)]),
        "These masks are the labels that are measured on. Table 5 has other masks.",
    ),
    Claim(
        "Table 2",
        "ADE20K, several scales: +2.43 ClassAcc, +0.57 mIoU",
        "ADE20K: -0.04 PixelAcc, +2.08 ClassAcc, +0.34 mIoU; at several scales +2.43 and +0.57",
        "studies.paper.table2",
        tables.several_scales,
        verdicts.several_scales,
    ),
    Claim(
        "Table 3",
        "encoded masks: recognised better, +0.55 mIoU",
        "Masks encoded from the images' resolution: features recognised with 74.33 mIoU, 63.40 without; +0.55 mIoU against -0.52",
        "studies.paper.table3",
        tables.generators,
        verdicts.encoded_masks,
        "An encoder of masks has more to learn. At stride 16 of small images a cell holds little that small masks lack.",
    ),
    Claim(
        "Table 4",
        "later stages recognised better, the middle gains most",
        "Later stages have lower entropy, separate classes better and are recognised better; the middle one gains most",
        "studies.paper.table4",
        tables.places,
        verdicts.places,
        "These arms have neither class weights nor filter, evenly drawn masks, and generators of 1,200 images. Nearly all intervals of the gains "
        "hold zero, so the order of the stages is uncertain.",
    ),
    Claim(
        "Sec. 4.4",
        "PSPNet-score 0.86 of the real one",
        "PSPNet-score 74.33 of 86.15 (0.86)",
        "studies.own.compare --until generator",
        tables.recognised,
        verdicts.recognised(0.86),
        "Ours is measured on validation masks, which no generator has seen; the paper's on training masks. Recognition says little about what "
        "features teach ([results](results.md#what-features-teach)).",
    ),
    Claim(
        "Table 5",
        "additional masks add 0.18 to 0.26 ClassAcc",
        "Additional masks, 3 : 1: +0.18 to +0.26 ClassAcc more, mIoU between -0.27 and +0.03",
        "studies.paper.table5",
        tables.gaps("table5", measures=tables.BOTH),
        arms("table5", ADDED),
        "The verdict leaves out the validation masks (T+V): they are the labels that are measured on.",
    ),
    Claim(
        "Fig. 3 and 4",
        "more accurate predictions",
        "Smoother and more accurate predictions",
        "studies.paper.fig3",
        tables.pictures,
        verdicts.images_that_gain,
        "Pixel accuracy is the only measure of a single image; class accuracy is not defined on one.",
    ),
    Claim(
        "Fig. 5",
        "rare classes gain most",
        "Classes with less training data gain most",
        "studies.paper.fig5",
        tables.by_class,
        verdicts.rare_classes,
        "The interval of the rank correlation is Fisher's.",
    ),
    Claim(
        "Fig. 6",
        "encoded masks give sharper features",
        "The encoder of masks gives sharper channels and boundaries",
        "studies.paper.fig6",
        tables.channels,
        verdicts.recognised_pixels,
    ),
    Claim(
        "Fig. 7",
        "ClassAcc rises with the share, mIoU falls past 30 %",
        "More synthetic features, more ClassAcc; past 30 % less of the rest",
        "studies.paper.fig7",
        tables.gaps("fig7"),
        arms("fig7", [("ratio 0.5", "ratio 0.1", "class_acc", 1), ("ratio 0.5", "ratio 0.3", "miou", -1)]),
    ),
    Claim(
        "Fig. 8",
        "hard negative mining gains",
        "Hard negative mining gains over random masks",
        "studies.paper.fig8",
        tables.gaps("fig8", "feataug", "random", "mined", "learned"),
        arms("fig8", [("mined", "feataug", "class_acc", 1), ("mined", "feataug", "miou", 1)]),
        "Where there is no arm *random*, feataug itself draws masks evenly, and mining is compared with it.",
    ),
)
