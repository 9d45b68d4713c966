"""Tables of docs/results.md about what features teach. Each takes a study's figures and returns Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.drawing.words import data_title, seeds
from feataug.core.measures import TITLES
from feataug.evaluation.paired_differences import difference, interval
from studies.lib.setups import SETUPS
from studies.own.teaching import STEPS

NAMES = {"real": "real features", "generator": "a flow (the default)", "gaussians": "class Gaussians", "bicyclegan": "a BicycleGAN"} | {
    f"generator, {kind} masks": f"a flow, half of its masks {kind}" for kind in ("composed", "balanced")
}
NAMES |= {
    "kept": "one encoded view of each image",
    "kept and generator": "these views and a flow, half and half",
    "kept and gaussians": "these views and class Gaussians, half and half",
    "kept, mirrored": "these views, mirrored at random",
}
# A class counts if real features teach it at least so much (IoU in percent).
TAUGHT = 10.0


def teaching(name: str, r: dict[str, Any]) -> str:
    """What fresh decoders learn from each source."""
    s, found = r["settings"], r["teaching"]
    score = r["generator"][s["eval_split"]]
    option = " --half" if s["half"] else ""
    option += {"fpn": " --model fpn", "vit": " --model vit"}.get(name.rpartition("-")[2], "")
    # Models of other kinds have numbers of steps of their own.
    if s["model"].startswith("PSPNet") and s["base"]["num_steps"] != SETUPS[s["data"]].base_steps:
        option += f" --steps {s['base']['num_steps']}"
    if s["steps"]["num_steps"] != STEPS.num_steps:
        option += f" --decoder-steps {s['steps']['num_steps']}"
    option += f" --kept {s['kept']['views']}" if "kept" in s else ""
    lines = [
        "",
        f"### {data_title(name)}",
        "",
        "```sh",
        f"python -m studies.own.teaching --data DIR --dataset {s['data']}{option}",
        "```",
        "",
        f"{s['model']}; decoders after `{s['at']}`, "
        f"{s['steps']['num_steps']} steps of {s['batch']}, {seeds(s['seeds'])}.",
        "",
        "| a fresh decoder is trained on | PixelAcc | ClassAcc | mIoU | share of the real features' mIoU | before the class bias: mIoU | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for source, parts in found["sources"].items():
        after, before, share = parts["after"], parts["before"], found["score"][source]
        lines.append(
            f"| {NAMES.get(source, source)} | {after['pixel_acc']:.2f} | {after['class_acc']:.2f} | {after['miou']:.2f} | {share['after']:.3f} | "
            f"{before['miou']:.2f} | {share['before']:.3f} |"
        )
    lines += ["", *_gaps(found["seeds"])]
    images = sum(config["num_images"] for config in s["generator"])
    # Of a training that was interrupted, only the last part was timed.
    whole = "generator" not in s.get("seconds_of_the_last_part_only", ())
    minutes = f" in {s['seconds']['generator'] / 60:.0f} minutes of one thread beside other jobs" if whole else ""
    weights = r["generator"]["parameters"] / 1e6
    lines += [
        "",
        f"The flow was trained on {images:,} images{minutes}; {weights:.1f} M weights. "
        f"Recognition on masks that it has not seen: {score['synthetic']:.2f} of {score['real']:.2f} (ratio {score['ratio']:.2f}), "
        f"diversity {score['diversity']:.2f}.",
        "",
        classes(found["sources"]),
        "",
        quality(r["quality"]),
    ]
    return "\n".join(lines)


def _gaps(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The flow against the other sources of synthetic features, on paired seeds."""
    ours = [run["generator"]["after"]["miou"] for run in runs]
    others = {name: NAMES.get(name, name) for name in runs[0] if name not in ("seed", "real", "generator")}
    gaps = {text: difference([run[name]["after"]["miou"] for run in runs], ours) for name, text in others.items()}
    return ["mIoU of the flow minus that of " + "; ".join(f"{text}: {interval(gap)}" for text, gap in gaps.items()) + "."] if gaps else []


def images_gone(r: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of images that are gone: sizes in megabytes, and gains over the kept views with intervals."""
    runs, rows = r["teaching"]["seeds"], []
    for name in ("kept, mirrored", "kept and gaussians", "gaussians", "kept and generator", "generator", "real"):
        gaps = (difference([run["kept"]["after"][m] for run in runs], [run[name]["after"][m] for run in runs]) for m in TITLES)
        rows.append(f"| {NAMES[name]} | " + " | ".join(interval(gap) for gap in gaps) + " |")
    head = [f"| minus one encoded view of each image | {' | '.join(TITLES.values())} |", "|---" * (len(TITLES) + 1) + "|"]
    return {
        "table": "\n".join([*head, *rows]),
        "megabytes": r["settings"]["kept"]["bytes"] / 1e6,
        "generator": 2 * r["generator"]["parameters"] / 1e6,
    }


def classes(sources: Mapping[str, Any]) -> str:
    """IoU by class, for the classes that real features teach."""
    real = sources["real"]["after"]["per_class"]
    known = [name for name, values in real.items() if values is not None and values["iou"] > TAUGHT]
    lines = [
        f"IoU of the classes that real features teach (above {TAUGHT:.0f}):",
        "",
        "| trained on | " + " | ".join(known) + " |",
        "|---" * (len(known) + 1) + "|",
    ]
    for source, parts in sources.items():
        figures = " | ".join(f"{parts['after']['per_class'][name]['iou']:.1f}" for name in known)
        lines.append(f"| {NAMES.get(source, source)} | {figures} |")
    return "\n".join(lines)


def quality(q: dict[str, Any]) -> str:
    """Distances in feature space, with what real features get."""
    real, memory = q["reference"], q["memory"]
    lines = ["| by `feature_quality` | synthetic features | real features of training images |", "|---|---|---|"]
    for key, text in (("frechet", "Fréchet distance"), ("precision", "precision"), ("recall", "recall")):
        lines.append(f"| {text} | {q[key]:.2f} | {real[key]:.2f} |")
    memory_test = "copies training features" if memory["copies"] else "no sign of copying"
    return "\n".join([*lines, "", f"Memory test: {memory_test}."])


def variants(r: Mapping[str, Any]) -> str:
    """Everything that was tried for the flow."""
    lines = [
        "### What was tried",
        "",
        f"{r['about']} ([teaching-variants-camvid-half.json](../studies/results/teaching-variants-camvid-half.json)). Two runs on one seed, with "
        "other noise, have differed by nearly two points of mIoU: only large differences mean anything.",
        "",
        "| variant | evaluations a sample | images | mIoU (seed) | share | cost of a sample | minutes | held-out loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in r["teaching"]:
        runs = ", ".join(f"{run['miou']:.2f} ({run['seed']})" for run in line["runs"])
        lines.append(
            f"| {line['variant']} | {line['evaluations'] or '-'} | {_cell(line['images'], ',')} | {runs} | {line['share']:.3f} | "
            f"{_cell(line['sampling'], '.2f')} | {_cell(line['minutes'], '.1f')} | {_cell(line['held_out'], '.3f')} |"
        )
    lines += [
        "",
        "Before, by the held-out loss alone:",
        "",
        "| variant | images | held-out loss | minutes | cost of an evaluation |",
        "|---|---|---|---|---|",
    ]
    for line in r["screen"]:
        lines.append(f"| {line['variant']} | {line['images']:,} | {line['held_out']:.3f} | {line['minutes']:.1f} | {line['evaluation']:.2f} |")
    return "\n".join(lines)


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
