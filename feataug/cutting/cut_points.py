"""List the places where a model can be cut, from one forward pass in eval mode and one in training."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from feataug.core.checks import check_number
from feataug.core.modes import eval_mode
from feataug.core.specs import FeatureSpec, LevelSpec, crossing
from feataug.cutting.call_trace import Call, TensorInfo, record_calls, uncompiled
from feataug.cutting.containers import leaves_of
from feataug.cutting.dataflow import Dataflow, trace
from feataug.cutting.example import Example, explain_failures
from feataug.cutting.meta_twin import MetaTwin
from feataug.cutting.stride_inference import other_sizes
from feataug.cutting.tensor_layout import Layout, Size
from feataug.errors import SplitError

# A model with more places gets a list of about this length, unless all are asked for.
SHOWN = 20

# By name and number of each call: the shapes of the leaves that it returns.
Shapes = dict[tuple[str, int], list[tuple[int, ...]]]


@dataclass(frozen=True)
class CutPoint:
    """A place where a model can be cut.

    Attributes:
        at: The name of a layer, or several names, as ``split`` takes them.
        spec: The levels that cross there.
        encoder_parameters, decoder_parameters: Number of parameters that are last used before the cut, and of all others.
        encoder_macs, decoder_macs: Multiply-adds before and after the cut, for the example.

    Source:
        Ours.
    """

    at: str | tuple[str, ...]
    spec: FeatureSpec
    encoder_parameters: int
    decoder_parameters: int
    encoder_macs: int
    decoder_macs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        counts = ("encoder_parameters", "decoder_parameters", "encoder_macs", "decoder_macs")
        at = self.at if isinstance(self.at, str) else list(self.at)
        return {"at": at} | self.spec.to_dict() | {name: getattr(self, name) for name in counts}

    def __str__(self) -> str:
        parameters = self.encoder_parameters / max(self.encoder_parameters + self.decoder_parameters, 1)
        macs = self.encoder_macs / max(self.encoder_macs + self.decoder_macs, 1)
        at = self.at if isinstance(self.at, str) else ", ".join(self.at)
        return f"{at}: {crossing(self.spec)}; encoder has {parameters:.0%} of the parameters, {macs:.0%} of the multiply-adds"


# The former name, kept for code that was written with it.
Place = CutPoint


class CutPoints(list[CutPoint]):
    """A list of places that is shown as one line for each."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "[]"


def cuts(model: nn.Module, example: Any = None, *, max_levels: int = 8, everything: bool = False) -> CutPoints:
    """List the places where a cut of the model is complete, from its input to its output.

    A place is a layer whose output holds every tensor that depends on the images and is read later; or, where skip connections go
    round a block or a stage, that layer and those that make the skips.

    Args:
        model: Any module that takes images.
        example: As for ``split``.
        max_levels: Leave out places where more tensors cross.
        everything: List all places. Otherwise a long list is reduced to about twenty: the model's own parts, and places spread over
            the model where few tensors cross.

    Returns:
        A list of places in the order of the forward pass; printed, it has a line for each. Training-only branches are checked as
        well. Where several layers end at one place, the outermost is named; of a convolution, its norm and its activation, the
        last. The list comes from a trace; ``split`` verifies the place that you choose by decoding, and may find that class tokens
        listed here are not read.

    Raises:
        SplitError: the example holds no images, or the model does not take it.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> cuts(model)
        1: 8 / 2; encoder has 93% of the parameters, 93% of the multiply-adds

    Source:
        Ours.
    """
    check_number("cuts", "max_levels", max_levels, low=1, integer=True)
    if isinstance(model, torch.jit.ScriptModule):
        raise SplitError(
            "cuts: the model is in TorchScript, which takes no hooks.", given=type(model).__name__, needed="a model in Python"
        )
    case = Example.of(example, model)

    def call() -> Any:
        args, kwargs = case.arguments(case.images, (), case.tensors)
        return uncompiled(model)(*args, **kwargs)

    with explain_failures("cuts", case):
        calls, _, flow = trace(model, case.followed, call)
    elsewhere = _shapes_at_other_sizes(model, case, calls)
    places = _without_near_duplicates(_find(_PointFinder(model, calls, flow, case, max_levels, elsewhere)))
    try:
        calls, _, flow = trace(model, case.followed, call, training=True)
    except Exception:  # a forward that needs targets while it trains
        return CutPoints(places if everything else shortlist(places))
    # An auxiliary head may read more than eval mode shows.
    in_training = {place.at: place for place in _find(_PointFinder(model, calls, flow, case, max_levels, elsewhere))}
    places = [in_training[place.at] for place in places if place.at in in_training]
    return CutPoints(places if everything else shortlist(places))


def shortlist(places: list[CutPoint]) -> list[CutPoint]:
    """A shorter list: the model's own parts (``"encoder"``), and one place from each stretch of the model.

    There are ``SHOWN`` stretches with equal shares of the multiply-adds. The place where the fewest tensors cross is taken from
    each; of several, the last.
    """
    if len(places) <= SHOWN:
        return places
    best: dict[int, int] = {}
    for number, place in enumerate(places):
        share = place.encoder_macs / max(place.encoder_macs + place.decoder_macs, 1)
        stretch = min(int(share * SHOWN), SHOWN - 1)
        if stretch not in best or len(place.spec) <= len(places[best[stretch]].spec):
            best[stretch] = number
    parts = {n for n, place in enumerate(places) if isinstance(place.at, str) and place.at.isidentifier()}
    return [places[number] for number in sorted({*best.values(), *parts})]


