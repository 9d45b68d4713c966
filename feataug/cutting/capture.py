"""Capture the values that pass the layers of a cut while a model runs to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from feataug.cutting.call_trace import TensorInfo
from feataug.cutting.containers import leaves_of, map_tensors
from feataug.cutting.cut_sites import CutSite
from feataug.cutting.dataflow import Dataflow


@dataclass(eq=False)
class Captured:
    """The value that passed one call of a layer.

    Attributes:
        time: When it passed, by the trace's clock.
        value: The value, with copies of its tensors.
        info: The value, with a ``TensorInfo`` for each tensor.
    """

    time: int
    value: Any
    info: Any

    @property
    def keys(self) -> set[int | None]:
        """The storages of its tensors."""
        return {leaf.key for leaf in leaves_of(self.info) if isinstance(leaf, TensorInfo)}


class Capture:
    """Captures the outputs of layers, before the hooks of others have seen them, or their inputs.

    Args:
        model: The model.
        at: Names of layers, as ``split`` takes them; unknown ones are ignored.
    """

    def __init__(self, model: nn.Module, at: Sequence[str]) -> None:
        self.model, self.at = model, at
        # By layer, number of its call, and whether it is the input.
        self._captured: dict[tuple[nn.Module, int, bool], Captured] = {}
        self._counts: dict[tuple[nn.Module, bool], int] = {}

    def at_sites(self, sites: Sequence[CutSite]) -> list[Captured] | None:
        """The values that passed the sites; ``None`` if a site was not reached."""
        found = [self._captured.get((site.module, site.hook.index, site.hook.before)) for site in sites]
        return None if None in found else [item for item in found if item is not None]

    @contextmanager
    def during(self, flow: Dataflow) -> Iterator[None]:
        """Capture while this context is active."""
        handles = []
        modules = dict(self.model.named_modules())
        for name in self.at:
            layer, _, side = name.partition(":")
            module = modules.get(layer)
            if module is None or isinstance(module, torch.jit.ScriptModule):
                continue
            if side == "":
                handles.append(module.register_forward_hook(partial(self._store_output, flow), prepend=True))
            # Which activation makes a block's output is known only when the block has ended, so the inputs of all are captured.
            inputs = [module] if side == "input" else filter(is_activation, module.modules()) if side == "pre_act" else ()
            hook = partial(self._store_input, flow, side == "input")
            handles += [layer.register_forward_pre_hook(hook, prepend=True, with_kwargs=True) for layer in inputs]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _store_output(self, flow: Dataflow, module: nn.Module, args: Any, output: Any) -> None:
        self._store(flow, True, module, False, output)

    def _store_input(self, flow: Dataflow, last_only: bool, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._store(flow, last_only, module, True, (args, kwargs))

    def _store(self, flow: Dataflow, last_only: bool, module: nn.Module, before: bool, value: Any) -> None:
        number = self._counts.get((module, before), -1) + 1
        self._counts[module, before] = number
        if last_only:
            # A layer is cut at its last call.
            self._captured.pop((module, number - 1, before), None)
        with flow.paused():
            copy = map_tensors(Tensor.clone, value)
        self._captured[module, number, before] = Captured(next(flow.clock), copy, map_tensors(flow.describe, value))


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation, such as ReLU."""
    return "activation" in type(module).__module__
