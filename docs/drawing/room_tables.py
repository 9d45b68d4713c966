"""Tables of docs/results.md for settings in which there is much to gain. Each takes a study's figures and returns Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docs.drawing.protocol_tables import HEADS, RULE, figures
from docs.drawing.words import data_title, seeds
from feataug.core.measures import TITLES
from feataug.evaluation.paired_differences import interval

SITES = {"camvid": "CamVid", "idd": "IDD-Lite"}


def room(name: str, r: dict[str, Any]) -> str:
    """Few labels, many masks: all arms after the class bias, and their shares of the ceiling's gain."""
    s = r["settings"]
    lines = [
        "",
        f"### {data_title(name)}",
        "",
        f"`python -m studies.own.room --data DIR --dataset {s['data']}{' --half' if s['half'] else ''} --fraction {s['fraction']:g}`: "
        f"{s['images']} labelled images, {s['config']['num_steps']} further steps, {s['feataug']['ratio']:.0%} synthetic, {seeds(r['seeds'])}.",
        "",
        f"| minus control, after the class bias {HEADS}",
        "|---" + RULE,
        *(f"| {arm} | " + " | ".join(interval(gaps[m]) for m in TITLES) + " |" for arm, gaps in r["differences"].items()),
        "",
        f"| after the class bias {HEADS}",
        "|---" + RULE,
        f"| base | {figures(r['base'])} |",
        *(f"| {arm} | {figures(means)} |" for arm, means in r["arms"].items()),
    ]
    shares = {arm: share for arm, share in r["ceiling"]["share_of_ceiling"].items() if any(x is not None for x in share.values())}
    if shares:
        lines += ["", f"| share of the ceiling's gain, where it is shown {HEADS}", "|---" + RULE]
        for arm, share in shares.items():
            lines.append(f"| {arm} | " + " | ".join("-" if share[m] is None else f"{share[m]:.0%}" for m in TITLES) + " |")
    return "\n".join(lines)


def sites(r: Mapping[str, Any]) -> str:
    """Two sites: every arm on both, and the generators' arm against the others."""
    heads = " | ".join(f"{title}: {name}" for name in SITES.values() for title in ("ClassAcc", "mIoU"))
    ours = "generators of both"
    lines = [
        "",
        f"`python -m studies.own.sites --camvid DIR --idd DIR`: {r['settings']['steps']['num_steps']} steps of {r['settings']['batch']}, "
        f"{seeds(r['seeds'])}.",
        "",
        f"| a fresh decoder is trained on | {heads} |",
        "|---" * 5 + "|",
    ]
    for arm, found in r["arms"].items():
        lines.append(f"| {_words(arm)} | " + " | ".join(f"{found[site][m]:.1f}" for site in SITES for m in ("class_acc", "miou")) + " |")
    lines += ["", f"| {ours} minus | {heads} |", "|---" * 5 + "|"]
    for arm, gaps in r[f"{ours} minus"].items():
        lines.append(f"| {_words(arm)} | " + " | ".join(interval(gaps[site][m]) for site in SITES for m in ("class_acc", "miou")) + " |")
    return "\n".join(lines)


def _words(arm: str) -> str:
    return {"camvid alone": "CamVid's real images", "idd alone": "IDD-Lite's real images"}.get(arm, arm)
