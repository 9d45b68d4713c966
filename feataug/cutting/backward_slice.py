"""Is a cut complete, by the dataflow of a traced pass? Go back from the output over everything that decoding would run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from feataug.cutting.call_trace import Call
from feataug.cutting.capture import Captured
from feataug.cutting.dataflow import Dataflow


@dataclass(eq=False)
class Needs:
    """What the decoder reads of what was there before the cut.

    Attributes:
        leaks: Names of the replaced calls that made a tensor which is read round the cut, in the order of the pass.
        images: Whether the images are read themselves.
        crossing: Storages of tensors that cross and are read.
        given: All other storages that are read and made by no operation: parameters, buffers, further arguments.
    """

    leaks: list[str] = field(default_factory=list)
    images: bool = False
    crossing: set[int | None] = field(default_factory=set)
    given: set[int | None] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        """Whether what crosses is all that is read."""
        return not self.leaks and not self.images


def decoder_needs(flow: Dataflow, replaced: Sequence[tuple[Call, float]], captured: Sequence[Captured]) -> Needs:
    """What decoding would read, by storages.

    Args:
        flow: Of a whole pass.
        replaced: The calls that decoding does not make, and when each is over: stand-ins return at once, a layer of the cut before the
            hooks of others.
        taken: What crosses at each site.

    Two names for one memory (an activation in place, and its input) look alike here: decoding once with spoiled stand-ins tells them apart.

    Source:
        Ours.
    """
    intervals = sorted(((call.start, end, call.name) for call, end in replaced), key=lambda interval: interval[0])
    starts = [start for start, _, _ in intervals]
    arrivals = sorted(captured, key=lambda item: item.time)
    needed = set(flow.outputs or ())
    needs, leaks = Needs(), {}

    def arrive(item: Captured) -> None:
        hit = needed & item.keys
        needs.crossing.update(hit)
        needed.difference_update(hit)

    for operation in reversed(flow.operations):
        while arrivals and arrivals[-1].time > operation.time:
            arrive(arrivals.pop())
        number = bisect_right(starts, operation.time) - 1
        if number >= 0 and operation.time < intervals[number][1]:
            if lost := needed & operation.writes:
                leaks[number] = intervals[number][2]
                needed -= lost
        elif flow.outputs is None or not needed.isdisjoint(operation.writes):
            needed -= {key for key in operation.writes if flow.made.get(key) == operation.time}
            needed |= operation.reads
    for item in reversed(arrivals):
        arrive(item)
    needs.leaks = list(dict.fromkeys(name for _, name in sorted(leaks.items())))
    needs.images = flow.images in needed
    needs.given = needed - {flow.images}
    return needs
