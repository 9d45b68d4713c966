"""Is a cut complete, and what of it is read? Spoil what was made before it, and see whether the output changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from feataug.errors import SplitError, message
from feataug.halves import Halves
from feataug.levels import Layout
from feataug.recording import eval_mode, training_paths
from feataug.replay import fill, observe, reached

NAN = float("nan")


class Probe:
    """The decoder as a function of everything that could reach it, in one mode of the model.

    Args:
        cut: The cut, whose example is used.
        changed: Tells an output that something spoiled from a good one.
        fills: What to spoil by; two, since a NaN can be swallowed (by a maximum, by a comparison).
    """

    def __init__(self, cut: Halves, changed: Callable[[Any], bool], fills: tuple[float, ...]) -> None:
        self.cut, self.changed, self.fills = cut, changed, fills
        self.images = cut.example.images
        self.plan = cut.plan(cut.example.size, self.images.device)
        self.crossing = cut.take()
        self._true: list[Any] | None = None

    def output(
        self, value: float, *, stubs: set[int] | None = None, leaves: set[tuple[int, int]] | None = None, images: bool = True
    ) -> Any:
        """Decode with ``value`` in the stand-ins numbered ``stubs`` (all if ``None``), in those ``leaves`` that cross, in the images."""
        steps = self.plan.stubs()
        true = self.true_outputs() if stubs is not None else []
        stand_ins = [
            fill(step.output, len(self.images), self.images.device, value) if stubs is None or number in stubs else true[number]
            for number, step in enumerate(steps)
        ]
        crossing = []
        for site, tree in enumerate(self.crossing):
            values, structure = tree_flatten(tree)
            kept = [spoil(leaf, value) if leaves and (site, n) in leaves else _clone(leaf) for n, leaf in enumerate(values)]
            crossing.append(tree_unflatten(kept, structure))
        return self.cut.replay(crossing, stand_ins, torch.full_like(self.images, value) if images else self.images)

    def reads(self, **where: Any) -> bool:
        """Does the output change when this is spoiled? An error while decoding counts as a change."""
        for value in self.fills:
            try:
                if self.changed(self.output(value, **where)):
                    return True
            except Exception:
                return True
        return False

    def true_outputs(self) -> list[Any]:
        """What the stubs stand in for."""
        if self._true is None:
            calls, _ = observe(self.cut.model, self.cut.sites, self.cut.call_example)
            met = [call for call, _ in reached(calls, self.cut.sites)]
            self._true = [call.output for call, step in zip(met, self.plan.steps, strict=True) if step.kind == "stub"]
        return self._true

    def leaking(self) -> list[str]:
        """Names of the calls before the cut whose outputs are read after it."""
        found = [step.name for n, step in enumerate(self.plan.stubs()) if self.reads(stubs={n}, images=False)]
        return list(dict.fromkeys(found))


@contextmanager
def probing(cut: Halves, plain: Any, *, training: bool) -> Iterator[Probe | None]:
    """A probe of the cut in eval mode, or along the paths that only training takes; ``None`` where those cannot be tried."""
    if not training:
        with eval_mode(cut.model), torch.no_grad():
            yield Probe(cut, lambda out: not same(out, plain), (NAN, 7.0))
        return
    with training_paths(cut.model, cut.example.images), torch.no_grad():
        try:
            # It may draw, so NaN is looked for, and not equality.
            probe = Probe(cut, has_nan, (NAN,)) if not has_nan(cut.call_example()) else None
        except Exception:  # a forward that wants targets while it trains: nothing can be told here
            probe = None
        yield probe


def find_leaks(cut: Halves, plain: Any) -> tuple[list[str], str] | None:
    """The layers that are read round the cut (none named: the images are) and in which mode; ``None`` if the cut is complete."""
    for training in (False, True):
        with probing(cut, plain, training=training) as probe:
            if probe is not None and probe.reads():
                return probe.leaking(), ", in training" if training else ""
    return None


def find_live(cut: Halves, plain: Any, layouts: dict[tuple[int, int], Layout | None]) -> dict[tuple[int, int], str]:
    """Which of the tensors that cross are read: ``"map"``, or ``"all"`` where class and register tokens are read, too."""
    live: dict[tuple[int, int], str] = {}
    for training in (False, True):
        with probing(cut, plain, training=training) as probe:
            if probe is None:
                continue
            for key, layout in layouts.items():
                if key not in live and probe.reads(leaves={key}):
                    live[key] = "map"
                if (
                    layout is not None
                    and layout.kind == "nlc"
                    and layout.prefix
                    and live.get(key) == "map"
                    and _prefix_is_read(probe, key, layout.prefix)
                ):
                    live[key] = "all"
    return live


def _prefix_is_read(probe: Probe, key: tuple[int, int], prefix: int) -> bool:
    site, number = key
    values, structure = tree_flatten(probe.crossing[site])
    kept = values[number]
    try:
        for value in probe.fills:
            spoiled = kept.clone()
            spoiled[:, :prefix] = value
            probe.crossing[site] = tree_unflatten([*values[:number], spoiled, *values[number + 1 :]], structure)
            if probe.changed(probe.output(value)):
                return True
        return False
    finally:
        probe.crossing[site] = tree_unflatten(values, structure)


def leak_error(label: str, names: list[str], when: str, complete: list[str]) -> SplitError:
    """The message for a leaking cut, with the complete cuts that were found."""
    if complete:
        advice = "A skip connection goes round this layer. Complete cuts: " + "\n".join(
            ("" if number == 0 else " " * 16 + "or ") + f"split(model, at={at})" for number, at in enumerate(complete)
        )
    elif names:
        advice = "A skip connection goes round this layer. feataug.cuts(model, images) lists the places where a cut is complete."
    else:
        advice = "No layer can stand for the images: cut a model whose decoder does not read them."
    return SplitError(
        message(
            f"split: the cut at {label} leaks.",
            given=f"read after the cut{when}, made before it: " + (", ".join(repr(n) for n in names) or "the images themselves"),
            needed="everything that the decoder reads crosses the cut",
            advice=advice,
        )
    )


def spoil(leaf: Any, value: float) -> Any:
    """A tensor with other contents; anything else stays."""
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.is_floating_point():
        return torch.full_like(leaf, value)
    return ~leaf if leaf.dtype == torch.bool else torch.zeros_like(leaf)


def has_nan(out: Any) -> bool:
    """Is there a NaN in any tensor?"""
    return any(isinstance(leaf, Tensor) and bool(leaf.isnan().any()) for leaf in tree_leaves(out))


def same(out: Any, plain: Any, *, exact: bool = True) -> bool:
    """Equal in all tensors of two outputs, NaN equal to NaN: bit for bit on CPU, nearly on a GPU, whose kernels may be others."""

    def equal(x: Any, y: Any) -> bool:
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            return True
        if x.shape != y.shape or not torch.equal(x.isnan(), y.isnan()):
            return False
        x, y = x.nan_to_num(), y.nan_to_num()
        return torch.equal(x, y) if exact and x.device.type == "cpu" else torch.allclose(x, y, rtol=1e-3, atol=1e-4)

    a, b = tree_leaves(out), tree_leaves(plain)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def _clone(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
