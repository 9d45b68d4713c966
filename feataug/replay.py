"""Run a model from the cut on: what came before it is not called, but stood in for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from feataug.errors import SplitError, message
from feataug.port import Port, checkpointed
from feataug.recording import Call, Stopped, patched, watch


@dataclass(eq=False)
class Site:
    """One layer of the cut: its ``index``-th call, at its input or its output."""

    name: str
    module: nn.Module
    port: Port

    def is_at(self, call: Call) -> bool:
        """Is this the call?"""
        return call.module is self.module and call.index == self.port.index


@dataclass(frozen=True)
class Template:
    """A tensor's shape as a function of the batch size: ``base + step * (batch - 1)``. The leading dimension need not be the batch."""

    base: tuple[int, ...]
    step: tuple[int, ...]
    dtype: torch.dtype

    def make(self, batch: int, device: torch.device, value: float | None) -> Tensor:
        """Uninitialised memory, or filled with ``value``: nobody will read it."""
        shape = [base + step * (batch - 1) for base, step in zip(self.base, self.step, strict=True)]
        empty = torch.empty(shape, dtype=self.dtype, device=device)
        if value is None:
            return empty
        return empty.fill_(value) if self.dtype.is_floating_point else empty.zero_()

    def zeros(self, batch: int, device: torch.device) -> Tensor:
        """Zeros that take no memory; they cannot be written to."""
        shape = [base + step * (batch - 1) for base, step in zip(self.base, self.step, strict=True)]
        return torch.zeros((), dtype=self.dtype, device=device).expand(shape)


@dataclass(eq=False)
class Step:
    """A call that decoding meets before the cut: stood in for (``"stub"``), replaced by what crosses (``"site"``), or made (``"run"``)."""

    name: str
    module: nn.Module
    kind: str
    output: Any = None
    site: int = -1


@dataclass(eq=False)
class Plan:
    """What decoding meets before the cut, for one image size.

    Attributes:
        steps: In the order of their calls.
        crossing: What crosses at each site, with templates for tensors.
        skipped: For each site, how often its layer is called before it is reached.
    """

    steps: list[Step]
    crossing: list[Any]
    skipped: list[int]

    def stubs(self) -> list[Step]:
        """The steps that stand in for the encoder."""
        return [step for step in self.steps if step.kind == "stub"]


def observe(model: nn.Module, sites: Sequence[Site], run: Callable[[], Any]) -> tuple[list[Call], list[Any]]:
    """Run the model up to its last site; its calls until then, and what crosses at each site."""
    with collecting(sites) as taken:
        calls, _ = watch(model, run)
    return calls, taken


@contextmanager
def collecting(sites: Sequence[Site]) -> Iterator[list[Any]]:
    """Take what passes the sites, and leave the model when all of it is there."""
    taken: list[Any] = [None] * len(sites)
    missing = set(range(len(sites)))
    graded = torch.is_grad_enabled()

    def taker(number: int, before: bool) -> Callable[[Any], None]:
        def take(value: Any) -> None:
            if graded and not torch.is_grad_enabled() and checkpointed(invoke.__code__) == "reentrant":
                raise SplitError(
                    message(
                        "cut.encode: the cut lies inside a reentrant gradient checkpoint.",
                        given="torch.utils.checkpoint(..., use_reentrant=True) around a layer of the cut: gradients would be lost",
                        needed="use_reentrant=False, or a cut where a checkpointed segment ends",
                    )
                )
            missing.discard(number)
            if not missing:
                taken[number] = value
                raise Stopped
            # An activation that follows may work in place, and the decoder will run it again.
            taken[number] = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value) if before else value

        return take

    with ExitStack() as stack:
        for number, site in enumerate(sites):
            stack.enter_context(site.port.doing(taker(number, site.port.before)))
        yield taken


