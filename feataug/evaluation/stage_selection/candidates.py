"""Choose the cuts to compare: the images themselves, and bottlenecks from the model's beginning to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from feataug.core.modes import eval_mode
from feataug.cutting.call_trace import record_calls, uncompiled
from feataug.cutting.cut import Cut
from feataug.cutting.cut_points import CutPoint, cuts
from feataug.cutting.example import Example
from feataug.errors import SplitError


def candidates(model: nn.Module, example: Any = None, count: int = 6) -> list[str | tuple[str, ...]]:
    """List the images themselves, if only the first layer reads them, and at most ``count`` cut points of ``feataug.cuts``.

    Args:
        model: Any module that takes images.
        example: The example for ``split``.
        count: The largest number of cut points.

    Returns:
        Bottlenecks, at which no more values cross than at the cut points before and after, spread evenly over all of them. Cut points
        with only tokens are left out, and those with less than a hundredth of the multiply-adds after them: a classifier alone has
        little to learn.

    Raises:
        SplitError: there is no candidate.
    """
    places = thinned(cuts(model, example, everything=True), count)
    first = _before_all(model, example)
    found: list[str | tuple[str, ...]] = [] if first is None else [first]
    if not places and not found:
        raise SplitError(
            "stages: the model has no cut point.",
            given=f"{type(model).__name__}; feataug.cuts finds none",
            needed="a layer after which its output alone is read",
            advice="Name the candidates: at=[...]; a cut may also name several layers.",
        )
    return found + [place.at for place in places]


def thinned(places: Sequence[CutPoint], count: int) -> list[CutPoint]:
    """Choose at most ``count`` bottlenecks, evenly from the first to the last; without bottlenecks, any cut points."""
    places = [
        place
        for place in places
        if not all(level.tokens for level in place.spec) and place.decoder_macs >= 0.01 * (place.encoder_macs + place.decoder_macs)
    ]
    size = (512, 512)
    values = [sum(level.channels * math.prod(level.size(size)) for level in place.spec) for place in places]
    narrow = [
        place
        # The images come before the first cut point.
        for place, before, here, after in zip(places, [3 * math.prod(size), *values], values, [*values[1:], math.inf], strict=False)
        if here <= min(before, after)
    ]
    narrow = narrow or places
    if len(narrow) <= count:
        return narrow
    steps = max(count - 1, 1)
    return [narrow[round(number * (len(narrow) - 1) / steps)] for number in range(count)]


def _before_all(model: nn.Module, example: Any) -> str | None:
    """Return the cut at the images themselves, the input of the first layer, if no other layer reads them."""
    case = Example.of(example, model)
    args, kwargs = case.arguments(case.images, (), case.tensors)
    with torch.no_grad(), eval_mode(model):
        calls, _ = record_calls(model, lambda: uncompiled(model)(*args, **kwargs))
    # The layer may be nested in others. Only the first calls are tried, in case the model prepares images in layers of its own.
    for call in islice(calls, 1, 6):
        try:
            cut = Cut(model, f"{call.name}:input", example, advise=False)
        except SplitError:
            continue
        shapes = cut.spec.shapes
        cut.remove()
        if shapes == ((case.images.shape[1], 1, 0),):
            return f"{call.name}:input"
    return None
