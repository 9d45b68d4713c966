"""Write docs/paper.md from studies/results/*.json, and its appendix docs/whole-images-paper.md: ``python -m docs.drawing.paper``.

``--check`` compares only. Claims are in docs/drawing/claims.py, their figures in paper_tables.py, their verdicts in verdicts.py.
"""

from __future__ import annotations

import statistics

from docs.drawing.claims import CLAIMS
from docs.drawing.page import wrap, write_or_check
from docs.drawing.paper_tables import BOTH, RESULTS, WHOLE_IMAGES, compared, results, within
from docs.drawing.verdicts import summary
from feataug.core.measures import TITLES

HEAD = """# The paper, claim by claim

<!-- Drawn by docs/drawing/paper.py from studies/results/*.json; do not edit. -->

{answered} of {claims} claims are measured so far. Two figures are ClassAcc / mIoU, in points after a [class bias](class-bias.md).
The rest waits: earlier figures [misled](results.md#how-we-measure) and are in an [appendix](whole-images-paper.md).

| where | the paper | here | verdict |
|---|---|---|---|
"""

VERDICTS = """
A verdict is computed from the figures. *Agrees*: the 95 % interval over paired seeds excludes zero, on the claim's side; *opposite*: on the other.
*Within noise*: the interval holds zero. *No interval*: a single run. A count such as "2 of 3" counts data sets (and arms, where a claim has several).
"""

COMMANDS = """
## How to run them

Every table and figure of *Synthetic Convolutional Features for Improved Semantic Segmentation* has a command. Each takes

```
--data DIR --dataset camvid|idd|cityscapes|ade20k|folder [--quick | --half]
```

with the official folders as they are downloaded ([data](data.md)). It trains what it needs (base model, generator, arms), goes on where it was
interrupted, and shares trained models with the other studies ([index](../studies/README.md)). `--quick` checks in minutes that everything runs;
its figures mean nothing. `--half` takes all images at half their resolution, for a quarter of the time. All studies in one go, in several
processes:

```
python -m studies.everything --data CamVid --dataset camvid --half --in-memory --jobs 2 --few 3 --device cpu
python -m studies.everything --data CamVid --dataset camvid --in-memory --workers 3 --jobs 12 --device cuda
```

The paper's own data sets have not been run: 20 GB of images were not at hand. The model here is small (`tf_efficientnet_lite0`, ImageNet weights),
the data are CamVid and IDD-Lite, and the machine had two CPU cores. *Half resolution* is `--half`: CamVid then has no poles and hardly a sign
that can be learned. Such figures compare arms; they do not show how good a model can be.

Models are predicted by windows of the crops' size, and differences are taken after a class bias that is fitted for every arm on training images.
"""

OLD_HEAD = """# Appendix: the paper, claim by claim, measured on whole images

<!-- Drawn by docs/drawing/paper.py from studies/results/whole-images/*.json; do not edit. -->

**Draw no conclusion about the paper's claims from this page.** Its models were trained on crops and measured on whole images, which at half the
resolution cost them {cost:.0f} points of mIoU. Differences between arms are without a class bias, and no
arm shows what could be gained at all ([how we measure now](results.md#how-we-measure)). [The paper, claim by claim](paper.md)
has what was measured again, and the rule of the verdicts.

Differences are against the control, in points; two figures are ClassAcc / mIoU. At the images' own resolution there is often one seed and so no
interval; feataug's gain varies there by {spread} from seed to seed (standard deviation over five). Figures at that resolution come from three base
models of one setting (`studies.own.compare`; Table 4 and *without class weights*; the rest), each against a control of its own.

| where | the paper | here, on whole images | verdict then |
|---|---|---|---|
"""

SETTINGS = """
## Where the settings differ

`FeatureGenerator(preset="paper")` and `GeneratorConfig.paper()` are the paper's generator and objective. The figures above are of our own
BicycleGAN, `preset="bicyclegan"`, which was better at equal numbers of images
([appendix](whole-images.md#camvid-what-makes-a-generator-better)): a task loss through the frozen decoder, balanced by class; a mode-seeking term; a
moving average; critics on class shares. The default is now a flow, [whose features teach more](results.md#what-features-teach). The paper
fine-tunes at 1e-6 and 1e-7, the studies at {lr:g}, and {encoder:g} of that for the encoder. Masks are drawn evenly instead of mined, {ratio:.0%} of a
batch are synthetic, and synthetic pixels are filtered at {filter} times their class's loss.
"""


def spread() -> str:
    """The standard deviation of feataug's gain on CamVid over the seeds."""
    runs = results("compare")["camvid"]["seeds"]
    deviations = {m: statistics.stdev(run["feataug"][m] - run["control"][m] for run in runs) for m in BOTH}
    return " and ".join(f"{value:.2f} {TITLES[m]}" for m, value in deviations.items())


def page(old: bool = False) -> str:
    """The page on the paper, or its appendix."""
    with within(WHOLE_IMAGES if old else RESULTS):
        found = [(claim, claim.figures(), summary(claim.evidence())) for claim in CLAIMS]
    overview, sections, answered = [], [], 0
    for claim, figures, verdict in found:
        missing = f"Not measured again yet ([on whole images](whole-images-paper.md#{claim.anchor}))."
        answered += bool(figures.rows)
        cells = ["<br>".join(figures.brief), verdict.replace("; ", "<br>")] if figures.rows else ["not measured yet", "-"]
        overview.append(f"| [{claim.where}](#{claim.anchor}) | {claim.short} | {' | '.join(cells)} |")
        command, _, options = claim.study.partition(" ")
        sections += ["", f"### {claim.where}", "", f"{claim.claim}. `python -m {command}{' ' * bool(options)}{options}`", ""]
        sections += [*(figures.table() or [missing])]
        if figures.rows:
            remarks = [f"Verdict: {verdict}." if verdict != "-" else "", claim.remark, claim.old_remark if old else ""]
            sections += ["", " ".join(filter(None, remarks))]
    if old:
        means = results("protocol")["camvid-half"]["means"]["base"]
        with within(WHOLE_IMAGES):
            head, more, last = OLD_HEAD.format(spread=spread(), cost=means["windows"]["miou"] - means["whole"]["miou"]), "", ""
    else:
        s = next(r["settings"] for r in results("compare").values() if compared(r))
        further = s["config"]
        last = SETTINGS.format(lr=further["lr"], encoder=further["lr_scale"]["encoder"], **{k: s["feataug"][k] for k in ("ratio", "filter")})
        head, more = HEAD.format(answered=answered, claims=len(CLAIMS)), VERDICTS + COMMANDS
    return wrap(head + "\n".join([*overview, more, "## Every claim's figures", *sections]) + "\n" + last)


PAGES = {"paper.md": False, "whole-images-paper.md": True}

if __name__ == "__main__":
    write_or_check({name: page(old) for name, old in PAGES.items()}, "paper")
