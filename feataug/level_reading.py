"""The tensors that cross a cut: which of them are read, and how they hold their levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from feataug.capture import Taken
from feataug.containers import leaves_of
from feataug.errors import SplitError, message
from feataug.halves import Halves
from feataug.leaks import Position, Verifier
from feataug.levels import Layout, other_sizes
from feataug.recording import Seen
from feataug.slicing import Needs


def read_levels(cut: Halves, taken: list[Taken], checked: list[tuple[Needs, Verifier]]) -> dict[Position, Layout]:
    """The tensors that cross and are read, with their layouts.

    Args:
        cut: The cut.
        taken: What crossed in a trace of the example.
        checked: What the decoder needs, by each trace, and the trace's verifier.

    Raises:
        SplitError: one of them is no feature map, or none is read.
    """
    images = cut.example.images
    crossing = {
        (site, number): leaf
        for site, item in enumerate(taken)
        for number, leaf in enumerate(leaves_of(item.seen))
        if isinstance(leaf, Seen)
    }
    elsewhere = measured_elsewhere(cut)
    found = {
        (site, number): Layout.of(
            leaf,
            len(images),
            cut.example.size,
            # As if it were as many images as in the example.
            {size: (len(images), *shapes[site][number].shape[1:]) for size, shapes in elsewhere.items()} if leaf.ndim else None,
        )
        for (site, number), leaf in crossing.items()
    }
    live = live_leaves(checked, found)
    layouts: dict[Position, Layout] = {}
    for key, layout in found.items():
        if key not in live:
            continue
        if layout is None:
            shapes = "".join(f", {list(elsewhere[s][key[0]][key[1]].shape)} for {s[0]} x {s[1]}" for s in elsewhere)
            rows, columns = cut.example.size
            raise SplitError(
                message(
                    f"split: what crosses at {cut.label} is no feature map.",
                    given=f"{list(crossing[key].shape)} {str(crossing[key].dtype).removeprefix('torch.')} for images of "
                    f"{rows} x {columns}{shapes}",
                    needed="(B, channels, h, w), (B, h, w, channels) or tokens (B, h w, channels), float, that grows with the image",
                    advice="If this is one, pass example= images of a size that the stride divides.",
                )
            )
        layouts[key] = replace(layout, live=live[key] == "all")
    if not layouts:
        raise SplitError(
            message(
                f"split: nothing that crosses at {cut.label} is read after it.",
                given=", ".join(f"{list(leaf.shape)}" for leaf in [*crossing.values()][:3])
                or "no tensor in what the layer returns, " + ", ".join(type(item.value).__name__ for item in taken),
                needed="a layer whose output the model's output depends on",
            )
        )
    return layouts


def measured_elsewhere(cut: Halves) -> dict[tuple[int, int], list[list[Any]]]:
    """The leaves of what crosses for images of other sizes, which the model may refuse."""
    found: dict[tuple[int, int], list[list[Any]]] = {}
    for sizes in other_sizes(cut.example.size):
        for size in sizes:
            try:
                seen = cut.planner.passage(1, size, cut.example.images.device)
            except Exception:
                continue
            found[size] = [leaves_of(value) for value in seen.crossing]
            if cut.planner.twin is None:
                return found  # each costs a pass of the encoder
            if min(size) % 2 == 0:
                break
    return found


def live_leaves(verifiers: list[tuple[Needs, Verifier]], layouts: Mapping[Position, Layout | None]) -> dict[Position, str]:
    """Which of the tensors that cross are read: ``"map"``, or ``"all"`` where class and register tokens are read, too."""
    live: dict[Position, str] = {}
    for needs, verifier in verifiers:
        seen = {
            (site, number): leaf.key
            for site, item in enumerate(verifier.taken)
            for number, leaf in enumerate(leaves_of(item.seen))
            if isinstance(leaf, Seen) and 0 not in leaf.shape
        }
        shared = [key for key in seen.values() if list(seen.values()).count(key) > 1]
        for leaf, layout in layouts.items():
            if leaf not in live and seen.get(leaf) in needs.crossing and (seen[leaf] not in shared or verifier.reads(leaf)):
                live[leaf] = "map"
            prefixed = layout is not None and layout.kind == "nlc" and layout.prefix
            if prefixed and layout is not None and live.get(leaf) == "map" and verifier.reads(leaf, layout.prefix):
                live[leaf] = "all"
    return live
