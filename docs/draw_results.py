"""Write docs/results.md, and a table in README.md, from studies/results/*.json: ``python docs/draw_results.py`` (``--check`` only compares).

Its plots are drawn by docs/draw_figures.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from feataug.evaluation import differences, verdict
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


def comparison(title: str, r: dict) -> str:
    """Base, generator and, where they have been run, all arms."""
    s, score = r["settings"], r["recognition"]
    rows, columns = s["size"]
    seen = score["on_training_masks"]
    lines = [
        "",
        f"## {title}",
        "",
        f"`python studies/compare.py --data DIR --dataset {s['data']}`: {s['model']}; {s['images']} training images, crops of {rows} x {columns} at "
        f"about the images' own resolution, batches of {s['batch']}; measured on whole images of {s['eval_split']}; {s['device']}.",
        "",
        "| features on masks of | real, mIoU | synthetic, mIoU | ratio | diversity ratio |",
        "|---|---|---|---|---|",
    ]
    for name, x in ((f"{s['eval_split']} (never seen by the generator)", score), ("train", seen)):
        lines.append(f"| {name} | {x['real']:.2f} | {x['synthetic']:.2f} | {x['ratio']:.3f} | {x['diversity']:.3f} |")
    curve = ", ".join(f"{c['ratio']:.2f} after {c['images']:,}" for c in score["curve"])
    lines += ["", f"The ratio while the generator trained: {curve} images.", ""]
    shown = "recognition and diversity ratio while the generator trained; dotted: the least that is wanted"
    picture = f"figures/recognition-{s['data']}.svg"
    lines += [f"![{title}: {shown}]({picture})", ""]
    made, real = score["measures"]["synthetic"]["per_class"], r["base"]["per_class"]
    lines += ["| IoU | " + " | ".join(real) + " |", "|---|" + "---|" * len(real)]
    for name, x in (("real features", real), ("synthetic features", made)):
        lines.append(f"| {name} | " + " | ".join("-" if c["iou"] is None else f"{c['iou']:.0f}" for c in x.values()) + " |")
    if "differences" not in r:
        return "\n".join([*lines, "", "The arms have not been run at this setting yet."])
    lines += [
        "",
        f"Means over {len(r['seeds'])} paired seeds; differences from the control in points, with 95 % intervals where there are two seeds:",
        "",
    ]
    lines += ["| arm | " + " | ".join(TITLES.values()) + " |", "|---|" + "---|" * len(TITLES)]
    lines.append("| base | " + " | ".join(f"{r['base'][m]:.2f}" for m in TITLES) + " |")
    lines += [f"| {name} | " + " | ".join(f"{x[m]:.2f}" for m in TITLES) + " |" for name, x in r["arms"].items()]
    lines += ["", "| minus control | " + " | ".join(TITLES.values()) + " | minutes |", "|---|" + "---|" * (len(TITLES) + 1)]
    for name, gaps in r["differences"].items():
        minutes = sum(entry[name]["seconds"] for entry in r["seeds"]) / len(r["seeds"]) / 60
        lines.append(f"| {name} | " + " | ".join(interval(gaps[m]) for m in TITLES) + f" | {minutes:.1f} |")
    lines += ["", "| IoU minus control's | " + " | ".join(real) + " |", "|---|" + "---|" * len(real)]
    for name, gaps in r["differences"].items():
        found = [gaps["per_class"].get(k, {}).get("iou", {}).get("mean") for k in real]
        lines.append(f"| {name} | " + " | ".join("-" if x is None else f"{x:+.1f}" for x in found) + " |")
    lines += ["", f"![{title}: each arm minus the control, with intervals, by measure and by class](figures/arms-{s['data']}.svg)"]
    rivals = [name for name in r["differences"] if name != "feataug"]
    if rivals:
        lines += ["", "feataug minus each of the others, the same pairs:", ""]
        lines += ["| feataug minus | " + " | ".join(TITLES.values()) + " |", "|---|" + "---|" * len(TITLES)]
        behind = {"class_acc": [], "miou": []}
        for name in rivals:
            gap = differences([entry[name] for entry in r["seeds"]], [entry["feataug"] for entry in r["seeds"]])
            lines.append(f"| {name} | " + " | ".join(interval(gap[m]) for m in TITLES) + " |")
            for measure, names in behind.items():
                if gap[measure]["mean"] <= 0:
                    names.append(name)
        told = (f"{TITLES[m]} of all but {', '.join(names)}" if names else f"{TITLES[m]} of all" for m, names in behind.items())
        lines += ["", f"In the mean feataug is ahead in {', in '.join(told)}."]
    f = s["feataug"]
    control = sum(entry["control"]["seconds"] for entry in r["seeds"]) / len(r["seeds"]) / 60
    resumed = " (its last part alone: it was stopped and went on)" if "generator" in r["seconds_of_the_last_part_only"] else ""
    lines += [
        "",
        f"feataug: masks `{f['masks']}` (`Comparison.masks` in studies/compare.py), {100 * f['ratio']:.0f} % synthetic, pixels filtered at "
        f"{f['filter']} times their class's loss, class weights by deficit to the power of {f['power']}. *class weights* are the same weights on "
        f"real samples alone. Minutes depend on what else the machine did while an arm ran; benchmarks compare steps. "
        f"The control took {control:.1f} minutes ({s['threads']} threads); the generator "
        f"{r['seconds'].get('generator', 0) / 60:.0f}{resumed}, once for all seeds.",
        "",
        r["verdict"],
    ]
    return "\n".join(lines)


def summary(results: dict[str, dict]) -> str:
    """The README's table: what was gained over the control, by us and by the weights alone."""
    lines = ["| points over the control | " + " | ".join(TITLES.values()) + " |", "|---|" + "---|" * len(TITLES)]
    for title, r in results.items():
        for name in ("feataug", "class weights"):
            gaps = r["differences"][name]
            lines.append(f"| {title}, {name} ({len(r['seeds'])} seeds) | " + " | ".join(interval(gaps[m]) for m in TITLES) + " |")
    return "\n".join(lines) + "\n"


