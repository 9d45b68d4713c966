"""What in a run calls for a second look: what was seen, from which value on it is said, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from feataug.core.measures import TITLES
from feataug.evaluation.comparison.verdicts import CEILING
from feataug.evaluation.paired_differences import interval, t95
from feataug.evaluation.quality.memory_test import COPIED
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.untrusted import number
from feataug.training.generator_trainer import DIVERSITY_ALARM

LATENT = 0.75
CRITICS = 0.1
RECOGNITION = 0.5
EASY = 1.05
NARROW = 0.1
AVERAGE = 0.75
KL = (0.01, 20.0)
SEEDS = 3
MOST = 50
POINTS = 0.2
LOST = 5.0
UNSEEN = 1.0


@dataclass(frozen=True)
class Finding:
    """One warning.

    Attributes:
        name: Short, for tests and anchors.
        title: What is the matter.
        seen: The figures.
        threshold: From which value on it is said.
        advice: What to do.
    """

    name: str
    title: str
    seen: str
    threshold: str
    advice: str


def findings(run: Run) -> list[Finding]:
    """Every warning that a run's figures give."""
    return [*_generator(run), *_quality(run), *_comparison(run), *_weights(run), *_classes(run), *_course(run)]


def _generator(run: Run) -> Iterator[Finding]:
    score = run.recognition
    lines = [x for each in run.lines.values() for x in each if "l1" in x]
    diversity, latent = score.get("diversity"), _late(lines, "latent")
    if diversity is not None and diversity < DIVERSITY_ALARM:
        seen = f"diversity ratio {diversity:.3f}" + (f", latent L1 {latent:.2f}" if latent is not None else "")
        yield _ignored(seen, f"diversity ratio below {DIVERSITY_ALARM}")
    elif diversity is None and latent is not None and latent >= LATENT:
        threshold = f"latent L1 of {LATENT} or more (0.80: nothing of z is found)"
        yield _ignored(f"latent L1 {latent:.2f}, no diversity ratio measured", threshold)
    critics, gan = _late(lines, "critics"), _late(lines, "gan")
    if critics is not None and gan is not None and gan > 0 and critics < CRITICS * gan:
        yield Finding(
            "critics",
            "The critics overpower the generator",
            f"critics' loss {critics:.3f}, generator's GAN loss {gan:.2f}, in the last quarter of training",
            f"critics' loss below {CRITICS} of the GAN loss",
            "Lower lr or gan_weight, or make the critics smaller (critic_width, critic_scales).",
        )
    ratio = score.get("ratio")
    if ratio is not None and ratio < RECOGNITION:
        yield Finding(
            "recognition",
            "Synthetic features are poorly recognised",
            f"recognition ratio {ratio:.2f}: mIoU {_text(score['synthetic'])} on synthetic features, {_text(score['real'])} on real ones",
            f"ratio below {RECOGNITION} (the paper: 0.86)",
            "Train the generator longer (--images), raise task_weight, or cut the model later; with PixelFilter what is not recognised is left out.",
        )
    elif ratio is not None and ratio > EASY:
        yield Finding(
            "easy",
            "Synthetic features are easier than real ones",
            f"recognition ratio {ratio:.2f}: mIoU {_text(score['synthetic'])} on synthetic features, {_text(score['real'])} on real ones",
            f"ratio above {EASY}",
            "Such features teach little: lower task_weight. If the mIoU on real ones is low, train the base model first.",
        )
    l1 = _late(lines, "l1")
    if l1 is not None and l1 >= AVERAGE:
        yield Finding(
            "reconstruction",
            "The generator hardly does better than each channel's mean",
            f"reconstruction L1 {l1:.2f} in the last quarter of training",
            f"L1 of {AVERAGE} or more (0.80: the mean)",
            "Train longer. If it has stopped falling, raise l1_weight or the generator's width.",
        )
    kl = _late(lines, "kl")
    if kl is not None and not KL[0] <= kl <= KL[1]:
        yield Finding(
            "kl",
            "The latent code is empty" if kl < KL[0] else "The latent code is far from N(0, 1)",
            f"KL {kl:.3g} in the last quarter of training",
            f"KL outside {KL[0]} .. {KL[1]:g}",
            "Lower kl_weight." if kl < KL[0] else "Raise kl_weight: the z that is drawn later is unknown to the generator.",
        )


