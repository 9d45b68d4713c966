"""The layers of a cut, and what crosses there: run a model as far as the cut, and no further."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feataug.cutting.call_trace import Call, ForwardStopped, record_calls
from feataug.cutting.containers import map_tensors
from feataug.cutting.hooks import CutHook, checkpointed
from feataug.errors import SplitError, message


@dataclass(eq=False)
class CutSite:
    """One layer of the cut: its ``index``-th call, at its input or its output.

    Args:
        name: As the user gave it.
        module: The layer.
        port: Its hook.
        copies: Whether what passes is copied on its way out, since the model writes to it before the cut is complete.
    """

    name: str
    module: nn.Module
    port: CutHook
    copies: bool = False

    def is_at(self, call: Call) -> bool:
        """Is this the call?"""
        return call.module is self.module and call.index == self.port.index


def observe(model: nn.Module, sites: Sequence[CutSite], run: Callable[[], Any]) -> tuple[list[Call], list[Any]]:
    """Run the model up to its last site; its calls until then, and what crosses at each site."""
    with collecting(sites) as taken:
        calls, _ = record_calls(model, run)
    return calls, taken


@contextmanager
def collecting(sites: Sequence[CutSite]) -> Iterator[list[Any]]:
    """Take what passes the sites, and leave the model when all of it is there."""
    taken: list[Any] = [None] * len(sites)
    missing = set(range(len(sites)))
    graded = torch.is_grad_enabled()

    def taker(number: int, copies: bool) -> Callable[[Any], None]:
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
                raise ForwardStopped
            # The decoder will do again what is done in place from here to the end of the cut.
            taken[number] = map_tensors(Tensor.clone, value) if copies else value

        return take

    with ExitStack() as stack:
        for number, site in enumerate(sites):
            stack.enter_context(site.port.applying(taker(number, site.copies)))
        yield taken


def invoke(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the model. A frame of its own, so that a checkpoint further in is told from one further out."""
    return call(*args, **kwargs)
