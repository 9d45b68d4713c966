"""Is a cut complete? Spoil everything that was made before it, and see whether the output changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from feataug.errors import SplitError, message
from feataug.recording import Call, eval_mode, record, training_paths


class Halves(Protocol):
    """What verification needs of a cut."""

    model: nn.Module
    at: str

    def encode(self, images: Tensor) -> tuple[Tensor, ...]: ...  # noqa: D102

    def plan(self, image_size: tuple[int, int], like: Tensor) -> list[Call]: ...  # noqa: D102

    def filler(self, batch: int, value: float | None = None) -> Callable[[Any], Any]: ...  # noqa: D102

    def decode_with(  # noqa: D102
        self, features: Any, image_size: tuple[int, int], stand_ins: list[Any], images: Tensor | None = None
    ) -> Any: ...


@torch.no_grad()
def verify(cut: Halves, example: Tensor, plain: Any) -> None:
    """Decode with nonsense for the images and all before the cut: if the output changes, something was read round it."""
    size = (int(example.shape[-2]), int(example.shape[-1]))
    with eval_mode(cut.model):
        features = cut.encode(example)
        cut.plan(size, features[0])
        # Two fills, since a NaN can be swallowed (by a maximum, by a comparison).
        for value in (float("nan"), 7.0):
            if not _same(_spoiled(cut, features, example, value), plain):
                raise SplitError(_leak(cut, example, features, lambda out: not _same(out, plain), 7.0))
    with training_paths(cut.model, example):
        # What only training reads (an auxiliary head). It may draw, so NaN is looked for, and not for equality.
        try:
            clean = not _has_nan(cut.model(example))
            features = cut.encode(example)
            leaks = clean and _has_nan(_spoiled(cut, features, example, float("nan")))
        except Exception:  # a forward that wants targets while it trains: nothing can be told here
            return
        if leaks:
            raise SplitError(_leak(cut, example, features, _has_nan, float("nan"), ", in training"))


def _spoiled(cut: Halves, features: tuple[Tensor, ...], example: Tensor, value: float) -> Any:
    """Decode with ``value`` in place of the images and of everything made before the cut."""
    size = (int(example.shape[-2]), int(example.shape[-1]))
    fill = cut.filler(len(example), value)
    stand_ins = [tree_map(fill, call.output) for call in cut.plan(size, features[0])[:-1]]
    return cut.decode_with(features, size, stand_ins, torch.full_like(example, value))


def _leak(
    cut: Halves, example: Tensor, features: tuple[Tensor, ...], wrong: Callable[[Any], bool], value: float, when: str = ""
) -> str:
    """Name the calls before the cut whose outputs are read after it, by spoiling them one at a time."""
    size = (int(example.shape[-2]), int(example.shape[-1]))
    calls, _ = record(cut.model, example)
    plan = cut.plan(size, features[0])[:-1]
    whole = {(call.name, call.index): call.output for call in calls}
    fill = cut.filler(len(example), value)
    guilty = []
    for spoiled in plan:
        stand_ins = [tree_map(fill, call.output) if call is spoiled else whole[call.name, call.index] for call in plan]
        if wrong(cut.decode_with(features, size, stand_ins, example)):
            guilty.append(spoiled.name)
    return message(
        f'split: the cut at "{cut.at}" leaks.',
        given=f"read after the cut{when}, made before it: " + (", ".join(repr(n) for n in guilty) or "the images themselves"),
        needed="everything that the decoder reads crosses the cut",
        advice="A skip connection goes round this layer. Cut before it begins, after it ends, or at the layer that returns all of it\n"
        '(often the whole encoder, such as "encoder" or "backbone").',
    )


def _has_nan(out: Any) -> bool:
    return any(isinstance(leaf, Tensor) and bool(leaf.isnan().any()) for leaf in tree_flatten(out)[0])


def _same(out: Any, plain: Any) -> bool:
    """Equal bit for bit, NaN equal to NaN, in all tensors of two outputs."""
    a, b = tree_flatten(out)[0], tree_flatten(plain)[0]
    return len(a) == len(b) and all(
        torch.equal(x.nan_to_num(), y.nan_to_num()) and torch.equal(x.isnan(), y.isnan()) if isinstance(x, Tensor) else True
        for x, y in zip(a, b, strict=True)
    )