def compared() -> dict[str, dict]:
    """The data sets on which the arms have been run."""
    found = {title: RESULTS / f"compare-{name}.json" for name, title in (("camvid", "CamVid"), ("idd", "IDD-Lite"))}
    read = {title: json.loads(file.read_text()) for title, file in found.items() if file.exists()}
    return {title: r for title, r in read.items() if "differences" in r}


def fractions(results: list[tuple[str, dict]]) -> str:
    """How the gain depends on the number of labelled images."""
    lines = [
        "",
        "## The gain, by the number of labelled images",
        "",
        "| data | images | base, mIoU | recognition | "
        + " | ".join(f"feataug, {TITLES[m]}" for m in ("class_acc", "miou"))
        + " | class weights alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in results:
        gaps = r["differences"]
        alone = (
            f"{interval(gaps['class weights']['class_acc'])}, {interval(gaps['class weights']['miou'])}"
            if "class weights" in gaps
            else "-"
        )
        lines.append(
            f"| {name} | {r['settings']['images']} | {r['base']['miou']:.2f} | {r['recognition']['ratio']:.2f} | "
            f"{interval(gaps['feataug']['class_acc'])} | {interval(gaps['feataug']['miou'])} | {alone} |"
        )
    return "\n".join(lines)


def generators(r: dict) -> str:
    """The generator's ablation: one line a variant."""
    lines = [
        "",
        "## CamVid: what makes a generator better",
        "",
        f"`python studies/generator.py --data CamVid --dataset camvid`: one change at a time, {r['images']:,} images each, which is far from "
        "enough to converge: who learns faster. Crops of 224 x 288 at about the images' own resolution, measured on whole validation images. "
        "*rejected* is the share of synthetic pixels that `PixelFilter` takes out; *distance* the Frechet distance per channel, standardised; "
        "*spread* the synthetic over the real standard deviation.",
        "",
        "| variant | ratio | diversity | rejected | distance | spread | minutes, one thread |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, x in r["variants"].items():
        figures = " | ".join(f"{x[key]:.2f}" for key in ("ratio", "diversity", "rejected", "frechet", "spread"))
        lines.append(f"| {name} | {figures} | {x['seconds'] / 60:.0f} |")
    return "\n".join(lines)


def settings(results: list[dict], chosen: dict) -> str:
    """feataug's other settings that went through all of the training, beside the chosen ones."""
    lines = [
        "",
        "## CamVid: feataug's other settings, encoder trained",
        "",
        "`Comparison.feataug` in studies/compare.py, changed; against the control, in points.",
        "",
        "| masks | ratio | power | seeds | " + " | ".join(TITLES.values()) + " |",
        "|---|---|---|---|" + "---|" * len(TITLES),
    ]
    for r in (chosen, *results):
        f, gaps = r["settings"]["feataug"], r["differences"]["feataug"]
        figures = " | ".join(interval(gaps[m]) for m in TITLES)
        lines.append(
            f"| `{f['masks']}`{' (chosen)' if r is chosen else ''} | {f['ratio']} | {f['power']} | {len(r['seeds'])} | {figures} |"
        )
    return "\n".join(lines)


def screened(r: dict) -> str:
    """The screening of mask sources and mixing settings."""
    lines = [
        "",
        "## CamVid: screening with the encoder frozen",
        "",
        "`python studies/screen.py`: the decoder alone, on cached features, paired seeds; differences from "
        "the control in points. A lead, no result. Masks: `random` from the training set; `both` drawn by class, with rare objects pasted in; "
        "`mined` hard negatives; `control` none. `power`: of `deficit_weights`, measured once, on all samples.",
        "",
        "Tried, and not offered: `synthetic_balance`, synthetic pixels weighted by the inverse area of their class to that power; `inverse_area`, "
        "the same on real ones; `deficit`, as `power`, but on synthetic pixels alone unless `real=1`; `followed`, deficits followed during training.",
        "",
        "| masks, settings | " + " | ".join(TITLES.values()) + " | seeds |",
        "|---|" + "---|" * (len(TITLES) + 1),
    ]
    for name, gaps in r["differences"].items():
        lines.append(f"| {name} | " + " | ".join(f"{gaps[m]['mean']:+.2f}" for m in TITLES) + f" | {len(r['runs'][name])} |")
    return "\n".join(lines)


# Table 4 of the paper: PSPNet-score over that of real features (86.15), entropy, overlap, and the gain in mIoU.
PAPER = {
    "images": (2.22, 4.8290, 0.5596, -3.18),
    "conv1_3": (9.76, 3.0987, 0.5257, -1.09),
    "conv2_3": (26.97, 3.1584, 0.3171, -0.37),
    "conv3_4": (56.77, 4.0767, 0.3431, -0.1),
    "conv4_6": (70.66, 3.3799, 0.4295, 0.11),
    "conv4_12": (74.33, 3.3659, 0.4087, 0.55),
    "conv4_18": (61.54, 3.2535, 0.3651, 0.13),
    "conv4_23": (83.78, 3.4065, 0.2802, 0.05),
}


def table4(r: dict) -> str:
    """Where to cut: statistics, recognition and, where it was measured, gain at several stages."""
    s, rows = r["study"], r["stages"]
    height, width = s["size"]
    real, measured = rows[0]["recognition"]["real"], f"{s['measured']} crops of {s['eval_split']}"
    gained = "gain" in rows[0]
    lines = [
        "",
        "## CamVid: where to cut" + (", a first look" if s["quick"] else ""),
        "",
        f"`python studies/table4.py --data CamVid --dataset {s['data']}{' --quick' if s['quick'] else ''}`, the paper's Table 4: {s['model']}; "
        f"crops of {height} x {width} at about the images' own resolution. Entropy and overlap from {r['images']} training patches, one place in "
        f"{r['stride']} x {r['stride']} pixels ({sum(r['cells']):,} of them), {r['settings']['bins']} bins; generators trained on "
        f"{s['generator']['num_images']:,} images each; recognition on "
        f"{measured if s['quick'] else 'whole images of ' + s['eval_split']}, where real features give {real:.2f}.",
        "",
        "| cut after | channels / stride | parameters after it | entropy | overlap | recognition | ratio | minutes |"
        + (" ClassAcc | mIoU |" if gained else ""),
        "|---" * (8 + 2 * gained) + "|",
    ]
    for row in rows:
        score, level = row["recognition"], row["levels"][0]
        cells = [
            row["name"], f"{level['channels']} / {level['reduction']}", f"{row['decoder_share']:.0%}", f"{row['entropy']:.3f}",
            f"{row['hist_iou']:.3f}", f"{score['synthetic']:.2f}", f"{score['ratio']:.2f}", f"{score['seconds'] / 60:.0f}",
        ]  # fmt: skip
        cells += [interval(row["gain"][m]) for m in ("class_acc", "miou")] if gained else []
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", r["why"], ""]
    if s["quick"]:
        lines += [
            "**This is the quick setting**: generators were trained for minutes, without critics, and no model was trained with their features. "
            "It says which stages are easy to begin with, not which cut helps; of one seed, so that neighbours may change places. "
            "Minutes depend on what else the machine did.",
            "",
        ]
    lines += [
        "The paper's, on Cityscapes with PSPNet (its bins and logarithm are not given: compare the order, not the figures):",
        "",
        "| | " + " | ".join(PAPER) + " |",
        "|---|" + "---|" * len(PAPER),
    ]
    heads = ("ratio", "entropy", "overlap", "gain in mIoU")
    for number, head in enumerate(heads):
        values = [x[number] / 86.15 if number == 0 else x[number] for x in PAPER.values()]
        lines.append(f"| {head} | " + " | ".join(f"{value:{'+.2f' if number == 3 else '.2f'}}" for value in values) + " |")
    return "\n".join(lines)


WHEN_NOT = """
## When not to use us

What the tables above say, and what they leave open:

- **Most of the gain over the control is the class weights'.** `deficit_weights` alone, on real samples, costs one pass over the training images and
  no generator. On CamVid it gained as much mIoU as with synthetic features on top; these added 0.3 points of class accuracy there, and 0.4 (with
  0.08 mIoU) on IDD-Lite, for which no setting was chosen. If mIoU is all that counts, begin with the weights.
- **Pixel accuracy falls**, with the weights and a little more with synthetic samples (much more with rare objects pasted in): common classes pay.
  If the common classes matter most, leave both.
- **Features that are recognised as well as real ones teach little.** In the screening, synthetic samples without weights changed nothing beyond
  noise, whichever masks they came from: a generator that was trained on the same images knows no more than the decoder does. Masks from
  elsewhere (rendered scenes, another city) are what it can add; that has not been measured here yet.
- **A generator takes time** (minutes in the table, on two CPU cores; hours at the paper's scale), and its recognition score has to be looked at
  before it is of use.
- Everything here is one small model on small data sets, at a resolution where poles are hardly seen. `feataug compare` tells about yours.
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
    for name, title in (("camvid", "CamVid at its own resolution"), ("idd", "IDD-Lite")):
        file = RESULTS / f"compare-{name}.json"
        parts += [comparison(title, json.loads(file.read_text()))] if file.exists() else []
    runs = [(file.stem.removeprefix("compare-"), json.loads(file.read_text())) for file in sorted(RESULTS.glob("compare-*.json"))]
    runs = [(name, r) for name, r in runs if "differences" in r]
    parts += [fractions(runs)] if any(r["settings"]["fraction"] < 1 for _, r in runs) else []
    for name, draw in (("generator-camvid", generators), ("table4-camvid", table4), ("screen-camvid", screened)):
        file = RESULTS / f"{name}.json"
        parts += [draw(json.loads(file.read_text()))] if file.exists() else []
    others = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("settings-camvid-*.json"))]
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