def make_plan(model: nn.Module, sites: Sequence[Site], run: Callable[[int], Any], constant: Callable[[Call], bool]) -> Plan:
    """Watch one and two samples go as far as the cut; ``constant`` calls do not depend on the images and are made again."""
    first, second = observe(model, sites, lambda: run(1)), observe(model, sites, lambda: run(2))
    steps: list[Step] = []
    skipped = [0] * len(sites)
    ours, theirs = (list(reached(calls, sites)) for calls, _ in (first, second))
    if [call.name for call, _ in ours] != [call.name for call, _ in theirs]:
        raise SplitError(
            message("split: the model calls other layers for another batch size.", given="1 and 2 images", needed="the same calls")
        )
    for (call, kind), (other, _) in zip(ours, theirs, strict=True):
        at = next((number for number, site in enumerate(sites) if site.is_at(call)), -1)
        if at >= 0 and sites[at].port.before:
            skipped[at] = sum(step.module is call.module for step in steps)
        if kind == "stub" and constant(call):
            kind = "run"
        output = tree_template(call.output, other.output) if kind == "stub" else None
        steps.append(Step(call.name, call.module, kind, output, at))
    seen = [step.site for step in steps]
    for number, site in enumerate(sites):
        if site.port.before and number not in seen:
            skipped[number] = sum(step.module is site.module for step in steps)
    crossing = [tree_template(a, b) for a, b in zip(first[1], second[1], strict=True)]
    return Plan(steps, crossing, skipped)


def reached(calls: list[Call], sites: Sequence[Site]) -> Iterator[tuple[Call, str]]:
    """The calls that decoding meets before the cut: outermost ones that are over, and those that the cut lies within."""
    entered = {call for call in calls if call.end is None}
    ends = {call for call in calls for site in sites if site.is_at(call) and not site.port.before}
    for call in calls:
        if any(site.is_at(call) for site in sites):
            entered.add(call) if call not in ends else None
            while call.parent is not None:
                call = call.parent
                entered.add(call)
    entered -= ends
    met = set()
    for call in calls:
        if call.parent is None or call.parent in met:
            if call in entered:
                met.add(call)
            yield call, "site" if call in ends else "run" if call in entered else "stub"


def tree_template(first: Any, second: Any) -> Any:
    """The same value with a ``Template`` for each tensor, from runs with one sample and with two."""

    def one(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor):
            return a
        return Template(tuple(a.shape), tuple(y - x for x, y in zip(a.shape, b.shape, strict=True)), a.dtype)

    return tree_map(one, first, second)


def fill(tree: Any, batch: int, device: torch.device, value: float | None = None) -> Any:
    """A value with tensors in place of templates."""
    return tree_map(lambda leaf: leaf.make(batch, device, value) if isinstance(leaf, Template) else leaf, tree)


@contextmanager
def replaying(plan: Plan, sites: Sequence[Site], crossing: Sequence[Any], stand_ins: Sequence[Any]) -> Iterator[None]:
    """Within, a call of the model starts at the cut: ``crossing`` comes out of the sites, ``stand_ins`` out of the plan's stubs."""
    queues: dict[nn.Module, deque[tuple[str, Any]]] = {}
    left = iter(stand_ins)
    for step in plan.steps:
        value = next(left) if step.kind == "stub" else crossing[step.site] if step.kind == "site" else None
        queues.setdefault(step.module, deque()).append((step.kind, value))

    def stub(module: nn.Module, queue: deque[tuple[str, Any]]) -> Callable[..., Any]:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            kind, value = queue.popleft() if queue else ("run", None)
            if kind == "run":
                return original(*args, **kwargs)
            if kind == "site":
                mind_checkpoints()
            return value

        return forward

    def putter(value: Any) -> Callable[[Any], Any]:
        def put(_: Any) -> Any:
            mind_checkpoints()
            return value

        return put

    graded = torch.is_grad_enabled()

    def mind_checkpoints() -> None:
        kind = checkpointed(invoke.__code__) if graded else None
        if kind == "reentrant":
            raise SplitError(
                message(
                    "cut.decode: the cut lies inside a reentrant gradient checkpoint.",
                    given="torch.utils.checkpoint(..., use_reentrant=True) around a layer of the cut: gradients would be lost",
                    needed="use_reentrant=False, or a cut where a checkpointed segment ends",
                )
            )
        if kind:
            raise SplitError(
                message(
                    "cut.decode: the cut lies inside a gradient checkpoint.",
                    given="a layer of the cut, called by torch.utils.checkpoint",
                    needed="a segment that is recomputed from its own inputs, which decode does not have",
                    advice="Cut where a checkpointed segment ends, switch checkpointing off, or mix by `with cut.mixing(...)` in the model's\n"
                    "own pass.",
                )
            )

    stubs = {module: stub(module, queue) for module, queue in queues.items() if any(kind != "run" for kind, _ in queue)}
    with ExitStack() as stack:
        stack.enter_context(patched(stubs))
        for number, site in enumerate(sites):
            if site.port.before:
                stack.enter_context(site.port.doing(putter(crossing[number]), plan.skipped[number]))
        yield


def invoke(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the model. A frame of its own, so that a checkpoint further in is told from one further out."""
    return call(*args, **kwargs)