def _quality(run: Run) -> Iterator[Finding]:
    found = run.quality
    if not found:
        return
    if found["copies"]:
        seen = [
            f"{name}: {_text(test['synthetic'])} from training features, {_text(test['held_out'])} from held-out ones for held-out masks"
            for name, test in found["memory"].items()
        ]
        yield Finding(
            "copies",
            "The generator copies training features",
            "; ".join(seen) or "the memory test says so",
            f"more than {COPIED:.0%} of the samples are less than half as far from a training feature as from one that was not seen",
            "Train it on more images or for fewer steps (--images), or make it smaller. What it makes is no more private than the images.",
        )
    recall, usual = found["recall"], found["reference"]["recall"]
    if recall is not None and usual is not None and recall < NARROW * usual:
        precision, precise = found["precision"], found["reference"]["precision"]
        # Samples that are like no real feature cover none, either, however varied they are.
        strange = precision is not None and precise is not None and precision < NARROW * precise
        also = f"; precision {precision:.3f}, real features get {precise:.2f}" if strange else ""
        yield Finding(
            "narrow",
            "Synthetic features are unlike real ones" if strange else "Synthetic features lack variety",
            f"recall {recall:.3f}; real features get {usual:.2f}{also}",
            f"recall below {NARROW} of what real features get",
            "Most real features are unlike any synthetic one, and a decoder learns little from such samples. "
            + ("Train the generator longer." if strange else "Raise latent_weight or diversity_weight, or train longer."),
        )


def _ignored(seen: str, threshold: str) -> Finding:
    advice = "Raise latent_weight or diversity_weight, or train longer."
    return Finding("z", "The generator seems to ignore z", seen, threshold, advice)


def _comparison(run: Run) -> Iterator[Finding]:
    pairs = len(run.seeds)
    if run.kind in ("demo", "compare") and run.differences and pairs < SEEDS:
        count = max(pairs, 1)
        yield Finding(
            "seeds",
            "A single pair of runs" if count == 1 else "Too few pairs of runs",
            f"{count} seed{'s' * (count > 1)}" + ("; differences of about a point are noise" if count == 1 else ""),
            f"fewer than {SEEDS} seeds",
            "feataug compare --seeds 5 trains more pairs"
            + (" of your model." if run.kind == "demo" else "; those that are done stay."),
        )
    yield from _room(run)
    for arm, gaps in run.differences.items():
        if arm == CEILING:
            continue
        unclear = [m for m in TITLES if gaps[m]["low"] is not None and gaps[m]["low"] <= 0 <= gaps[m]["high"]]
        if unclear:
            yield Finding(
                "zero",
                f"{arm}: intervals hold zero",
                ", ".join(f"{TITLES[m]} {interval(gaps[m])}" for m in unclear) + " points",
                "a 95 % interval with zero in it",
                f"Nothing is shown in these, neither way. {_more(gaps['miou'], pairs)}",
            )
        up, down = gaps["class_acc"], gaps["miou"]
        if up["mean"] is not None and down["mean"] is not None and up["mean"] > POINTS and down["mean"] < -POINTS:
            yield Finding(
                "traded",
                f"{arm}: class accuracy up, mIoU down",
                f"ClassAcc {interval(up)}, mIoU {interval(down)} points",
                f"more than {POINTS} points each way",
                "Rare classes are found more often, and where they are not. Lower ratio or the power of deficit_weights; use one of class "
                "weights and masks chosen by class, not both.",
            )
        pixels = gaps["pixel_acc"]
        if pixels["mean"] is not None and pixels["mean"] < -2 * POINTS and (pixels["high"] is None or pixels["high"] < 0):
            yield Finding(
                "pixels",
                f"{arm}: pixel accuracy falls",
                f"PixelAcc {interval(pixels)} points",
                f"{2 * POINTS} points, with an interval below zero where there is one",
                "Common classes pay for rare ones. If they matter most, leave class weights out and lower ratio.",
            )


def _room(run: Run) -> Iterator[Finding]:
    """Could an arm show a gain here, and is it more than a class bias gives?"""
    ceiling = run.differences.get(CEILING)
    narrow = [m for m in TITLES if ceiling is not None and ceiling[m]["low"] is not None and ceiling[m]["low"] <= 0]
    if ceiling is not None and narrow:
        yield Finding(
            "room",
            "There is no room for a gain",
            ", ".join(f"{TITLES[m]} {interval(ceiling[m])}" for m in narrow) + " points with real features of further labelled images",
            "an interval of the ceiling that is not above zero",
            "Nothing can be said about any arm in these measures. Use fewer labelled images, train for more steps, or run more seeds.",
        )
    for arm, before in run.differences_before_bias.items():
        after = run.differences.get(arm)
        lost = [m for m in TITLES if after is not None and _above(before[m]) and after[m]["low"] is not None and not _above(after[m])]
        if after is not None and lost and arm != CEILING:
            yield Finding(
                "bias",
                f"{arm}: nothing beyond the class bias",
                ", ".join(f"{TITLES[m]} {interval(before[m])} before it, {interval(after[m])} after it" for m in lost) + " points",
                "an interval above zero before the class bias, and not above zero after it",
                "A class bias gives this gain without any training: feataug.fit_class_bias, feataug.Inference(model, class_bias=...).",
            )


