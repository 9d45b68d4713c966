"""Tables of docs/whole-images.md about generators and the choice of the cut: from a study's figures to Markdown."""

from __future__ import annotations

from docs.drawing.words import seeds
from feataug.evaluation.paired_differences import interval


def generators(r: dict, half: bool = False) -> str:
    """The generator's ablation, one line for each variant."""
    lines = [
        "",
        "## CamVid: what makes a generator better" + (", at half the resolution" if half else ""),
        "",
        f"`python -m studies.own.generator --data CamVid --dataset camvid{' --half' if half else ''}`: one change at a time, {r['images']:,} images "
        "each. That is too few to converge: the table shows which variant learns faster. "
        f"Crops of {'112 x 144 at half' if half else '224 x 288 at about'} the images' own resolution, measured on whole validation images. "
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


def table4(r: dict, again: bool = False) -> str:
    """Where to cut: statistics, recognition and, where it was measured, gain at several stages; ``again``: of another base model."""
    s, rows = r["study"], r["stages"]
    height, width = s["size"]
    real, measured = rows[0]["recognition"]["real"], f"{s['measured']} crops of {s['eval_split']}"
    gained = "gain" in rows[0]
    half = s.get("half", False)
    option = " --quick" if s["quick"] else " --half" if half else ""
    if gained and len(rows) < 8:
        option += " --places " + " ".join(row["name"] for row in rows)
    lines = [
        "",
        "## CamVid: where to cut"
        + (", a first look" if s["quick"] else ", at half the resolution" if half else ", another base model" if again else ""),
        "",
        f"`python -m studies.paper.table4 --data CamVid --dataset {s['data']}{option}`, the paper's Table 4: {s['model']}; "
        f"crops of {height} x {width} at "
        f"about {'half ' if half else ''}the images' own resolution. Entropy and overlap from {r['images']} training patches, one place in "
        f"{r['stride']} x {r['stride']} pixels ({sum(r['cells']):,} of them), {r['settings']['bins']} bins; generators trained on "
        f"{s['generator']['num_images']:,} images each; recognition on "
        f"{measured if s['quick'] else 'whole images of ' + s['eval_split']}, where real features give {real:.2f}."
        + (
            f" ClassAcc and mIoU: the model trained with each stage's features, minus the control, {seeds(r['seeds'])}."
            if gained
            else ""
        ),
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
            "It shows which stages are easy at first, not which cut helps. It is one seed, so neighbours may change places.",
            "",
        ]
    if half or again:
        return "\n".join(lines[:-1])
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
