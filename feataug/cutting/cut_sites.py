"""The layers of a cut: run a model as far as the cut, and collect what crosses there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from feataug.cutting.call_trace import Call, ForwardStopped
from feataug.cutting.containers import map_tensors
from feataug.cutting.gradient_checkpoints import Checkpoint, reentrant_error, surrounding_checkpoint
from feataug.cutting.hooks import CutHook


@dataclass(eq=False)
class CutSite:
    """One layer of the cut, at the input or the output of one of its calls.

    Args:
        name: The name that the user gave.
        module: The layer.
        hook: The hook on the layer.
        copies: Whether the value is copied when it is collected, because the model writes to it before the cut is complete.
    """

    name: str
    module: nn.Module
    hook: CutHook
    copies: bool = False

    def is_at(self, call: Call) -> bool:
        """Whether this is the call at which the layer is cut."""
        return call.module is self.module and call.index == self.hook.index


class CrossingCollector:
    """Collects the values that pass the sites, and stops the model when the last one has arrived.

    Args:
        sites: The sites.
    """

    def __init__(self, sites: Sequence[CutSite]) -> None:
        self.sites = sites
        self.values: list[Any] = [None] * len(sites)
        self._missing = set(range(len(sites)))
        self._with_gradients = torch.is_grad_enabled()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Collect during a call of the model.

        Raises:
            ForwardStopped: every site has been passed.
            SplitError: a site lies inside a reentrant checkpoint, and gradients are wanted.
        """
        with ExitStack() as stack:
            for number, site in enumerate(self.sites):
                stack.enter_context(site.hook.applying(partial(self._collect, number)))
            yield

    def run(self, forward: Callable[[], Any]) -> bool:
        """Call ``forward``; whether the model passed every site."""
        with self.active():
            try:
                forward()
            except ForwardStopped:
                return True
        return False

    def _collect(self, number: int, value: Any) -> None:
        if self._with_gradients and not torch.is_grad_enabled() and surrounding_checkpoint(at_output=True) is Checkpoint.REENTRANT:
            raise reentrant_error("cut.encode")
        self._missing.discard(number)
        if not self._missing:
            self.values[number] = value
            raise ForwardStopped
        # Decoding repeats in-place operations between this site and the end of the cut, so it needs the value from before them.
        self.values[number] = map_tensors(Tensor.clone, value) if self.sites[number].copies else value
