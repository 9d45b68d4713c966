"""Is a cut complete, and what of it is read? The traced dataflow tells; decoding with spoiled stand-ins has to agree."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.modes import eval_mode, training_paths
from feataug.core.randomness import seeded as all_seeded
from feataug.core.rng import seeded as torch_seeded
from feataug.cutting.backward_slice import Needs, decoder_needs
from feataug.cutting.call_trace import Call, uncompiled
from feataug.cutting.capture import Capture, Captured
from feataug.cutting.containers import flatten, map_tensors, opaque_types, tensors_of
from feataug.cutting.cut_sites import CutSite
from feataug.cutting.dataflow import Dataflow, trace
from feataug.cutting.decode_plan import EncoderPass, calls_before_cut
from feataug.cutting.example import Example
from feataug.cutting.executor import SplitExecutor
from feataug.cutting.output_comparison import has_nan, same_outputs
from feataug.errors import SplitError, message

# What may be read round a cut besides the outputs of layers.
IMAGES = "the images themselves"
UNTRACED = "a number of Python's, or an array of NumPy's"

# A tensor that crosses, by its site and its number there.
Position = tuple[int, int]


@dataclass(eq=False)
class Trace:
    """One whole pass of a model on its example.

    Attributes:
        calls, output, flow: As ``tracing.trace`` returns them.
        capture: What passed the layers that were named.
        training: Whether the pass went the ways of training.
        seconds: How long it took.
    """

    calls: list[Call]
    output: Any
    flow: Dataflow
    capture: Capture
    training: bool
    seconds: float

    @classmethod
    def of(cls, model: nn.Module, example: Example, at: tuple[str, ...], *, training: bool) -> Trace:
        """Run the model on its example."""
        capture = Capture(model, at)
        args, kwargs = example.arguments(example.images, (), example.tensors)
        run = partial(uncompiled(model), *args, **kwargs)
        began = time.monotonic()
        with seeded(example.images.device):
            calls, output, flow = trace(model, example.followed, run, training=training, during=capture.during)
        if not flow.outputs or None in flow.outputs or any(tensor.is_nested for tensor in tensors_of(output)):
            raise SplitError(
                message(
                    "split: the model's output cannot be looked into.",
                    given=", ".join(opaque_types(output)) or f"{type(output).__name__} without any tensor that has a memory of its own",
                    needed="tensors, in lists, dictionaries, dataclasses, or objects with attributes",
                    advice="Split the part of the model that returns tensors.",
                )
            )
        return cls(calls, output, flow, capture, training, time.monotonic() - began)

    def taken(self, sites: list[CutSite]) -> list[Captured] | None:
        """What passed the sites; ``None`` if one of them was not reached."""
        return self.capture.at_sites(sites)

    def passage(self, sites: list[CutSite]) -> EncoderPass:
        """The pass as far as the last of the sites."""
        taken = self.taken(sites) or []
        return EncoderPass(list(calls_before_cut(self.calls, sites, max(item.time for item in taken))), [item.seen for item in taken])

    def constants(self) -> set[tuple[str, int]]:
        """Names and numbers of the calls that return tensors, none of which depends on the images."""
        return {(call.name, call.index) for call in self.calls if call.seen() and not self.flow.depends(call)}

    def needs(self, sites: list[CutSite], constants: set[tuple[str, int]]) -> Needs:
        """What decoding would read of what was there before the cut."""
        taken = self.taken(sites) or []
        ends = {(site.module, site.port.index): item.time for site, item in zip(sites, taken, strict=True) if not site.port.before}
        replaced = [
            (call, ends.get((call.module, call.index), call.end or math.inf))
            for call, kind in calls_before_cut(self.calls, sites, max(item.time for item in taken))
            if kind == "site" or (kind == "stub" and (call.name, call.index) not in constants)
        ]
        return decoder_needs(self.flow, replaced, taken)


class Verifier:
    """Decodes a trace's example with spoiled tensors, and compares with what the trace returned.

    Args:
        cut: The cut.
        traced: A pass of its model.
        needs: What the decoder reads there, by the dataflow.

    A model that draws random numbers even in eval mode is asked for NaN alone: its output differs from one call to the next.
    """

    def __init__(self, cut: SplitExecutor, traced: Trace, needs: Needs) -> None:
        self.cut, self.traced, self.needs = cut, traced, needs
        self.taken = traced.taken(cut.sites) or []
        # NaN is swallowed by a maximum or a comparison; what cannot compute with it gets a number.
        self.fills: tuple[float, ...] = (math.nan, 7.0)
        self.exact = not traced.training
        if traced.training and has_nan(traced.output):
            self.fills = ()

    def output(self, value: float, spoiled: Mapping[Position, Callable[[Tensor], Tensor]] | None = None) -> Any:
        """Decode with ``value`` in all stand-ins and in the images, and with some of the tensors that cross changed."""
        example = self.cut.example
        crossing = []
        for site, item in enumerate(self.taken):
            leaves, rebuild = flatten(item.value)
            changed = [
                (spoiled or {}).get((site, n), Tensor.clone)(x) if isinstance(x, Tensor) else x for n, x in enumerate(leaves)
            ]
            crossing.append(rebuild(changed))
        placeholders = self.cut.plan(example.size, example.images.device).placeholders(len(example.images), example.images.device)
        placeholders = [map_tensors(partial(spoil, value=value), item) for item in placeholders]
        unread = [name for name in example.image_like if self.traced.flow.key(example.tensors[name]) not in self.needs.given]
        tensors = dict(example.tensors) | {name: spoil(example.tensors[name], value) for name in unread}
        with seeded(example.images.device), self.mode(), torch.no_grad():
            return self.cut.decode_raw(crossing, placeholders, spoil(example.images, value), tensors)

    def changes(self, spoiled: Mapping[Position, Callable[[Tensor], Tensor]] | None = None) -> bool:
        """Whether the output differs from the trace's; where decoding fails for every fill, it does."""
        for value in self.fills:
            try:
                out = self.output(value, spoiled)
            except Exception:  # some code wants numbers
                continue
            return has_nan(out) if not self.exact else not same_outputs(out, self.traced.output)
        return bool(self.fills)

    def is_random(self) -> bool:
        """Whether the model itself returns something else in another call; if so, NaN is all that is looked for from now on."""
        example = self.cut.example
        with seeded(example.images.device, seed=1), self.mode(), torch.no_grad():
            again = self.cut.call_with(example.images, example.tensors)
        random = not same_outputs(again, self.traced.output)
        if random:
            self.exact, self.fills = False, () if has_nan(again) else (math.nan,)
        return random

    def reads(self, leaf: Position, tokens: int | None = None) -> bool:
        """Whether one of the tensors that cross is read, or the first ``tokens`` of it."""

        def spoiled(tensor: Tensor, value: float) -> Tensor:
            new = spoil(tensor, value)
            return new if tokens is None else torch.cat([new[:, :tokens], tensor[:, tokens:]], 1)

        # A number, too, since NaN may be swallowed, where a difference can be seen.
        return any(self.changes({leaf: partial(spoiled, value=value)}) for value in (math.nan, 7.0)[: 1 + self.exact])

    def mode(self) -> Any:
        """The modes of the model's parts in which the trace was made."""
        return training_paths(self.cut.model, self.cut.example.images) if self.traced.training else eval_mode(self.cut.model)


