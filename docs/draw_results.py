"""Write docs/results.md, and a table in README.md, from studies/results/*.json: ``python docs/draw_results.py`` (``--check`` only compares).

Its parts are in docs/results_arms.py and docs/results_generator.py; its plots are drawn by docs/draw_figures.py.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from results_arms import compared, comparison, fractions, screened, settings, studies, summary
from results_generator import generators, table4

from feataug.evaluation import verdict
from feataug.report import TITLES, interval

HERE = Path(__file__).parent
RESULTS = HERE.parent / "studies" / "results"


def camvid(r: dict) -> str:
    s = r["settings"]
    rows, columns = s["size"]
    n = len(r["seeds"])
    raw = r["as_trained"]
    lines = [
        "## CamVid: control against feataug",
        "",
        f"{s['model']}; {s['data']}, measured on {s['eval_split']} at {rows} x {columns}; cut at `{s['at']}`; {s['device']}, torch {s['torch']}. "
        f"Both arms start from the same base, take {s['further']['num_steps']} steps at lr {s['further']['lr']} and see the same real batches of "
        f"{s['batch']}; feataug's hold {s['mixer']['ratio']:.0%} synthetic samples besides. Means over {n} paired seeds, in percent.",
        "",
        "| | " + " | ".join(TITLES.values()) + " |",
        "|---|" + "---|" * len(TITLES),
    ]
    lines += [f"| {name} | " + " | ".join(f"{r[name][m]:.2f}" for m in TITLES) + " |" for name in ("base", "control", "feataug")]

    lines.append("| feataug - control, 95 % interval | " + " | ".join(interval(r["difference"][m]) for m in TITLES) + " |")
    lines += ["", verdict(r["difference"]), ""]
    lines += [
        "In both arms BatchNorm's running statistics were measured anew on the real training images after training (`update_bn`). Without that, "
        "they keep what the synthetic features left in them. (This step was added after the first figures had been seen, on the same split; both are "
        "shown.)",
        "",
        "| as trained | " + " | ".join(TITLES.values()) + " |",
        "|---|" + "---|" * len(TITLES),
    ]
    lines += [f"| {name} | " + " | ".join(f"{raw[name][m]:.2f}" for m in TITLES) + " |" for name in ("control", "feataug")]
    lines.append("| feataug - control, 95 % interval | " + " | ".join(interval(raw["difference"][m]) for m in TITLES) + " |")
    lines += ["", verdict(raw["difference"]), "", "Every seed, after `update_bn`:", ""]
    lines += ["| seed | arm | " + " | ".join(TITLES.values()) + " |", "|---|---|" + "---|" * len(TITLES)]
    for entry in r["seeds"]:
        for arm in ("control", "feataug"):
            lines.append(f"| {entry['seed']} | {arm} | " + " | ".join(f"{entry[arm][m]:.2f}" for m in TITLES) + " |")
    score, seen = r["recognition"], r["recognition"]["on_training_masks"]
    split = s["eval_split"]
    lines += [
        "",
        "## CamVid: the generator",
        "",
        *(
            f"Phase {number}: {g['num_images']:,} images, {s['batch']} a batch; loss weights: "
            + ", ".join(f"{k.removesuffix('_weight')} {v:g}" for k, v in g.items() if k.endswith("_weight"))
            + "."
            for number, g in enumerate(s["generator"], start=1)
        ),
        "",
        "| masks of | real features, mIoU | synthetic features, mIoU | ratio | diversity ratio |",
        "|---|---|---|---|---|",
    ]
    for name, x in ((f"{split} (never seen by the generator)", score), ("train", seen)):
        lines.append(f"| {name} | {x['real']:.2f} | {x['synthetic']:.2f} | {x['ratio']:.3f} | {x['diversity']:.3f} |")
    lines += ["", "The paper's PSPNet-score is 74.33 against 86.15 (0.863), on training masks of Cityscapes.", ""]
    lines += ["| images seen | ratio | diversity ratio |", "|---|---|---|"]
    lines += [f"| {c['images']:,} | {c['ratio']:.3f} | {c['diversity']:.3f} |" for c in score["curve"]]
    lines += ["", "## CamVid: per class", "", "IoU (and accuracy), means over the seeds.", ""]
    lines += ["| class | base | control | feataug | synthetic features, base decoder |", "|---|---|---|---|---|"]
    synthetic = score["measures"]["synthetic"]["per_class"]

    def cell(x: dict) -> str:
        return " ".join(["-" if x["iou"] is None else f"{x['iou']:.1f}", "(-)" if x["acc"] is None else f"({x['acc']:.1f})"])

    for name in r["base"]["per_class"]:
        cells = [r[arm]["per_class"][name] for arm in ("base", "control", "feataug")] + [synthetic[name]]
        lines.append(f"| {name} | " + " | ".join(map(cell, cells)) + " |")
    lines += ["", "## CamVid: the base model", "", "mIoU while it trained (poly schedule):", ""]
    lines += ["| step | " + " | ".join(str(c["step"]) for c in r["base_curve"]) + " |"]
    lines += ["|---|" + "---|" * len(r["base_curve"])]
    lines += ["| mIoU | " + " | ".join(f"{c['miou']:.1f}" for c in r["base_curve"]) + " |"]
    return "\n".join(lines)


def architectures(results: list[dict]) -> str:
    """The pipeline on other models: one line each; one seed, so no intervals."""
    first = results[0]["settings"]
    lines = [
        "",
        "## CamVid: other architectures",
        "",
        "`python studies/architectures.py --data CamVid --model fpn|vit` takes the same way with a pyramid and with tokens, briefly: that "
        f"it works, not how far it leads. {first['data']}, measured on {first['eval_split']}; {first['device']}. One seed: differences of a point "
        "are noise.",
        "",
        "| model | cut at | crosses (channels / stride) | steps, base | images, generator | recognition: real, synthetic, ratio | diversity |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        s, score = r["settings"], r["recognition"]
        levels = ", ".join(
            f"{x['tokens']} token{'s' * (x['tokens'] > 1)} of {x['channels']}"
            if x["tokens"]
            else f"{x['channels']} / {x['reduction']}"
            for x in s["levels"]
        )
        images = sum(g["num_images"] for g in s["generator"])
        lines.append(
            f"| {s['model']} | `{s['at']}` | {levels} | {s['base']['num_steps']} | {images:,} | "
            f"{score['real']:.2f}, {score['synthetic']:.2f}, {score['ratio']:.2f} | {score['diversity']:.2f} |"
        )
    lines += ["", "| model | arm | " + " | ".join(TITLES.values()) + " |", "|---|---|" + "---|" * len(TITLES)]
    for r in results:
        name = r["settings"]["model"].partition(",")[0].partition(" of")[0]
        lines += [
            f"| {name} | {arm} | " + " | ".join(f"{r[arm][m]:.2f}" for m in TITLES) + " |" for arm in ("base", "control", "feataug")
        ]
    lines += [
        "",
        "Where the base is weak (the ViT starts from random weights), its decoder finds synthetic features *easier* than real ones: a ratio above 1 "
        "is no merit. Both arms took "
        + " and ".join(sorted({str(r["settings"]["further"]["num_steps"]) for r in results}))
        + " steps, with `update_bn` in the end.",
    ]
    return "\n".join(lines)


WHEN_NOT = """
## When not to use us

