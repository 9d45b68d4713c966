"""What the decoder reads of what was made before the cut: follow a traced pass back from its output."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from feataug.cutting.call_trace import Call
from feataug.cutting.capture import Captured
from feataug.cutting.dataflow import Dataflow


@dataclass(eq=False)
class Needs:
    """What the decoder reads of what existed before the cut.

    Attributes:
        leaks: Names of the replaced calls whose tensors are read without crossing the cut, in the order of the pass.
        images: Whether the decoder reads the images.
        crossing: Storages of the tensors that cross and are read.
        given: Other storages that are read and that no operation made: parameters, buffers, further arguments.
    """

    leaks: list[str] = field(default_factory=list)
    images: bool = False
    crossing: set[int | None] = field(default_factory=set)
    given: set[int | None] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        """Whether the decoder reads only what crosses."""
        return not self.leaks and not self.images


def decoder_needs(flow: Dataflow, replaced: Sequence[tuple[Call, float]], captured: Sequence[Captured]) -> Needs:
    """The storages that decoding would read.

    A tensor and the result of an operation in place on it share a storage, so they look alike here. Decoding with other
    placeholders tells them apart.

    Args:
        flow: The dataflow of a whole pass.
        replaced: The calls that decoding does not make, and when each ends. A layer of the cut ends before the hooks of others.
        captured: The value that crosses at each site.
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
