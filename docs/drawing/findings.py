"""The findings at the top of docs/results.md: each is a sentence, its figure, its file, and the condition under which it may be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from docs.drawing.settings_table import read_result
from docs.drawing.words import seeds
from feataug.evaluation.paired_differences import interval

Read = Callable[[str], Mapping[str, Mapping[str, Any]]]


def findings(read: Read) -> str:
    """The list in Markdown.

    Raises:
        ValueError: The figures no longer bear a finding out.
    """
    means = read("protocol")["camvid-half"]["means"]["base"]
    whole, best = means["whole"]["miou"], means["windows, bias"]["miou"]
    few, every = read("compare")["camvid-half-0.25"], read("compare")["camvid-half"]
    gain, weights, ceiling = (few["differences"][arm] for arm in ("feataug", "class weights", "ceiling"))
    all_gain, all_weights = (every["differences"][arm] for arm in ("feataug", "class weights"))
    taught = read("teaching")["camvid-half"]
    flow, gaussians, gan = (taught["teaching"]["score"][source]["after"] for source in ("generator", "gaussians", "bicyclegan"))
    today = read("teaching")["camvid-half-distilled"]["teaching"]
    composed, composed_today = (found["differences"]["generator, composed masks"]["after"] for found in (taught["teaching"], today))
    room, earlier = (read("room")[f"camvid-half-0.1{name}"]["differences"] for name in ("-distilled", ""))
    flow_gain = read("compare")["camvid-half-flow"]["differences"]["feataug"]
    gone, gone_idd = (read("teaching")[f"{data}-half-1600"]["teaching"] for data in ("camvid", "idd"))
    left, many, biased = _miou(gone["sources"]), _miou(gone_idd["sources"]), _miou(gone_idd["sources"], "before")
    gone_long = read("teaching")["idd-half-1600-distilled"]["teaching"]
    long = _miou(gone_long["sources"])
    # On the seed that the shorter trainings were measured on.
    first = gone_long["seeds"][0]["generator"]["after"]["miou"]
    vit, vit_long, fpn = (_miou(read("teaching")[f"camvid-half-{which}"]["teaching"]["sources"]) for which in ("vit", "vit-distilled", "fpn"))
    matched, fpn_matched = (read("teaching")[f"camvid-half-{which}-matched"]["teaching"] for which in ("vit", "fpn"))
    map_after, map_before = (_miou(matched["sources"], when) for when in ("after", "before"))
    fpn_map = _miou(fpn_matched["sources"])
    colored, on_idd = (read("teaching")[name]["teaching"] for name in ("camvid-half-vit-colored-matched", "idd-half-colored"))
    noise, idd_noise = (_miou(found["sources"]) for found in (colored, on_idd))
    fpn_noise = _miou(read("teaching")["camvid-half-fpn-colored-matched"]["teaching"]["sources"])
    site = read_result("sites")
    of = site["arms"]
    camvid, all_camvid = (of[arm]["camvid"]["miou"] - of["idd alone"]["camvid"]["miou"] for arm in ("generators of both", "real images of both"))
    idd, all_idd = (of[arm]["idd"]["miou"] - of["camvid alone"]["idd"]["miou"] for arm in ("generators of both", "real images of both"))
    listed = (
        (
            "Windows and a class bias gain most, and need no training.",
            f"mIoU {whole:.1f} to {best:.1f} on CamVid at half its resolution",
            "protocol-camvid-half",
            best - whole > 10 * max(gain["miou"]["mean"], all_gain["miou"]["mean"]),
        ),
        (
            "Synthetic features gain a little class accuracy with a quarter of the labels.",
            f"ClassAcc {interval(gain['class_acc'])}, mIoU {interval(gain['miou'])} over the control",
            "compare-camvid-half-0.25",
            gain["class_acc"]["low"] > 0 and _holds_zero(gain["miou"]),
        ),
        (
            "With all labels no gain is shown.",
            f"ClassAcc {interval(all_gain['class_acc'])}, mIoU {interval(all_gain['miou'])}",
            "compare-camvid-half",
            _holds_zero(all_gain["class_acc"]) and _holds_zero(all_gain["miou"]),
        ),
        (
            "There is little to gain in 100 steps: even real features of three times as many labelled images gain little.",
            f"ClassAcc {interval(ceiling['class_acc'])}, mIoU {interval(ceiling['miou'])}",
            "compare-camvid-half-0.25",
            max(ceiling["class_acc"]["mean"], ceiling["miou"]["mean"]) < 1,
        ),
        (
            "Class weights gain nothing beyond a class bias, and lose mIoU with a quarter of the labels.",
            f"mIoU {interval(all_weights['miou'])} with all labels, {interval(weights['miou'])} with a quarter",
            "compare-camvid-half-0.25",
            _holds_zero(all_weights["class_acc"]) and _holds_zero(all_weights["miou"]) and weights["miou"]["high"] < 0,
        ),
        (
            "A flow teaches a fresh decoder nearly what real features do; a BicycleGAN less than class Gaussians.",
            f"{flow:.2f} of the real features' mIoU against {gan:.2f} and {gaussians:.2f} ({seeds(taught['teaching']['seeds'])}); another base, a "
            f"distilled flow: {today['score']['generator']['after']:.2f} ({seeds(today['seeds'])})",
            "teaching-camvid-half",
            min(flow, today["score"]["generator"]["after"]) > 0.95 and flow > gaussians > gan,
        ),
        (
            "Pyramids and tokens can be generated, too.",
            f"On an FPN's four levels a flow teaches {fpn['generator'] / fpn['real']:.2f} of the real features' mIoU, {fpn['generator']:.1f} of "
            f"{fpn['real']:.1f}; on a ViT's tokens {vit_long['generator'] / vit_long['real']:.2f}, {vit_long['generator']:.1f} of "
            f"{vit_long['real']:.1f}; class Gaussians {fpn['gaussians']:.1f} and {vit_long['gaussians']:.1f} (one seed)",
            "teaching-camvid-half-fpn",
            min(found["generator"] / found["real"] for found in (fpn, vit_long)) > 0.9
            and all(found["generator"] > found["gaussians"] + 1 for found in (fpn, vit_long)),
        ),
        (
            "Where features are strongly correlated, samples teach more after a linear map to the covariance of real features, which takes seconds.",
            f"On a ViT mIoU {map_after['generator, matched']:.1f} against {map_after['generator']:.1f}, before the class bias "
            f"{map_before['generator, matched']:.1f} against {map_before['generator']:.1f} ({seeds(matched['seeds'])}); on an FPN "
            f"{fpn_map['generator, matched']:.1f} against {fpn_map['generator']:.1f} (one seed)",
            "teaching-camvid-half-vit-matched",
            map_before["generator, matched"] > map_before["generator"] + 1 and fpn_map["generator, matched"] > fpn_map["generator"],
        ),
        (
            "There, a flow learns faster from noise with the features' correlations (colored noise, the default); elsewhere as fast.",
            f"On a ViT mIoU {noise['generator']:.1f} after 30,000 images against {noise['24k-distilled']:.1f} from white noise, and "
            f"{map_after['generator']:.1f} from white noise after 75,000 ({seeds(colored['seeds'])}); on lite0 (IDD-Lite) "
            f"{idd_noise['generator']:.1f} against {idd_noise['white-48k']:.1f} ({seeds(on_idd['seeds'])}), on an FPN "
            f"{fpn_noise['generator']:.1f} against {fpn['generator']:.1f} (one seed)",
            "teaching-camvid-half-vit-colored-matched",
            noise["generator"] > max(noise["24k-distilled"], map_after["generator"])
            and colored["seeds"][0]["seed"] == matched["seeds"][0]["seed"]
            and abs(idd_noise["generator"] - idd_noise["white-48k"]) < 0.5
            and abs(fpn_noise["generator"] - fpn["generator"]) < 0.5,
        ),
        (
            "With half of its masks composed, a flow teaches as much as real features.",
            f"mIoU {interval(composed['miou'])}, ClassAcc {interval(composed['class_acc'])} against real features of the training masks; a distilled "
            f"flow, {interval(composed_today['miou'])} and {interval(composed_today['class_acc'])}",
            "teaching-camvid-half",
            min(found["miou"]["mean"] for found in (composed, composed_today)) > 0,
        ),
        (
            "With a tenth of the labels there is room; a flow that learned from so few images does not fill it yet.",
            f"mIoU {interval(room['ceiling']['miou'])} for real features of the other images, {interval(room['feataug']['miou'])} "
            f"for a flow's; with another base, and before flows were distilled, {interval(earlier['ceiling']['miou'])} and "
            f"{interval(earlier['feataug']['miou'])} (one seed each)",
            "room-camvid-half-0.1-distilled",
            all(gains["ceiling"]["miou"]["mean"] > 3 * gains["feataug"]["miou"]["mean"] for gains in (room, earlier)),
        ),
        (
            "Two sites that share generators and masks, but no images, gain most of what sharing images would.",
            f"mIoU {camvid:+.1f} on CamVid over IDD-Lite's own model, {idd:+.1f} the other way; sharing images gains "
            f"{all_camvid:+.1f} and {all_idd:+.1f} ({seeds(site['seeds'])})",
            "sites",
            camvid > 0.5 * all_camvid > 0 and idd > 0.5 * all_idd > 0,
        ),
        (
            "With all labels, features of a flow gain nothing either.",
            f"ClassAcc {interval(flow_gain['class_acc'])}, mIoU {interval(flow_gain['miou'])}",
            "compare-camvid-half-flow",
            _holds_zero(flow_gain["class_acc"]) and _holds_zero(flow_gain["miou"]),
        ),
        (
            "On CamVid's 367 images a decoder trained for long from generator and masks alone knows nearly as much as one trained on images, and "
            "more than one that has a single view of each.",
            f"mIoU {left['generator']:.1f} against {left['real']:.1f} and {left['kept']:.1f}; {left['gaussians']:.1f} from class Gaussians "
            f"({seeds(gone['seeds'])})",
            "teaching-camvid-half-1600",
            left["generator"] > 0.97 * left["real"] and left["generator"] > left["kept"] + 0.5 * (left["real"] - left["kept"]),
        ),
        (
            "On IDD-Lite's 1,403 images it knows as much as one that has a single view of each. Beside the view a generator gains half of what "
            "images would, where class Gaussians and mirroring gain nothing.",
            f"mIoU {long['generator']:.1f} against {long['real']:.1f} and {long['kept']:.1f}, {long['kept and generator']:.1f} from both "
            f"({seeds(gone_long['seeds'])}); class Gaussians beside the view {many['kept and gaussians'] - many['kept']:+.1f}, mirroring "
            f"{many['kept, mirrored'] - many['kept']:+.1f} ({seeds(gone_idd['seeds'])})",
            "teaching-idd-half-1600-distilled",
            abs(long["generator"] - long["kept"]) < 0.5
            and long["kept and generator"] > 0.5 * (long["kept"] + long["real"])
            and max(many["kept and gaussians"], many["kept, mirrored"]) <= many["kept"],
        ),
        (
            "A flow that is trained for longer teaches more if it is distilled; in two steps that are not distilled, its samples teach no more.",
            f"150,000 images in place of 48,000 on IDD-Lite: mIoU {first:.1f} against {many['generator-48k-distilled']:.1f}; not "
            f"distilled, 120,000 in place of 48,000, {many['generator-120k']:.1f} against {many['generator']:.1f}; on a ViT, 75,000 in place of "
            f"30,000, {vit_long['generator']:.1f} against {vit['24k-distilled']:.1f} (one seed)",
            "teaching-camvid-half-vit-distilled",
            first > many["generator-48k-distilled"] + 0.5
            and abs(many["generator-120k"] - many["generator"]) < 0.5
            and vit_long["generator"] > vit["24k-distilled"] + 1,
        ),
        (
            "Samples of four or eight steps (three or seven evaluations of the network) teach more than those of two (one evaluation). Distilled, "
            "the default, two steps teach as much as eight on a ViT; on IDD-Lite they gain as much as four before the class bias, and less after "
            "it.",
            f"On a ViT mIoU {vit['24k-8']:.1f} of eight steps against {vit['generator']:.1f}, {vit['24k-distilled']:.1f} distilled; on IDD-Lite "
            f"{many['generator-48k-4']:.1f} of four against {many['generator']:.1f}, {many['generator-48k-distilled']:.1f} distilled, before the "
            f"bias {biased['generator-48k-4']:.1f}, {biased['generator']:.1f} and {biased['generator-48k-distilled']:.1f} "
            f"({seeds(gone_idd['seeds'])})",
            "teaching-idd-half-1600",
            vit["24k-8"] > vit["generator"] + 0.5
            and vit["24k-distilled"] > vit["24k-8"] - 0.3
            and many["generator-48k-4"] > many["generator"] + 0.5
            and many["generator"] < many["generator-48k-distilled"] < many["generator-48k-4"]
            and biased["generator-48k-distilled"] > biased["generator-48k-4"] > biased["generator"] + 0.5,
        ),
    )
    wrong = [sentence for sentence, _, _, holds in listed if not holds]
    if wrong:
        raise ValueError(f"docs/drawing/findings.py: the figures do not bear this out: {wrong[0]}")
    return "\n".join(f"- **{sentence}** {figure} ([{file}](../studies/results/{file}.json))." for sentence, figure, file, _ in listed)


def _miou(sources: Mapping[str, Any], when: str = "after") -> dict[str, float]:
    """mIoU by source, after the class bias or before it."""
    return {name: parts[when]["miou"] for name, parts in sources.items()}


def _holds_zero(gap: Mapping[str, Any]) -> bool:
    return bool(gap["low"] <= 0 <= gap["high"])