What the tables above say, and what they leave open:

- **Most of the gain over the control is the class weights'.** `deficit_weights` alone, on real samples, costs one pass over the training images and
  no generator. On CamVid it gained as much mIoU as with synthetic features on top; these added 0.3 points of class accuracy there, and 0.4 (with
  0.08 mIoU) on IDD-Lite, for which no setting was chosen. If mIoU is all that counts, begin with the weights.
- **At half the resolution that is gone, too.** There the weights alone gained as much as with synthetic features on top, or up to 0.5 points more,
  on CamVid and on IDD-Lite. How well the features are recognised does not tell where: their score was 0.87 to 1.07 of the real one in these runs,
  and 1.00 and 1.10 in those at the images' own resolution. The power of the weights, which was chosen at the images' own resolution, is too high
  for CamVid there: at 1.25 the weights lose less pixel accuracy and gain more mIoU. Features on composed masks add 0.2 points of class accuracy to
  these, 0.7 on IDD-Lite, and no mIoU.
- **Few labels are no reason, either.** With a quarter and an eighth of CamVid's labels (half resolution) feataug gains more over the control than
  with all of them, and so do the weights, which stay ahead by 0.3 to 0.5 points in the mean.
- **Pixel accuracy falls**, with the weights and a little more with synthetic samples (much more with rare objects pasted in): common classes pay.
  If the common classes matter most, leave both.
