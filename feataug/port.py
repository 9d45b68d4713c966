"""The place in a model where features leave and enter."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from feataug.checks import describe
from feataug.errors import ShapeError, SplitError, message


class Port:
    """The place in the model where features leave and enter; idle unless an action is set."""

    def __init__(self, call: int, before: bool) -> None:
        self.call, self.before = call, before
        self.action: Callable[[Any], Any] | None = None
        self.left = 0
        # Set by the cut, so that a mixer which is given the model finds the cut; weak, since the cut owns the port.
        self.cut: weakref.ref[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"call": self.call, "before": self.before, "action": None, "left": 0, "cut": None}

    @contextmanager
    def doing(self, action: Callable[[Any], Any], call: int | None = None) -> Iterator[None]:
        """Apply ``action`` to what passes at the ``call``-th call of the layer from now on."""
        if self.action is not None:
            raise SplitError(
                message(
                    "feataug: the cut is in use.", given="encode, decode or mixing inside `with cut.mixing`", needed="one at a time"
                )
            )
        self.action, self.left = action, self.call if call is None else call
        try:
            yield
        finally:
            self.action = None

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> Any:
        """The forward hook, or the forward pre-hook where the cut is at a layer's input."""
        if self.action is None:
            return None
        self.left -= 1
        if self.left != -1:
            return None
        if self.before:
            return (self.action(args[0]), *args[1:])
        return self.action(output)

    @contextmanager
    def mixing(self, synthetic: Sequence[Tensor]) -> Iterator[None]:
        """See ``Cut.mixing``."""
        arrived = []

        def append(value: Any) -> Any:
            leaves, structure = tree_flatten(value)
            if len(leaves) != len(synthetic):
                raise ShapeError(
                    message(
                        "cut.mixing: the synthetic features do not fit the cut.",
                        given=f"{len(synthetic)} tensors",
                        needed=f"{len(leaves)} tensors",
                    )
                )
            arrived.append(True)
            return tree_unflatten([join(real, new) for real, new in zip(leaves, synthetic, strict=True)], structure)

        with self.doing(append):
            yield
        if not arrived:
            raise SplitError(
                message(
                    "cut.mixing: the model did not pass the cut.",
                    given="no forward pass of the cut's model inside `with cut.mixing(...)`",
                    needed="one call of the model that was split",
                    advice="Is another copy of the model trained? Split the one that you train, before torch.compile.",
                )
            )


def join(real: Tensor, synthetic: Tensor) -> Tensor:
    """Real samples, then synthetic ones, in the real ones' device, dtype and memory format."""
    if synthetic.shape[1:] != real.shape[1:]:
        raise ShapeError(
            message(
                "cut.mixing: the synthetic features do not fit the cut.",
                given=describe(synthetic),
                needed=f"[n, {', '.join(map(str, real.shape[1:]))}]",
                advice="Generate from masks of the images' size, by a generator that was trained for this cut.",
            )
        )
    wide = real.ndim == 4 and real.is_contiguous(memory_format=torch.channels_last)
    # `cat` would drop channels_last and promote bf16 if the two differed.
    memory_format = torch.channels_last if wide else torch.contiguous_format
    return torch.cat([real, synthetic.to(real.device, real.dtype, memory_format=memory_format)])