def check_complete(cut: SplitExecutor, verifier: Verifier, *, decode: bool = True) -> tuple[list[str], str] | None:
    """The layers that are read round the cut, and in which mode; ``None`` if the cut is complete, also when it is verified by decoding."""
    when = ", in training" if verifier.traced.training else ""
    if not verifier.needs.complete:
        return verifier.needs.leaks or [IMAGES], when
    if decode and verifier.changes() and (not verifier.exact or not verifier.is_random() or verifier.changes()):
        # What crosses goes by two names: a layer that works in place, and its input, which is read as well.
        keys = {key for item in verifier.taken for key in item.keys}
        until = max(item.time for item in verifier.taken)
        met = [call for call, kind in calls_before_cut(verifier.traced.calls, cut.sites, until) if kind == "stub"]
        names = list(dict.fromkeys(call.name for call in met if keys & {seen.key for seen in call.seen()}))
        return names or [UNTRACED], when
    return None


def leak_error(label: str, names: list[str], when: str, complete: list[str]) -> SplitError:
    """The message for a leaking cut, with the complete cuts that were found."""
    if complete:
        advice = "A skip connection goes round this layer. Complete cuts: " + "\n".join(
            ("" if number == 0 else " " * 16 + "or ") + f"split(model, at={at})" for number, at in enumerate(complete)
        )
    elif IMAGES not in names:
        advice = "A skip connection goes round this layer. feataug.cuts(model, images) lists the places where a cut is complete."
    else:
        advice = "No layer can stand for the images: cut a model whose decoder does not read them."
    return SplitError(
        message(
            f"split: the cut at {label} leaks.",
            given=f"read after the cut{when}, made before it: "
            + ", ".join(name if name in (IMAGES, UNTRACED) else repr(name) for name in names),
            needed="everything that the decoder reads crosses the cut",
            advice=advice,
        )
    )


@contextmanager
def seeded(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Within, everybody draws the same numbers every time; all global generators are then as they were."""
    with torch_seeded(seed, device), all_seeded(seed):
        yield


def spoil(tensor: Tensor, value: float) -> Tensor:
    """A tensor with other contents."""
    if tensor.is_floating_point():
        return torch.full_like(tensor, value)
    return ~tensor if tensor.dtype == torch.bool else torch.zeros_like(tensor)