def _find(finder: _PointFinder) -> list[CutPoint]:
    found: dict[tuple[int, frozenset[int | None]], CutPoint] = {}
    # Outer calls end after inner ones, so the outermost of several equal places overwrites the others.
    for call in finder.in_order():
        for key, place in finder.at(call):
            found[key] = place
    return list(found.values())


def _without_near_duplicates(places: list[CutPoint]) -> list[CutPoint]:
    """Leave out places that hardly differ from the next one, and places inside a block."""
    counts = [1, *(len(place.spec) for place in places), 1]
    outside = [
        place
        for place, before, here, after in zip(places, counts, counts[1:], counts[2:], strict=False)
        # Within a residual block more tensors cross than before it and after it.
        if isinstance(place.at, str) or here <= before or here <= after
    ]
    return [
        place
        for place, after in zip(outside, [*outside[1:], None], strict=False)
        # Nothing but a norm or an activation lies between the two.
        if after is None
        or after.spec.shapes != place.spec.shapes
        or after.encoder_macs - place.encoder_macs > 0.002 * (place.encoder_macs + place.decoder_macs)
    ]


class _PointFinder:
    """Finds the places of one trace where a cut is complete."""

    def __init__(
        self, model: nn.Module, calls: list[Call], flow: Dataflow, case: Example, max_levels: int, elsewhere: dict[Size, Shapes]
    ) -> None:
        self.flow, self.case, self.max_levels, self.elsewhere = flow, case, max_levels, elsewhere
        self.last = {call.module: call for call in calls}
        self.composite = {call.parent for call in calls}
        last_use = flow.last_use()
        self.parameters = [(p.numel(), last_use.get(flow.key(p))) for p in dict.fromkeys(model.parameters())]
        self.total = (sum(count for count, _ in self.parameters), flow.macs())
        self.times = flow.times
        self.holders: dict[int | None, list[Call]] = {}
        for call in self.in_order():
            for info in call.tensors():
                self.holders.setdefault(info.key, []).append(call)

    def in_order(self) -> list[Call]:
        """The last call of each layer, in the order of their ends."""
        return sorted((c for c in self.last.values() if c.name), key=lambda c: c.end or 0)

    def at(self, call: Call) -> Iterator[tuple[tuple[int, frozenset[int | None]], CutPoint]]:
        """The place at the end of a call, if a cut there is complete, with a key that equal places share."""
        if call.end is None:
            return
        live = self.flow.live(call.end)
        own = {info.key for info in call.tensors()}
        if not live & own or not live.isdisjoint(self.flow.inputs):
            return
        layers = {call}
        if live - own:
            if call not in self.composite:
                return  # a cut inside a block is possible, but there are better places
            for key in live - own:
                ended = [other for other in self.holders.get(key, []) if (other.end or 0) < call.end and not call.within(other)]
                if not ended:
                    return
                layers.add(ended[-1])
        ordered = sorted(layers, key=lambda c: c.end or 0)
        levels = [level for layer in ordered for level in self._levels(layer, live)]
        encoder = sum(count for count, read in self.parameters if read is not None and read < call.end)
        if None in levels or not 1 <= len(levels) <= self.max_levels or encoder in (0, self.total[0]):
            return
        macs = self.flow.macs(call.end)
        names = tuple(layer.name for layer in ordered)
        counts = (encoder, self.total[0] - encoder, macs, self.total[1] - macs)
        spec = FeatureSpec(tuple(level for level in levels if level is not None))
        moment = bisect_left(self.times, call.end)
        yield (moment, frozenset(live)), CutPoint(names[0] if len(names) == 1 else names, spec, *counts)

    def _levels(self, call: Call, live: set[int | None]) -> Iterator[LevelSpec | None]:
        """Levels of a call's output; ``None`` for a tensor that is read and is no feature map."""
        leaves = leaves_of(call.output)
        read = [n for n, leaf in enumerate(leaves) if isinstance(leaf, TensorInfo) and leaf.key in live]
        batch = len(self.case.images)
        for number in read:
            shapes = {
                size: (batch, *calls[call.name, call.index][number][1:])
                for size, calls in self.elsewhere.items()
                if (call.name, call.index) in calls
            }
            layout = Layout.of(leaves[number], batch, self.case.size, shapes)
            name = call.name if len(read) == 1 else f"{call.name}[{number}]"
            pooled = leaves[number].shape[-2:] == (1, 1) and leaves[number].ndim == 4
            if layout is None or pooled:  # a tensor pooled over the whole image is no map
                yield None
            else:
                yield from layout.specs(name)


def _shapes_at_other_sizes(model: nn.Module, case: Example, calls: list[Call]) -> dict[Size, Shapes]:
    """Shapes that each call returns for one image of other sizes, measured on a twin; empty where there is no twin."""

    def shapes(twin: MetaTwin, batch: int, size: Size) -> Shapes:
        images = twin.like(case.images, (batch, case.images.shape[1], *size))
        args, kwargs = case.arguments(images, (), case.placeholders(case.tensors, batch, size, images.device))
        with twin.active(), eval_mode(model):
            found, _ = record_calls(twin.model, lambda: uncompiled(twin.model)(*args, **kwargs))
        return _shapes(found)

    try:
        twin = MetaTwin(model)
        if shapes(twin, len(case.images), case.size) != _shapes(calls):
            return {}
    except Exception:  # a model may fail in any way on tensors without values
        return {}
    measured: dict[Size, Shapes] = {}
    for sizes in other_sizes(case.size):
        for size in sizes if not measured else ():
            with suppress(Exception):  # a model may refuse a size in any way
                measured[size] = shapes(twin, 1, size)
    return measured


def _shapes(calls: list[Call]) -> Shapes:
    return {
        (call.name, call.index): [leaf.shape if isinstance(leaf, TensorInfo) else () for leaf in leaves_of(call.output)] for call in calls
    }
