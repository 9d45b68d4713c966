"""Tables of docs/whole-images.md that compare arms: from a study's figures to Markdown."""

from __future__ import annotations

import json
from pathlib import Path

from docs.drawing.words import data_title, seeds
from feataug.core.measures import TITLES
from feataug.evaluation import differences
from feataug.evaluation.paired_differences import interval

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "whole-images"


def comparison(title: str, name: str, r: dict) -> str:
    """Base, generator and, where they have been run, all arms."""
    s, score = r["settings"], r["recognition"]
    rows, columns = s["size"]
    seen = score["on_training_masks"]
    lines = [
        "",
        f"## {title}",
        "",
        f"`python -m studies.own.compare --data DIR --dataset {s['data']}{' --half' if s.get('half') else ''}`: {s['model']}; {s['images']} training "
        f"images, crops of {rows} x {columns} at about {'half ' if s.get('half') else ''}the images' own resolution, batches of {s['batch']}; "
        f"measured on whole images of {s['eval_split']}{', as small' if s.get('half') else ''}; {s['device']}.",
        "",
        "| features on masks of | real, mIoU | synthetic, mIoU | ratio | diversity ratio |",
        "|---|---|---|---|---|",
    ]
    for part, x in ((f"{s['eval_split']} (never seen by the generator)", score), ("train", seen)):
        lines.append(f"| {part} | {x['real']:.2f} | {x['synthetic']:.2f} | {x['ratio']:.3f} | {x['diversity']:.3f} |")
    curve = ", ".join(f"{c['ratio']:.2f} after {c['images']:,}" for c in score["curve"])
    lines += ["", f"The ratio while the generator trained: {curve} images.", ""]
    shown = "recognition and diversity ratio while the generator trained; dotted: the least that is wanted"
    picture = f"figures/recognition-{name}.svg"
    lines += [f"![{title}: {shown}]({picture})", ""]
    made, real = score["measures"]["synthetic"]["per_class"], r["base"]["per_class"]
    lines += ["| IoU | " + " | ".join(real) + " |", "|---|" + "---|" * len(real)]
    for kind, x in (("real features", real), ("synthetic features", made)):
        lines.append(f"| {kind} | " + " | ".join("-" if c["iou"] is None else f"{c['iou']:.0f}" for c in x.values()) + " |")
    if "differences" not in r:
        return "\n".join([*lines, "", "The arms have not been run at this setting yet."])
    lines += [
        "",
        f"Means over {len(r['seeds'])} paired seeds; differences from the control in points, with 95 % intervals where there are two seeds:",
        "",
    ]
    lines += ["| arm | " + " | ".join(TITLES.values()) + " |", "|---|" + "---|" * len(TITLES)]
    lines.append("| base | " + " | ".join(f"{r['base'][m]:.2f}" for m in TITLES) + " |")
    lines += [f"| {arm} | " + " | ".join(f"{x[m]:.2f}" for m in TITLES) + " |" for arm, x in r["arms"].items()]
    lines += ["", "| minus control | " + " | ".join(TITLES.values()) + " | minutes |", "|---|" + "---|" * (len(TITLES) + 1)]
    for arm, gaps in r["differences"].items():
        minutes = sum(entry[arm]["seconds"] for entry in r["seeds"]) / len(r["seeds"]) / 60
        lines.append(f"| {arm} | " + " | ".join(interval(gaps[m]) for m in TITLES) + f" | {minutes:.1f} |")
    lines += ["", "| IoU minus control's | " + " | ".join(real) + " |", "|---|" + "---|" * len(real)]
    for arm, gaps in r["differences"].items():
        found = [gaps["per_class"].get(k, {}).get("iou", {}).get("mean") for k in real]
        lines.append(f"| {arm} | " + " | ".join("-" if x is None else f"{x:+.1f}" for x in found) + " |")
    lines += ["", f"![{title}: each arm minus the control, with intervals, by measure and by class](figures/arms-{name}.svg)"]
    baselines = [name for name in r["differences"] if name != "feataug"]
    if baselines:
        lines += ["", "feataug minus each of the others, the same pairs:", ""]
        lines += ["| feataug minus | " + " | ".join(TITLES.values()) + " |", "|---|" + "---|" * len(TITLES)]
        behind = {"class_acc": [], "miou": []}
        for baseline in baselines:
            gap = differences([entry[baseline] for entry in r["seeds"]], [entry["feataug"] for entry in r["seeds"]])
            lines.append(f"| {baseline} | " + " | ".join(interval(gap[m]) for m in TITLES) + " |")
            for measure, names in behind.items():
                if gap[measure]["mean"] <= 0:
                    names.append(baseline)
        ahead = (f"{TITLES[m]} of all but {', '.join(names)}" if names else f"{TITLES[m]} of all" for m, names in behind.items())
        lines += ["", f"In the mean feataug is ahead in {', in '.join(ahead)}."]
    f = s["feataug"]
    control = sum(entry["control"]["seconds"] for entry in r["seeds"]) / len(r["seeds"]) / 60
    resumed = " (its last part alone: it was stopped and went on)" if "generator" in r["seconds_of_the_last_part_only"] else ""
    lines += [
        "",
        f"feataug: masks `{f['masks']}` (`Comparison.masks` in studies/lib/comparison.py), {100 * f['ratio']:.0f} % synthetic, pixels filtered at "
        f"{f['filter']} times their class's loss, class weights by deficit to the power of {f['power']}. *class weights* are the same weights on "
        f"real samples alone. Minutes depend on what else the machine did while an arm ran; benchmarks compare steps. "
        f"The control took {control:.1f} minutes ({s['threads']} threads); the generator "
        f"{r['seconds'].get('generator', 0) / 60:.0f}{resumed}, once for all seeds.",
        "",
        r["verdict"],
    ]
    return "\n".join(lines)


