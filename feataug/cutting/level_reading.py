"""Find the tensors that cross a cut and are read after it, and the layout of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from feataug.cutting.call_trace import TensorInfo
from feataug.cutting.capture import Captured
from feataug.cutting.containers import leaves_of
from feataug.cutting.executor import SplitExecutor
from feataug.cutting.stride_inference import cheap_sizes, other_sizes
from feataug.cutting.tensor_layout import Layout, Size, deciding_size
from feataug.cutting.verification import Position, Verifier
from feataug.errors import SplitError

# Each further image size halves the possible offsets of two levels.
_MAX_ROUNDS = 16

# By image size: the leaves of the value that crosses at each site, for one image.
Elsewhere = dict[Size, list[list[Any]]]


def read_levels(executor: SplitExecutor, captured: list[Captured], verifiers: list[Verifier]) -> dict[Position, Layout]:
    """The tensors that cross and are read, with their layouts.

    Args:
        executor: The cut's executor.
        captured: The values that crossed in the trace of the example.
        verifiers: A verifier for each trace.

    Raises:
        SplitError: one of them is no feature map, or none is read.
    """
    crossing = {
        (site, number): leaf
        for site, item in enumerate(captured)
        for number, leaf in enumerate(leaves_of(item.info))
        if isinstance(leaf, TensorInfo)
    }
    if executor.planner.twin is not None:
        odd, even = other_sizes(executor.example.size)
        elsewhere = measure_crossing(executor, odd) or measure_crossing(executor, even)
    else:
        elsewhere = measure_crossing(executor, cheap_sizes(executor.example.size), enough=1)
    found = {position: _layout(executor, position, leaf, elsewhere) for position, leaf in crossing.items()}
    for _ in range(_MAX_ROUNDS if executor.planner.twin is not None else 0):
        # Nearly all networks round up, so nothing more is measured as long as that explains all sizes.
        unsure = [layout for layout in found.values() if layout is not None and layout.offset is not None]
        size = deciding_size(executor.example.size, unsure)
        if size is None or size in elsewhere or not (further := measure_crossing(executor, [size])):
            break
        elsewhere |= further
        found = {position: _layout(executor, position, leaf, elsewhere) for position, leaf in crossing.items()}
    live = live_leaves(verifiers, found)
    layouts: dict[Position, Layout] = {}
    for position, layout in found.items():
        if position not in live:
            continue
        if layout is None:
            raise _no_map(executor, crossing[position], _shapes(position, elsewhere))
        layouts[position] = replace(layout, live=live[position] == "all")
    if not layouts:
        raise SplitError(
            f"split: nothing that crosses at {executor.label} is read after it.",
            given=", ".join(f"{list(leaf.shape)}" for leaf in [*crossing.values()][:3])
            or "no tensor, but " + ", ".join(type(item.value).__name__ for item in captured),
            needed="a layer whose output the model's output depends on",
        )
    return layouts


def measure_crossing(executor: SplitExecutor, sizes: list[Size], enough: int | None = None) -> Elsewhere:
    """The values that cross for images of other sizes. The model may refuse some; ``enough`` ends the search."""
    found: Elsewhere = {}
    for size in sizes:
        if len(found) == enough:
            break
        try:
            found[size] = [leaves_of(value) for value in executor.planner.encoder_pass(1, size, executor.example.images.device).crossing]
        except Exception:  # a model may refuse a size in any way
            continue
    return found


def _layout(executor: SplitExecutor, position: Position, leaf: TensorInfo, elsewhere: Elsewhere) -> Layout | None:
    # Measured with one image; the batch size of the example is put in instead.
    shapes = {size: (len(executor.example.images), *shape[1:]) for size, shape in _shapes(position, elsewhere).items()}
    return Layout.of(leaf, len(executor.example.images), executor.example.size, shapes)


def _shapes(position: Position, elsewhere: Elsewhere) -> dict[Size, tuple[int, ...]]:
    """Shapes of one tensor for the other image sizes at which it crosses."""
    site, number = position
    found = {size: leaves[site][number] for size, leaves in elsewhere.items() if number < len(leaves[site])}
    return {size: leaf.shape for size, leaf in found.items() if isinstance(leaf, TensorInfo)}


def _no_map(executor: SplitExecutor, leaf: TensorInfo, shapes: dict[Size, tuple[int, ...]]) -> SplitError:
    rows, columns = executor.example.size
    others = "".join(f", {list(shape)} for {size[0]} x {size[1]}" for size, shape in [*shapes.items()][-1:])
    return SplitError(
        f"split: the tensor that crosses at {executor.label} is no feature map.",
        given=f"{list(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')} for images of {rows} x {columns}{others}",
        needed="(B, channels, h, w), (B, h, w, channels) or tokens (B, h w, channels), float, with h and w in proportion to the image",
        advice="If this is one, pass example= images of a size that the stride divides.",
    )


def live_leaves(verifiers: list[Verifier], layouts: Mapping[Position, Layout | None]) -> dict[Position, str]:
    """The tensors that are read: ``"map"``, or ``"all"`` where class and register tokens are read as well."""
    live: dict[Position, str] = {}
    for verifier in verifiers:
        keys = {
            (site, number): leaf.key
            for site, item in enumerate(verifier.captured)
            for number, leaf in enumerate(leaves_of(item.info))
            if isinstance(leaf, TensorInfo) and 0 not in leaf.shape
        }
        shared = [key for key in keys.values() if list(keys.values()).count(key) > 1]
        for leaf, layout in layouts.items():
            if (
                leaf not in live
                and keys.get(leaf) in verifier.needs.crossing
                and (keys[leaf] not in shared or verifier.reads(leaf))
            ):
                live[leaf] = "map"
            prefixed = layout is not None and layout.kind == "nlc" and layout.prefix
            if prefixed and layout is not None and live.get(leaf) == "map" and verifier.reads(leaf, layout.prefix):
                live[leaf] = "all"
    return live
