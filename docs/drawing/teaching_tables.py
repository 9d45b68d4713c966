"""Tables of docs/results.md about what features teach. Each takes a study's figures and returns Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.drawing.words import NAMES as DATA
from docs.drawing.words import data_title, seeds
from feataug.core.measures import TITLES
from feataug.evaluation.paired_differences import difference, interval
from feataug.training.config import GeneratorConfig
from studies.lib.comparison import Comparison
from studies.lib.setups import SETUPS
from studies.own.teaching import SEEDS, STEPS

NAMES = {"real": "real features", "generator": "a flow", "gaussians": "class Gaussians", "bicyclegan": "a BicycleGAN"} | {
    f"generator, {kind} masks": f"a flow, half of its masks {kind}" for kind in ("composed", "balanced")
}
NAMES |= {"generator, matched": "the same flow, its covariances matched"}
NAMES |= {
    "kept": "one encoded view of each image",
    "kept and generator": "these views and a flow, half and half",
    "kept and gaussians": "these views and class Gaussians, half and half",
    "kept, mirrored": "these views, mirrored at random",
}
# What else one could do with the kept views; each on the same base model as the views alone beside it.
ALTERNATIVES = {
    "kept, CutMix": "these views, CutMix of their features",
    "kept, ClassMix": "these views, ClassMix of their features",
    "kept, noise": "these views with noise",
    "kept, label smoothing": "these views, label smoothing",
    "kept, OHEM": "these views, OHEM",
    "kept, class weights": "these views, class weights",
}
NAMES |= ALTERNATIVES
LONGER = "trained on 120,000 images"
STEPS_4 = "four steps a sample"
DISTILLED = "distilled"
NAMES |= {
    "generator-48k-4": f"a flow, {STEPS_4}",
    "generator-48k-distilled": f"a flow, {DISTILLED}",
    "24k-4": f"a flow, {STEPS_4}",
    "24k-8": "a flow, eight steps a sample",
    "white-48k": f"a flow from white noise, {DISTILLED}",
    "24k-distilled": f"a flow on 30,000 images, {DISTILLED}",
    "generator-120k": f"a flow, {LONGER}",
    "generator-120k-4": f"a flow, {LONGER}, {STEPS_4}",
    "kept and generator-120k": f"these views and a flow, {LONGER}, half and half",
    "kept and generator-120k-4": f"these views and a flow, {LONGER}, {STEPS_4}, half and half",
}
FURTHER = (
    " No flow was distilled but the one that says so, with the default `distill_share`. Of the further generators, those with 120k are this study's "
    "with `--generator-images 120000`; those that end in a number of steps were loaded with "
    "`FeatureGenerator.from_pretrained(folder, steps=...)` and saved again."
)
OTHERS_NOISE = " Colored noise has the correlations that features have between channels. The other flow is this study's without `--colored-noise`."
# The order of the tables of gains over the kept views.
SHOWN = (
    "kept, mirrored", "kept and gaussians", "gaussians", "kept and generator", "kept and generator-120k", "kept and generator-120k-4", "generator",
    "generator-48k-4", "generator-48k-distilled", "generator-120k", "generator-120k-4", "real",
)  # fmt: skip
# A class counts if real features teach it at least so much (IoU in percent).
TAUGHT = 10.0


def titles(r: Mapping[str, Any]) -> dict[str, str]:
    """What each source of a study is called: its generator is a flow from colored noise or, as before that was the default, from white noise."""
    configs = r["settings"]["generator"]
    if any(config.get("colored_noise") for config in configs):
        colored = f"a flow from colored noise, {DISTILLED}"
        return NAMES | {"generator": colored, "generator, matched": f"{colored}, its covariances matched"}
    if not any(config.get("distill_share") for config in configs):
        return NAMES
    return NAMES | {
        "generator": f"a flow, {DISTILLED}", "kept and generator": f"these views and a flow, {DISTILLED}, half and half",
    }  # fmt: skip


def unusual_images(settings: Mapping[str, Any]) -> int | None:
    """How many images a study's flow was trained on, if they are not as many as usual."""
    images = [config["num_images"] for config in settings["generator"]]
    usual = Comparison.generator_configs[0].num_images * (2 if settings["half"] else 1)
    return images[0] if images and images[0] != usual else None


