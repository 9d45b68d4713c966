"""Tables of docs/results.md: how we measure, and the arms. Each takes a study's figures and returns Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docs.drawing.words import data_title, seeds
from feataug.core.measures import TITLES
from feataug.evaluation import difference
from feataug.evaluation.paired_differences import interval

HEADS = "| " + " | ".join(TITLES.values()) + " |"
RULE = "|---" * len(TITLES) + "|"


def figures(values: Mapping[str, Any]) -> str:
    """The four measures as cells."""
    return " | ".join(f"{values[m]:.2f}" for m in TITLES)


def _option(s: Mapping[str, Any]) -> str:
    return " --half" if s.get("half") else ""


def protocol(name: str, r: dict[str, Any]) -> str:
    """The same base models, predicted in several ways."""
    s, bases = r["settings"], len(r["bases"])
    rows, columns = s["size"]
    ways = {
        "whole": "whole images",
        "padded": "whole images, padded to multiples of 16",
        "windows": f"windows of the crops' size, {rows} x {columns}",
        "whole, bias": "whole images, class bias",
        "padded, bias": "padded images, class bias",
        "windows, bias": "windows, class bias",
    }
    lines = [
        "",
        f"### {data_title(name)}{'' if name.endswith(('fpn', 'vit')) else ': PSPNet'}",
        "",
        f"{s['model']}; {s['images']} training images, crops of {rows} x {columns}, {s['base']['num_steps']} steps; measured on {s['eval_split']}; "
        f"{'mean of ' if bases > 1 else ''}{bases} base model{'s' if bases > 1 else ''}; the bias from {s['bias_images']} training images.",
        "",
        f"| the same model, predicted by {HEADS} mIoU on training images |",
        "|---" + RULE + "---|",
    ]
    means = r["means"]["base"]
    lines += [f"| {text} | {figures(means[way])} | {means[f'{way}, training images']['miou']:.2f} |" for way, text in ways.items() if way in means]
    if "larger crops" in r["means"]:
        lines += [
            "",
            f"{r['settings']['further']['num_steps']} further steps of the first base, on the same crops and on crops of the images' size: the "
            "gain of changing the training instead.",
            "",
            f"| trained further on, predicted by {HEADS}",
            "|---" + RULE,
        ]
        for of in ("same crops", "larger crops"):
            height, width = r["bases"][0][of]["size"]
            for way in ("whole", "windows", "whole, bias", "windows, bias"):
                if of == "larger crops" and way.startswith("windows"):
                    continue  # nearly the whole image
                lines.append(f"| {height} x {width}; {ways[way].partition(' of the')[0]} | {figures(r['means'][of][way])} |")
    return "\n".join(lines)


def bias(name: str, r: dict[str, Any]) -> str:
    """The gains of class weights and features, before and after the bias."""
    s = r["settings"]
    lines = [
        "",
        f"`python -m studies.own.bias --data DIR --dataset {s['data']}{_option(s)}`: {data_title(name)}; decoder alone, "
        f"{s['further']['num_steps']} further steps, {seeds(s['seeds'])}; "
        f"*feataug* has {s['ratio']:.0%} synthetic samples and no class weights; *class weights* no synthetic ones.",
        "",
        f"| arm, predicted by {HEADS}",
        "|---" + RULE,
    ]
    for way in ("whole", "windows", "whole, bias", "windows, bias"):
        for arm, means in r["means"].items():
            lines.append(f"| {arm}; {way} | {figures(means[way])} |")
    lines += ["", f"| minus control, predicted by {HEADS}", "|---" + RULE]
    for way in ("whole", "windows", "whole, bias", "windows, bias"):
        for arm, gaps in r["differences"].items():
            lines.append(f"| {arm}; {way} | " + " | ".join(interval(gaps[way][m]) for m in TITLES) + " |")
    return "\n".join(lines)


def comparison(name: str, r: dict[str, Any]) -> str:
    """All arms after the bias and before it, with the ceiling where there is one."""
    s = r["settings"]
    rows, columns = s["size"]
    window = s["prediction"]["window"]
    way = f"windows of {window[0]} x {window[1]}" if window else "whole images"
    share = f" --fraction {s['fraction']:g} --ceiling" if s["fraction"] < 1 else ""
    f = s["feataug"]
    mixing = f"masks `{f['masks']}`, {100 * f['ratio']:.0f} % synthetic, "
    mixing += f"pixels filtered at {f['filter']} times their class's loss" if f["filter"] else "no pixel filter"
    mixing += f", class weights to the power of {f['power']}" if f.get("power") else ", no class weights"
    command = f"python -m studies.own.compare --data DIR --dataset {s['data']}{_option(s)}{share}{_mixing_options(s)}"
    lines = [
        "",
        f"### {data_title(name)}",
        "",
        f"`{command}`: {s['images']} training images, crops of {rows} x {columns}, "
        f"{s['config']['num_steps']} further steps, {seeds(r['seeds'])}; predicted by {way}. feataug: {mixing}.",
        "",
        f"| after the class bias {HEADS}",
        "|---" + RULE,
        f"| base | {figures(r['base'])} |",
        *(f"| {arm} | {figures(x)} |" for arm, x in r["arms"].items()),
        "",
        f"| minus control, after the class bias {HEADS}",
        "|---" + RULE,
        *(f"| {arm} | " + " | ".join(interval(x[m]) for m in TITLES) + " |" for arm, x in r["differences"].items()),
    ]
    if "beyond_weights" in r or "class weights" in r["differences"]:
        gap = r.get("beyond_weights") or against(r, "class weights")
        lines.append("| feataug minus class weights | " + " | ".join(interval(gap[m]) for m in TITLES) + " |")
    lines += ["", f"| minus control, before the class bias {HEADS}", "|---" + RULE]
    lines += [f"| {arm} | " + " | ".join(interval(x[m]) for m in TITLES) + " |" for arm, x in r["differences_before_bias"].items()]
    if "ceiling" in r:
        lines += ["", f"| share of the ceiling's gain {HEADS}", "|---" + RULE]
        for arm, shares in r["ceiling"]["share_of_ceiling"].items():
            cells = ("-" if shares[m] is None else f"{shares[m]:.0%}" for m in TITLES)
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", r["verdict"]]
    return "\n".join(lines)


def _mixing_options(s: Mapping[str, Any]) -> str:
    """Options of the studies whose mixing differs from the default."""
    f = s["feataug"]
    if f["filter"]:
        return ""
    return f" --masks {f['masks']} --ratio {f['ratio']:g} --filter 0 --further-steps {s['config']['num_steps']}"


def against(r: dict[str, Any], other: str) -> dict[str, Any]:
    """feataug minus another arm, the same pairs."""
    return {m: difference([entry[other][m] for entry in r["seeds"]], [entry["feataug"][m] for entry in r["seeds"]]) for m in TITLES}


def ways(found: Mapping[str, dict[str, Any]]) -> str:
    """The README's first table: the same model, predicted in several ways."""
    heads = {"whole": "whole images", "padded": "padded to the stride", "windows": "windows", "whole, bias": "whole images, class bias"}
    heads |= {"padded, bias": "padded, class bias", "windows, bias": "windows, class bias"}
    lines = [f"| mIoU of the same model | {' | '.join(heads.values())} |", "|---" * (len(heads) + 1) + "|"]
    for name, r in found.items():
        means = r["means"]["base"]
        cells = " | ".join(f"{means[way]['miou']:.1f}" if way in means else "-" for way in heads)
        lines.append(f"| {data_title(name)} | {cells} |")
    return "\n".join(lines) + "\n"
