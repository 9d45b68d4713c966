"""Notice that a layer of the cut runs inside a gradient checkpoint (``torch.utils.checkpoint``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from feataug.errors import SplitError

_TORCH = os.path.dirname(torch.__file__)
_LAYERS, _MODULE_CALL = os.path.dirname(nn.modules.module.__file__), nn.modules.module.__file__
_CUTTING = os.path.dirname(__file__)


class Checkpoint(Enum):
    """The two implementations of ``torch.utils.checkpoint``."""

    REENTRANT = "reentrant"
    NON_REENTRANT = "non-reentrant"


def call_model(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the model. ``surrounding_checkpoint`` looks as far as this frame: a checkpoint around the whole call does no harm."""
    return call(*args, **kwargs)


def surrounding_checkpoint(*, at_output: bool) -> Checkpoint | None:
    """The gradient checkpoint inside the model whose segment the running code belongs to, if there is one.

    torch has no function that tells this. Hooks for saved tensors do not show where a segment begins, and a reentrant checkpoint
    leaves no trace but the gradient mode. So this reads Python's call stack, and relies on two facts about torch: that
    ``CheckpointFunction.forward`` runs the segment of a reentrant checkpoint, and that a function in the file of
    ``torch.utils.checkpoint`` runs that of the other kind. ``tests/cutting/test_gradient_checkpoints.py`` runs real checkpoints,
    and fails if a version of torch changes either.

    Args:
        at_output: The caller returns a module's output in place of the module. A non-reentrant segment that consists of this module
            alone is then no obstacle: nothing of it is left to recompute.
    """
    frame = sys._getframe(1)
    found, inside_segment = None, not at_output
    while frame is not None and frame.f_code is not call_model.__code__:
        file = frame.f_code.co_filename
        if frame.f_code is checkpoint.CheckpointFunction.forward.__code__:
            return Checkpoint.REENTRANT
        if file == checkpoint.__file__:
            found = Checkpoint.NON_REENTRANT if inside_segment else found
        elif file != _MODULE_CALL and os.path.dirname(file) != _CUTTING:
            # Code of the model, or a container such as nn.Sequential: the segment is more than one module.
            inside_segment |= file.startswith(_LAYERS) or not file.startswith(_TORCH)
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else found


def reentrant_error(who: str) -> SplitError:
    """A reentrant checkpoint runs its segment without gradients, and again from the segment's inputs in backward."""
    return SplitError(
        f"{who}: the cut lies inside a reentrant gradient checkpoint.",
        given="torch.utils.checkpoint(..., use_reentrant=True) around a layer of the cut: gradients would be lost",
        needed="use_reentrant=False, or a cut where a checkpointed segment ends",
    )


def in_backward() -> bool:
    """Whether gradients are being computed; a layer that is called then is being recomputed by a checkpoint."""
    return torch._C._current_graph_task_id() != -1