def _above(gap: dict[str, Any]) -> bool:
    return gap["low"] is not None and gap["low"] > 0


def _weights(run: Run) -> Iterator[Finding]:
    """Is it the synthetic features that gain, or the class weights that came with them?"""
    beyond = run.beyond_weights
    if beyond is None or any(beyond[m]["low"] is None for m in ("class_acc", "miou")):
        return
    if not any(beyond[m]["low"] > 0 for m in ("class_acc", "miou")):
        yield Finding(
            "weights",
            "Nothing is shown of synthetic features beyond the class weights",
            ", ".join(f"{TITLES[m]} {interval(beyond[m])}" for m in ("class_acc", "miou")) + " points over the weights alone",
            "neither of the two intervals above zero",
            "What is gained over the control, deficit_weights gain without a generator. Look at the recognition score, run more seeds, or use "
            "the weights alone.",
        )


def _more(gap: dict[str, Any], pairs: int) -> str:
    """How many seeds might show a difference as large as the one that was seen."""
    if gap["low"] is None or not gap["low"] <= 0 <= gap["high"] or pairs < 2:
        return "More seeds make intervals narrower."
    spread = (gap["high"] - gap["low"]) / 2 * math.sqrt(pairs) / t95(pairs)
    wanted = next((n for n in range(pairs + 1, MOST + 1) if t95(n) * spread / math.sqrt(n) < abs(gap["mean"])), None)
    if wanted is None:
        return f"The difference in mIoU is so small that {MOST} seeds would not show it."
    return f"If the difference in mIoU is as large as seen, some {wanted} seeds would show it (feataug compare --seeds)."


def _classes(run: Run) -> Iterator[Finding]:
    for arm, gaps in run.differences.items():
        lost = []
        for name, both in gaps["per_class"].items():
            gap = both["iou"]
            if gap["mean"] is not None and (gap["high"] < 0 if gap["high"] is not None else gap["mean"] < -LOST):
                lost.append((gap["mean"], f"{name} {interval(gap)}"))
        if lost:
            yield Finding(
                "lost",
                f"{arm}: classes that lose",
                "IoU of " + ", ".join(text for _, text in sorted(lost)[:8]) + " points",
                f"an interval below zero; without intervals, {LOST:g} points",
                "Look at them in the pictures. Lower ratio, or fit a PixelFilter, which leaves out synthetic pixels that are not recognised.",
            )
    arms = run.arms
    last = arms.get("feataug") or next(reversed(arms.values()), None)
    unseen = [name for name, x in last["per_class"].items() if x["iou"] is not None and x["iou"] < UNSEEN] if last else []
    if unseen:
        yield Finding(
            "unseen",
            "Classes that are never recognised",
            ", ".join(unseen[:12]) + (f" and {len(unseen) - 12} more" if len(unseen) > 12 else ""),
            f"IoU below {UNSEEN:g} %",
            "The base model is too weak, or they are too small at this size: train it longer, at a larger --size, with class weights.",
        )


def _course(run: Run) -> Iterator[Finding]:
    results = [run.result, *(x for lines in run.lines.values() for x in lines)]
    bad = max((number(x.get("bad_samples")) or 0 for x in results), default=0)
    if bad > 0:
        yield Finding(
            "bad",
            "Samples were skipped that cannot be read",
            f"bad_samples {bad:g}: others were taken in their place",
            "more than none",
            'Read the warnings of the run, and mend or remove those files: feataug.data.seeded_loader(on_bad_sample="raise") names the first.',
        )
    for name, lines in run.lines.items():
        broken = sorted({key for x in lines for key, value in x.items() if isinstance(value, float) and number(value) is None})
        if broken:
            yield Finding(
                "finite",
                f"{name}: values that are not finite",
                ", ".join(broken[:8]),
                "any",
                "Lower lr, or train without mixed_precision.",
            )
    goal = number(run.settings.get("num_images")) or number(run.settings.get("num_steps"))
    reached = max((number(x["progress"]) or 0 for lines in run.lines.values() for x in lines), default=None)
    if run.command.get("finished") is False or (run.kind == "training" and goal and reached and reached < goal):
        yield Finding(
            "stopped",
            "The run has not finished",
            f"{reached or 0:g} of {goal:g}" if goal else "stopped",
            "less than all of it",
            "Give the same command again: it goes on from its last checkpoint.",
        )


def _late(lines: list[dict[str, Any]], name: str) -> float | None:
    """Mean over the last quarter of the lines that have a value."""
    values = [value for x in lines if (value := number(x.get(name))) is not None]
    late = values[-max(len(values) // 4, 1) :]
    return sum(late) / len(late) if late else None


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