- **Features that are recognised as well as real ones teach little.** In the screening, synthetic samples without weights changed nothing beyond
  noise, whichever masks they came from: a generator that was trained on the same images knows no more than the decoder does. Mining for hard masks,
  more of them, rare objects pasted in, or masks of rendered scenes changed nothing beyond noise at half the resolution, either. By themselves,
  without weights and filter, features gained 0.0 (blocks.0) to 0.8 points of class accuracy at half the resolution, by the stage (above), nearly
  all of it within the intervals; at CamVid's own -0.4 to +0.4, and no mIoU at any stage (one seed with each of two
  base models).
- **Without class weights features are worth having, if masks are chosen.** With the filter, masks drawn by class, and rare objects pasted in, they
  gained 0.9 points of class accuracy and 0.5 of mIoU over the control by themselves, and lost no pixel accuracy (CamVid, half resolution, three
  seeds; intervals above zero), which is what the paper reports; with evenly drawn masks 0.6 and 0.3. On IDD-Lite, where nothing was chosen, 2.1 and
  1.5, and 1.2 and 0.9 (two seeds, of which an interval says little; both gained). At CamVid's own resolution they gained as much class accuracy,
  0.9 and 0.7, but no mIoU, and cost 0.3 and 0.2 points of pixel accuracy, a third or less of what feataug with weights costs (one seed). Where
  weights are out of the question, that is the setting to try.
- **More masks did not help, but for those that are measured on.** A quarter of the validation masks, without their images, gained 0.4 points of
  class accuracy and 0.5 of mIoU over the training masks alone, and more than the weights, in each of three seeds; with a quarter of the training
  images 1.0 and 1.0. But they are the labels that are measured on, as in the paper. With that quarter, the true masks of the other three quarters
  gained 0.2 and 0.3, pseudo labels of their images and rendered masks as much, all within noise: that brings feataug level with the weights, not
  ahead of them.
- **A generator takes time** (minutes in the table, on two CPU cores; hours at the paper's scale), and its recognition score has to be looked at
  before it is of use.
- Everything here is one small model on small data sets, at a resolution where poles are hardly seen. `feataug compare` tells about yours, and
  trains the weights alone beside it.
"""


def page() -> str:
    head = "# Results\n\n<!-- Drawn by docs/draw_results.py from studies/results/*.json; do not edit. -->\n"
    how = (
        "`python studies/camvid.py --data CamVid` writes [camvid.json](../studies/results/camvid.json). The control is the same model *trained "
        "further* on real images only, which the paper does not report.\n"
    )
    parts = [head, how, camvid(json.loads((RESULTS / "camvid.json").read_text()))]
    others = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("architectures-*.json"))]
    parts += [architectures(others)] if others else []
    for name, title in (
        ("camvid", "CamVid at its own resolution"),
        ("camvid-half", "CamVid at half its resolution"),
        ("idd", "IDD-Lite"),
        ("idd-half", "IDD-Lite at half its resolution"),
    ):
        file = RESULTS / f"compare-{name}.json"
        parts += [comparison(title, name, json.loads(file.read_text()))] if file.exists() else []
    runs = [(file.stem.removeprefix("compare-"), json.loads(file.read_text())) for file in sorted(RESULTS.glob("compare-*.json"))]
    runs = [(name, r) for name, r in runs if "differences" in r]
    parts += [fractions(runs)] if any(r["settings"]["fraction"] < 1 for _, r in runs) else []
    parts += [studies()]
    for name, draw in (
        ("generator-camvid", generators), ("generator-camvid-half", partial(generators, half=True)), ("table4-camvid", table4),
        ("table4-camvid-again", partial(table4, again=True)),
        ("table4-camvid-half", table4), ("screen-camvid", screened),
    ):  # fmt: skip
        file = RESULTS / f"{name}.json"
        parts += [draw(json.loads(file.read_text()))] if file.exists() else []
    others = [json.loads((RESULTS / "settings-camvid-both.json").read_text())]
    parts += [settings(others, dict(runs)["camvid"])] if others and "camvid" in dict(runs) else []
    parts += [WHEN_NOT] if runs else []
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    text, target = page(), HERE / "results.md"
    if "--check" in sys.argv:
        sys.exit(
            0 if target.read_text() == text else "docs/results.md is not what studies/results/*.json give: run docs/draw_results.py"
        )
    target.write_text(text)
    readme = HERE.parent / "README.md"
    begin, end = "<!-- Drawn by docs/draw_results.py. -->\n", "<!-- Until here. -->\n"
    before, _, rest = readme.read_text().partition(begin)
    readme.write_text(before + begin + summary(compared()) + end + rest.partition(end)[2])
