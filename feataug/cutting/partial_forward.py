"""Run only the layers after the cut; earlier layers return placeholders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from feataug.cutting.call_trace import replaced_forwards
from feataug.cutting.cut_sites import CutSite
from feataug.cutting.decode_plan import DecodePlan
from feataug.cutting.encoder_pass import CallRole
from feataug.cutting.gradient_checkpoints import Checkpoint, reentrant_error, surrounding_checkpoint
from feataug.errors import SplitError

# For each call of a module, in order: what decoding does with it, and the value that it returns instead of running.
Results = deque[tuple[CallRole, Any]]


class PartialForward:
    """A forward pass that starts at the cut.

    Args:
        plan: The calls before the cut.
        sites: The sites of the cut.
        crossing: The value that crosses at each site.
        placeholders: The values that the calls of the encoder return, in their order.
    """

    def __init__(self, plan: DecodePlan, sites: Sequence[CutSite], crossing: Sequence[Any], placeholders: Sequence[Any]) -> None:
        self._plan, self._sites, self._crossing = plan, sites, crossing
        self._with_gradients = torch.is_grad_enabled()
        self._results: dict[nn.Module, Results] = {}
        remaining = iter(placeholders)
        for call in plan.calls:
            value = None
            if call.role is CallRole.PLACEHOLDER:
                value = next(remaining)
            elif call.role is CallRole.FEATURES:
                value = crossing[call.site]
            self._results.setdefault(call.module, deque()).append((call.role, value))

    @contextmanager
    def active(self) -> Iterator[None]:
        """A call of the model inside this context runs the decoder alone."""
        replaced = {
            module: partial(self._forward, module.forward, results)
            for module, results in self._results.items()
            if any(role is not CallRole.EXECUTE for role, _ in results)
        }
        with ExitStack() as stack:
            stack.enter_context(replaced_forwards(replaced))
            for number, site in enumerate(self._sites):
                if site.hook.before:
                    stack.enter_context(site.hook.applying(partial(self._replace_input, number), self._plan.skipped[number]))
            yield

    def _forward(self, original: Callable[..., Any], results: Results, /, *args: Any, **kwargs: Any) -> Any:
        role, value = results.popleft() if results else (CallRole.EXECUTE, None)
        if role is CallRole.EXECUTE:
            return original(*args, **kwargs)
        if role is CallRole.FEATURES:
            self._check_checkpoints(at_output=True)
        return value

    def _replace_input(self, number: int, _: Any) -> Any:
        self._check_checkpoints(at_output=False)
        return self._crossing[number]

    def _check_checkpoints(self, *, at_output: bool) -> None:
        kind = surrounding_checkpoint(at_output=at_output) if self._with_gradients else None
        if kind is Checkpoint.REENTRANT:
            raise reentrant_error("cut.decode")
        if kind is not None:
            raise SplitError(
                "cut.decode: the cut lies inside a gradient checkpoint.",
                given="a layer of the cut, called by torch.utils.checkpoint",
                needed="a segment that is recomputed from its own inputs, which decode does not have",
                advice="Cut where a checkpointed segment ends, switch checkpointing off, or mix by `with cut.mixing(...)` in the model's\n"
                "own pass.",
            )