def teaching(name: str, r: dict[str, Any]) -> str:
    """What fresh decoders learn from each source."""
    s, found, names = r["settings"], r["teaching"], titles(r)
    option = " --half" if s["half"] else ""
    option += "".join(f" --model {model}" for model in ("fpn", "vit") if model in name.split("-"))
    if s["base"]["num_steps"] != SETUPS[s["data"]].base_steps:
        option += f" --steps {s['base']['num_steps']}"
    if s["steps"]["num_steps"] != STEPS.num_steps:
        option += f" --decoder-steps {s['steps']['num_steps']}"
    share = [config.get("distill_share", 0.0) for config in s["generator"]]
    option += f" --distill-share {share[0]:g}" if share and share[0] != GeneratorConfig().distill_share else ""
    colored = any(config.get("colored_noise") for config in s["generator"])
    option += " --colored-noise" if colored else ""
    images = unusual_images(s)
    option += f" --generator-images {images}" if images else ""
    option += f" --seeds {' '.join(map(str, s['seeds']))}" if s["seeds"] != SEEDS else ""
    option += " --bicyclegan" if "bicyclegan" in found["sources"] else ""
    masks = [kind for kind in ("balanced", "composed") if f"generator, {kind} masks" in found["sources"]]
    option += f" --masks {' '.join(masks)}" if masks else ""
    option += f" --kept {s['kept']['views']}" if "kept" in s else ""
    further = [source for source in found["sources"] if source.startswith(("generator-", "24k-", "white-"))]
    option += " --generators " + " ".join(f"{source}-model" for source in further) if further else ""
    option += " --matched" if "generator, matched" in found["sources"] else ""
    option += " --alternatives" if set(ALTERNATIVES) & set(found["sources"]) else ""
    every = {"real", "generator", "gaussians"} | ({"kept", "kept and generator", "kept and gaussians", "kept, mirrored"} if "kept" in s else set())
    if not every <= found["sources"].keys() or further:
        option += " --only " + " ".join(f'"{source}"' if " " in source else source for source in found["sources"] if source != "real")
    lines = [
        "",
        f"### {data_title(name)}",
        "",
        "```sh",
        f"python -m studies.own.teaching --data DIR --dataset {s['data']}{option}",
        "```",
        "",
        f"{s['model']}; decoders after `{s['at']}`, "
        f"{s['steps']['num_steps']} steps of {s['batch']}, {seeds(s['seeds'])}."
        + FURTHER * (bool(further) and not colored)
        + OTHERS_NOISE * (bool(further) and colored),
        "",
        "| a fresh decoder is trained on | PixelAcc | ClassAcc | mIoU | share of the real features' mIoU | before the class bias: mIoU | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for source, parts in found["sources"].items():
        after, before, share = parts["after"], parts["before"], found["score"][source]
        lines.append(
            f"| {names.get(source, source)} | {after['pixel_acc']:.2f} | {after['class_acc']:.2f} | {after['miou']:.2f} | {share['after']:.3f} | "
            f"{before['miou']:.2f} | {share['before']:.3f} |"
        )
    if "generator" in r:
        lines += ["", *_gaps(found["seeds"], names), *_flow(r)]
    lines += ["", classes(found["sources"], names)]
    if "quality" in r:
        lines += ["", quality(r["quality"])]
    return "\n".join(lines)


def _flow(r: Mapping[str, Any]) -> list[str]:
    """How the flow was trained, and how well its features are recognised."""
    s, score = r["settings"], r["generator"][r["settings"]["eval_split"]]
    images = sum(config["num_images"] for config in s["generator"])
    # Of a training that was interrupted, only the last part was timed.
    whole = "generator" not in s.get("seconds_of_the_last_part_only", ())
    minutes = f" in {s['seconds']['generator'] / 60:.0f} minutes of one thread beside other jobs" if whole else ""
    weights = r["generator"]["parameters"] / 1e6
    return [
        "",
        f"The flow was trained on {images:,} images{minutes}; {weights:.1f} M weights. "
        f"Recognition on masks that it has not seen: {score['synthetic']:.2f} of {score['real']:.2f} (ratio {score['ratio']:.2f}), "
        f"diversity {score['diversity']:.2f}." + _held_out(r.get("held_out", {}), titles(r)),
    ]


def _held_out(losses: Mapping[str, float], names: Mapping[str, str]) -> str:
    """The loss of flows on held-out images, where several are compared."""
    named = [f"{loss:.3f} of {names[name]}" for name, loss in losses.items()]
    return f" Loss on windows of held-out images: {', '.join(named)}." if len(named) > 1 else ""


def _gaps(runs: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    """The flow against the other sources of synthetic features, on paired seeds."""
    ours = [run["generator"]["after"]["miou"] for run in runs]
    others = {name: names.get(name, name) for name in runs[0] if name not in ("seed", "real", "generator")}
    gaps = {text: difference([run[name]["after"]["miou"] for run in runs], ours) for name, text in others.items()}
    return ["mIoU of the flow minus that of " + "; ".join(f"{text}: {interval(gap)}" for text, gap in gaps.items()) + "."] if gaps else []


def images_gone(r: Mapping[str, Any]) -> str:
    """What is left of images that are gone: sizes, and gains over the kept views with intervals."""
    kept, generator = r["settings"]["kept"]["bytes"] / 1e6, 2 * r["generator"]["parameters"] / 1e6
    about = (
        f"{DATA[r['settings']['data']]}, {r['settings']['images']:,} images: a view of each takes {kept:.0f} MB as float16, without the masks; "
        f"a generator {generator:.1f} MB."
    )
    return f"{about}\n\n{gains_over_views(r, SHOWN)}"


def gains_over_views(r: Mapping[str, Any], names: Sequence[str]) -> str:
    """Sources of features minus one encoded view of each image, on the same base model and seeds; those that there are."""
    runs, rows = r["teaching"]["seeds"], []
    for name in names:
        if name in runs[0]:
            gaps = (difference([run["kept"]["after"][m] for run in runs], [run[name]["after"][m] for run in runs]) for m in TITLES)
            rows.append(f"| {titles(r)[name]} | " + " | ".join(interval(gap) for gap in gaps) + " |")
    return "\n".join([f"| minus one encoded view of each image | {' | '.join(TITLES.values())} |", "|---" * (len(TITLES) + 1) + "|", *rows])


def classes(sources: Mapping[str, Any], names: Mapping[str, str]) -> str:
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
        lines.append(f"| {names.get(source, source)} | {figures} |")
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


def learning_rates(r: Mapping[str, Any]) -> str:
    """The loss of flows on held-out images, by learning rate and length of training."""
    s, lengths = r["settings"], sorted({run["images"] for run in r["runs"]})
    found = {(run["lr"], run["images"]): run["held_out"] for run in r["runs"]}
    option = " --half" if s["half"] else ""
    lines = [
        "### How fast a flow learns",
        "",
        f"`python -m studies.own.learning_rates --data DIR --dataset {s['data']}{option} --images {' '.join(map(str, lengths))}`: {s['model']}, "
        f"cut at `{s['at']}`; the loss on windows of validation images by the number of training crops, each seen once but for a last batch. The "
        f"default rate is {GeneratorConfig().lr:g}. What these flows teach was not measured.",
        "",
        "| learning rate | " + " | ".join(f"{images:,} images" for images in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for rate in dict.fromkeys(run["lr"] for run in r["runs"]):
        lines.append(f"| {rate:g} | " + " | ".join(_cell(found.get((rate, images)), ".3f") for images in lengths) + " |")
    return "\n".join(lines)


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
