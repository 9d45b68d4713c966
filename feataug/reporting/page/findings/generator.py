"""Warnings about a generator: its training, its recognition score, and the quality of its features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from feataug.evaluation.quality.memory_test import COPIED
from feataug.reporting.page.findings.finding import Finding, two_digits
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.untrusted import as_number
from feataug.training.generator_trainer import DIVERSITY_ALARM

LATENT = 0.75
CRITICS = 0.1
RECOGNITION = 0.5
EASY = 1.05
NARROW = 0.1
AVERAGE = 0.75
RISEN = 1.02
KL = (0.01, 20.0)


def findings(run: Run) -> Iterator[Finding]:
    """The warnings that a generator's figures give."""
    every = [x for each in run.lines.values() for x in each]
    lines = [x for x in every if "l1" in x]
    is_flow = run.settings.get("objective") == "flow" or any("flow" in x for x in every)
    vary = "Train longer." if is_flow else "Raise latent_weight or diversity_weight, or train longer."
    yield from _latent_code(run.recognition.get("diversity"), lines, vary)
    yield from _critics(lines)
    yield from _recognition(run.recognition, is_flow)
    yield from _reconstruction(lines)
    yield from _held_out([value for x in every if (value := as_number(x.get("held_out"))) is not None])
    yield from _quality(run.quality, vary)


def _latent_code(diversity: float | None, lines: list[dict[str, Any]], advice: str) -> Iterator[Finding]:
    title = "The generator seems to ignore z"
    latent = _late_mean(lines, "latent")
    if diversity is not None and diversity < DIVERSITY_ALARM:
        seen = f"diversity ratio {diversity:.3f}" + (f", latent L1 {latent:.2f}" if latent is not None else "")
        yield Finding("z", title, seen, f"diversity ratio below {DIVERSITY_ALARM}", advice)
    elif diversity is None and latent is not None and latent >= LATENT:
        threshold = f"latent L1 of {LATENT} or more (0.80: nothing of z is recovered)"
        yield Finding("z", title, f"latent L1 {latent:.2f}, diversity ratio not measured", threshold, advice)
    kl = _late_mean(lines, "kl")
    if kl is not None and not KL[0] <= kl <= KL[1]:
        yield Finding(
            "kl",
            "The latent code is empty" if kl < KL[0] else "The latent code is far from N(0, 1)",
            f"KL {kl:.3g} in the last quarter of training",
            f"KL outside {KL[0]} .. {KL[1]:g}",
            "Lower kl_weight." if kl < KL[0] else "Raise kl_weight: the generator has not learned the z that is drawn later.",
        )


def _critics(lines: list[dict[str, Any]]) -> Iterator[Finding]:
    critics, gan = _late_mean(lines, "critics"), _late_mean(lines, "gan")
    if critics is not None and gan is not None and gan > 0 and critics < CRITICS * gan:
        yield Finding(
            "critics",
            "The critics overpower the generator",
            f"critics' loss {critics:.3f}, generator's GAN loss {gan:.2f}, in the last quarter of training",
            f"critics' loss below {CRITICS} of the GAN loss",
            "Lower lr or gan_weight, or make the critics smaller (critic_width, critic_scales).",
        )


def _recognition(score: dict[str, Any], is_flow: bool) -> Iterator[Finding]:
    ratio = score.get("ratio")
    if ratio is None:
        return
    synthetic, real = two_digits(score["synthetic"]), two_digits(score["real"])
    seen = f"recognition ratio {ratio:.2f}: mIoU {synthetic} on synthetic features, {real} on real ones"
    if ratio < RECOGNITION:
        yield Finding(
            "recognition",
            "Synthetic features are poorly recognised",
            seen,
            f"ratio below {RECOGNITION} (the paper: 0.86)",
            f"Train the generator longer (--images){'' if is_flow else ', raise task_weight'}, or cut the model later. A PixelFilter leaves "
            "out pixels that are not recognised.",
        )
    elif ratio > EASY:
        yield Finding(
            "easy",
            "Synthetic features are easier than real ones",
            seen,
            f"ratio above {EASY}",
            f"Such features teach little{'' if is_flow else ': lower task_weight'}. If the mIoU on real ones is low, train the base model "
            "first.",
        )


def _reconstruction(lines: list[dict[str, Any]]) -> Iterator[Finding]:
    l1 = _late_mean(lines, "l1")
    if l1 is not None and l1 >= AVERAGE:
        yield Finding(
            "reconstruction",
            "The generator is hardly better than each channel's mean",
            f"reconstruction L1 {l1:.2f} in the last quarter of training",
            f"L1 of {AVERAGE} or more (0.80: the mean)",
            "Train longer. If it has stopped falling, raise l1_weight or the generator's width.",
        )


def _held_out(curve: list[float]) -> Iterator[Finding]:
    if curve and curve[-1] > RISEN * min(curve):
        yield Finding(
            "memory",
            "The generator begins to memorise the training images",
            f"loss on held-out images {curve[-1]:.3f}, {min(curve):.3f} at its lowest",
            f"{RISEN - 1:.0%} above the lowest",
            "Train on fewer images (--images), or with more augmentation.",
        )


def _quality(found: dict[str, Any], vary: str) -> Iterator[Finding]:
    if not found:
        return
    if found["copies"]:
        seen = [
            f"{name}: {two_digits(test['synthetic'])} from training features, {two_digits(test['held_out'])} from held-out ones for "
            "held-out masks"
            for name, test in found["memory"].items()
        ]
        yield Finding(
            "copies",
            "The generator copies training features",
            "; ".join(seen) or "the memory test found copies",
            f"more than {COPIED:.0%} of the samples are less than half as far from a training feature as from one that was not seen",
            "Train it on more images or for fewer steps (--images), or make it smaller. Its features are no more private than the images.",
        )
    recall, usual = found["recall"], found["reference"]["recall"]
    if recall is not None and usual is not None and recall < NARROW * usual:
        precision, precise = found["precision"], found["reference"]["precision"]
        # Samples that look like no real feature also cover none, however varied they are.
        unlike = precision is not None and precise is not None and precision < NARROW * precise
        also = f"; precision {precision:.3f}, real features get {precise:.2f}" if unlike else ""
        yield Finding(
            "narrow",
            "Synthetic features are unlike real ones" if unlike else "Synthetic features lack variety",
            f"recall {recall:.3f}; real features get {usual:.2f}{also}",
            f"recall below {NARROW} of what real features get",
            "Most real features are unlike any synthetic one, and a decoder learns little from such samples. "
            + ("Train the generator longer." if unlike else vary),
        )


def _late_mean(lines: list[dict[str, Any]], name: str) -> float | None:
    """The mean over the last quarter of the lines that have a value."""
    values = [value for x in lines if (value := as_number(x.get(name))) is not None]
    late = values[-max(len(values) // 4, 1) :]
    return sum(late) / len(late) if late else None