def fractions(results: list[tuple[str, dict]]) -> str:
    """The gain by the number of labelled images."""
    lines = [
        "",
        "## The gain, by the number of labelled images",
        "",
        "`python -m studies.own.compare --fraction 0.25` takes a quarter of them, for the base model, the generator and the arms alike.",
        "",
        "| data | images | seeds | base, mIoU | recognition | "
        + " | ".join(f"feataug, {TITLES[m]}" for m in ("class_acc", "miou"))
        + " | class weights alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, r in results:
        gaps = r["differences"]
        alone = (
            f"{interval(gaps['class weights']['class_acc'])}, {interval(gaps['class weights']['miou'])}"
            if "class weights" in gaps
            else "-"
        )
        lines.append(
            f"| {data_title(name)} | {r['settings']['images']} | {len(r['seeds'])} | {r['base']['miou']:.2f} | {r['recognition']['ratio']:.2f} | "
            f"{interval(gaps['feataug']['class_acc'])} | {interval(gaps['feataug']['miou'])} | {alone} |"
        )
    return "\n".join(lines)


# The paper's tables and figures whose arms are feataug with one thing changed.
STUDIES = {
    "table1": "Table 1: images against features, and additional masks",
    "table3": "Table 3: encoded masks or small masks",
    "table5": "Table 5: additional masks, 1 : 3",
    "fig7": "Fig. 7: the synthetic share",
    "fig8": "Fig. 8: hard negatives",
    "settings": "feataug's settings, and its features without class weights",
}


def studies() -> str:
    """Arms of the studies, all measures."""
    lines: list[str] = []
    for name, title in STUDIES.items():
        for file in sorted(RESULTS.glob(f"{name}-*.json"), key=lambda file: file.stem):
            r = json.loads(file.read_text())
            if "comparison" not in r:
                continue
            s = r["settings"]
            rows, columns = s["size"]
            options = " --half" if s.get("half") else ""
            options += f" --fraction {s['fraction']:g}" if s.get("fraction", 1) < 1 else ""
            lines += [
                "",
                f"### {title} ({data_title(file.stem.removeprefix(name + '-'))})",
                "",
                f"`python -m studies.{'own' if name == 'settings' else 'paper'}.{name} --data DIR --dataset {s['data']}{options}`: "
                f"{s['images']} training images, "
                f"crops of {rows} x {columns}, {seeds(r['comparison']['seeds'])}; minus the control of the same seed, in points.",
                "",
                "| arm | " + " | ".join(TITLES.values()) + " |",
                "|---|" + "---|" * len(TITLES),
            ]
            for arm, gaps in r["comparison"]["differences"].items():
                lines.append(f"| {arm} | " + " | ".join(interval(gaps[m]) for m in TITLES) + " |")
            if name == "fig7":
                lines += [
                    "",
                    f"![Gains over the control by the synthetic share of a batch, with intervals](figures/{file.stem}.svg)",
                ]
    return "\n".join(["", "## The paper's tables and figures, arm by arm", *lines]) if lines else ""


def screened(r: dict) -> str:
    """The screening of mask sources and mixing settings."""
    lines = [
        "",
        "## CamVid: screening with the encoder frozen",
        "",
        "`python -m studies.own.screen`: the decoder alone, on cached features, paired seeds; differences from "
        "the control in points. A gain here is a reason to try a setting, not a result. "
        "Masks: `random` from the training set; `both` drawn by class, with rare objects pasted in; "
        "`mined` hard negatives; `control` none. `power`: of `deficit_weights`, measured once, on all samples.",
        "",
        "Tried, and removed again: `synthetic_balance`, synthetic pixels weighted by the inverse area of their class to that power; `inverse_area`, "
        "the same on real ones; `deficit`, as `power`, but on synthetic pixels alone unless `real=1`; `followed`, deficits followed during training.",
        "",
        "| masks, settings | " + " | ".join(TITLES.values()) + " | seeds |",
        "|---|" + "---|" * (len(TITLES) + 1),
    ]
    for name, gaps in r["differences"].items():
        lines.append(f"| {name} | " + " | ".join(f"{gaps[m]['mean']:+.2f}" for m in TITLES) + f" | {len(r['runs'][name])} |")
    return "\n".join(lines)
