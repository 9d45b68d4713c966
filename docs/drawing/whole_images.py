"""Write docs/whole-images.md, the appendix, from studies/results/whole-images/*.json: ``python -m docs.drawing.whole_images``.

``--check`` compares only. Further tables are in docs/drawing/whole_images_arms.py and generator_tables.py, plots in figures.py.
"""

from __future__ import annotations

import json
from functools import partial

from docs.drawing.generator_tables import generators, table4
from docs.drawing.page import wrap, write_or_check
from docs.drawing.whole_images_arms import RESULTS, comparison, fractions, screened, studies
from feataug.core.measures import TITLES
from feataug.evaluation import verdict
from feataug.evaluation.paired_differences import interval


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
        "In both arms BatchNorm's running statistics were measured again on the real training images after training (`update_bn`). Without that, "
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
        "`python -m studies.own.architectures --data CamVid --model fpn|vit` runs the same pipeline with a pyramid and with tokens, briefly, "
        f"to show that it works, not how good it can be. {first['data']}, measured on {first['eval_split']}; {first['device']}. "
        "One seed. Differences of about one point "
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


HEAD = """# Appendix: earlier tables, measured on whole images

<!-- Drawn by docs/drawing/whole_images.py from studies/results/whole-images/*.json; do not edit. -->

**Draw no conclusion about arms from this page.** These tables are older than the [protocol](results.md#how-we-measure). At half the resolution
models were measured on images whose size the output stride does not divide, which cost them {windows:.0f} to {padded:.0f} points of mIoU, and more
in rare classes. At CamVid's own resolution it cost less than a point. No arm had a class bias. Class weights, which raise rare classes, gained
some of these points back; that is most of the difference between arms below. No table had a positive control. (`camvid` and the other
architectures were measured at the size of their crops, without a class bias.) The figures stay because they were published, and because they show
how a protocol can mislead.

"""


def page() -> str:
    how = (
        "`python -m studies.own.camvid --data CamVid` writes [camvid.json](../studies/results/whole-images/camvid.json). The control is the "
        "same model *trained further* on real images only, which the paper does not report.\n"
    )
    means = json.loads((RESULTS.parent / "protocol-camvid-half.json").read_text())["means"]["base"]
    cost = {way: means[way]["miou"] - means["whole"]["miou"] for way in ("windows", "padded")}
    parts = [HEAD.format(**cost) + how, camvid(json.loads((RESULTS / "camvid.json").read_text()))]
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
    return wrap("\n".join(parts) + "\n")


if __name__ == "__main__":
    write_or_check({"whole-images.md": page()}, "whole_images")
