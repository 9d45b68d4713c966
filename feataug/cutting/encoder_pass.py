"""One pass of a model as far as the cut, and what decoding does with its calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from torch import nn

from feataug.cutting.call_trace import Call, TensorInfo, record_calls, uncompiled
from feataug.cutting.containers import leaves_of, map_tensors
from feataug.cutting.cut_sites import CrossingCollector, CutSite
from feataug.cutting.gradient_checkpoints import call_model


class CallRole(Enum):
    """What decoding does with a call before the cut."""

    PLACEHOLDER = "returns a placeholder"
    FEATURES = "returns the features at the cut"
    EXECUTE = "runs, because the cut lies inside it or because it does not depend on the images"


def calls_before_cut(calls: Sequence[Call], sites: Sequence[CutSite], until: float = math.inf) -> Iterator[tuple[Call, CallRole]]:
    """The calls that decoding makes before the cut is complete, with their roles.

    Args:
        calls: The calls of a pass.
        sites: The sites of the cut.
        until: When the cut was complete. Calls that had ended by then get placeholders, and the calls inside them do not happen.
    """
    calls = [call for call in calls if call.start < until]
    entered = {call for call in calls if call.end is None or call.end > until}
    replaced_outputs = {call for call in calls for site in sites if site.is_at(call) and not site.hook.before}
    for call in calls:
        if any(site.is_at(call) for site in sites):
            entered.add(call)
            while call.parent is not None:
                call = call.parent
                entered.add(call)
    entered -= replaced_outputs
    executed = set()
    for call in calls:
        if call.parent is None or call.parent in executed:
            if call in entered:
                executed.add(call)
                yield call, CallRole.EXECUTE
            else:
                yield call, CallRole.FEATURES if call in replaced_outputs else CallRole.PLACEHOLDER


@dataclass(eq=False)
class EncoderPass:
    """One pass of the model as far as the cut.

    Attributes:
        calls: The calls that decoding would make, as ``calls_before_cut`` lists them.
        crossing: The value that crosses at each site, with a ``TensorInfo`` for each tensor.
    """

    calls: list[tuple[Call, CallRole]]
    crossing: list[Any]

    @classmethod
    def of(cls, model: nn.Module, sites: Sequence[CutSite], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> EncoderPass:
        """Call the model with these arguments, and stop it at the cut."""
        collector = CrossingCollector(sites)
        with collector.active():
            calls, _ = record_calls(model, partial(call_model, uncompiled(model), *arguments))
        return cls(list(calls_before_cut(calls, sites)), [map_tensors(TensorInfo.of, value) for value in collector.values])

    def signature(self) -> list[Any]:
        """What must be equal in the passes of a model and of its twin, so that the twin can be measured instead of the model."""
        returned = [
            (call.name, role, [leaf_signature(leaf) for leaf in leaves_of(call.output)])
            for call, role in self.calls
            if role is CallRole.PLACEHOLDER
        ]
        return [*returned, [[leaf_signature(leaf) for leaf in leaves_of(value)] for value in self.crossing]]


def leaf_signature(leaf: Any) -> Any:
    """Shape and dtype of a tensor; the type of anything else."""
    return (leaf.shape, leaf.dtype) if isinstance(leaf, TensorInfo) else type(leaf)
