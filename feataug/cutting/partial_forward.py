"""Run a model from the cut on: what came before it is not called, but stood in for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from feataug.cutting.call_trace import replaced_forwards
from feataug.cutting.cut_sites import CutSite, invoke
from feataug.cutting.decode_plan import DecodePlan
from feataug.cutting.hooks import checkpointed
from feataug.errors import SplitError, message


@contextmanager
def replaying(plan: DecodePlan, sites: Sequence[CutSite], crossing: Sequence[Any], placeholders: Sequence[Any]) -> Iterator[None]:
    """Within, a call of the model starts at the cut: ``crossing`` comes out of the sites, ``placeholders`` out of the plan's stubs."""
    queues: dict[nn.Module, deque[tuple[str, Any]]] = {}
    left = iter(placeholders)
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
        stack.enter_context(replaced_forwards(stubs))
        for number, site in enumerate(sites):
            if site.port.before:
                stack.enter_context(site.port.applying(putter(crossing[number]), plan.skipped[number]))
        yield
