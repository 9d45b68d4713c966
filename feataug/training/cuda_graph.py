"""A loss as CUDA graphs: one launch for its forward pass and one for its backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn

from feataug.errors import FeatAugWarning


def can_capture(accelerator: Accelerator, objective: str) -> bool:
    """Whether the training step can be captured in a CUDA graph.

    Warns:
        FeatAugWarning: it cannot, and why.
    """
    if objective != "flow":
        reason = f"the step of the objective {objective!r} draws and decides between its parts"
    elif accelerator.device.type != "cuda":
        reason = f"the device is {accelerator.device}"
    elif accelerator.num_processes > 1:
        reason = f"{accelerator.num_processes} processes average their gradients during the backward pass"
    else:
        return True
    warnings.warn(f"GeneratorTrainer: cuda_graph=True has no effect: {reason}. Training goes on without.", FeatAugWarning, stacklevel=4)
    return False


class GraphedLoss:
    """A loss that is captured for the shapes of its first batch and replayed for all batches of these shapes.

    Batches of other shapes, such as a smaller last one, are computed without a graph. Nothing within the loss may wait for the device or
    copy from another one.

    Args:
        make: Makes the loss module, whose forward takes tensors, or lists of them, and returns tensors. It is called twice, since a
            captured module has no plain forward pass any more; both modules share their parameters.
        accelerator: Gives the precision.

    Source:
        ``torch.cuda.make_graphed_callables``.
    """

    def __init__(self, make: Callable[[], nn.Module], accelerator: Accelerator) -> None:
        self.make, self.plain, self.accelerator = make, make(), accelerator
        self.graphed: Any = None
        self.shapes: list[torch.Size] = []

    def __call__(self, *inputs: Any) -> Any:
        """The loss. What a graph returns is overwritten by its next replay."""
        leaves: list[Tensor] = torch.utils._pytree.tree_leaves(inputs)
        shapes = [leaf.shape for leaf in leaves]
        # A graph holds the weights as they were cast when it was captured, unless every replay casts them again.
        with self.accelerator.autocast(AutocastKwargs(cache_enabled=False)):
            if self.graphed is None:
                # The graph always reads its inputs from where they lie now. Copies are not overwritten by anyone else.
                static = torch.utils._pytree.tree_map(lambda leaf: leaf.detach().clone(), inputs)
                self.graphed = torch.cuda.make_graphed_callables(self.make(), static, allow_unused_input=True)
                self.shapes = shapes
            return (self.graphed if shapes == self.shapes else self.plain)(*inputs)
