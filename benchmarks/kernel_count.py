"""How many kernels a piece of work launches, counted on any machine: operators that reach a backend, without those that compute nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# They allocate memory, look at it in another shape or leave marks for the profiler.
NOTHING = ("empty", "_unsafe_view", "as_strided", "_record_function", "lift_fresh", "detach", "is_same_size")


class KernelCount(TorchDispatchMode):
    """Counts operators while it is active, by name.

    Views and allocations are left out. An operator counts once, though some launch several kernels on a GPU (a sort, a sum over all of a tensor):
    the count is a lower bound, and the same on every device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        returned = [value.alias_info for value in func._schema.returns]
        view = any(info is not None and not info.is_write for info in returned)
        if not view and not any(part in name for part in NOTHING):
            self.operators[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.operators.values())


def kernels(work: Callable[[], Any]) -> int:
    """Operators that ``work`` runs in its second call: the first may prepare what later ones share."""
    work()
    with KernelCount() as count:
        work()
    return count.total
