"""Check that a cut is complete: by the traced dataflow, and by decoding with other values before the cut."""

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
from feataug.cutting.encoder_pass import CallRole, EncoderPass, calls_before_cut
from feataug.cutting.example import Example
from feataug.cutting.executor import SplitExecutor
from feataug.cutting.output_comparison import has_nan, same_outputs
from feataug.errors import SplitError

# Besides the outputs of layers, the decoder may read these round the cut.
IMAGES = "the images themselves"
UNTRACED = "a Python number or a NumPy array"

# The twin may take this share of a pass's time to show that training takes the same branches.
_TWIN_SHARE = 0.35

# A tensor that crosses, by the numbers of its site and of its leaf there.
Position = tuple[int, int]


@dataclass(eq=False)
class Trace:
    """One whole pass of a model on its example.

    Attributes:
        at: The names of the layers whose values were captured.
        calls, output, flow: What ``dataflow.trace`` returned.
        capture: The values that passed the layers.
        training: Whether the pass took the branches of training.
        seconds: How long it took.
    """

    at: tuple[str, ...]
    calls: list[Call]
    output: Any
    flow: Dataflow
    capture: Capture
    training: bool
    seconds: float

    @classmethod
    def of(cls, model: nn.Module, example: Example, at: tuple[str, ...], *, training: bool) -> Trace:
        """Run the model on its example.

        Raises:
            SplitError: the tensors in the model's output cannot be found.
        """
        capture = Capture(model, at)
        args, kwargs = example.arguments(example.images, (), example.tensors)
        run = partial(uncompiled(model), *args, **kwargs)
        start = time.monotonic()
        with seeded(example.images.device):
            calls, output, flow = trace(model, example.followed, run, training=training, during=capture.during)
        if not flow.outputs or None in flow.outputs or any(tensor.is_nested for tensor in tensors_of(output)):
            raise SplitError(
                "split: the tensors in the model's output cannot be found.",
                given=", ".join(opaque_types(output)) or f"{type(output).__name__} without any tensor that has storage of its own",
                needed="tensors, in lists, dictionaries, dataclasses, or objects with attributes",
                advice="Split the part of the model that returns tensors.",
            )
        return cls(at, calls, output, flow, capture, training, time.monotonic() - start)

    def captured(self, sites: list[CutSite]) -> list[Captured] | None:
        """The values that passed the sites; ``None`` if a site was not reached."""
        return self.capture.at_sites(sites)

    def encoder_pass(self, sites: list[CutSite]) -> EncoderPass:
        """The part of the pass that ends at the last of the sites."""
        captured = self.captured(sites) or []
        complete_at = max(item.time for item in captured)
        return EncoderPass(list(calls_before_cut(self.calls, sites, complete_at)), [item.info for item in captured])

    def constants(self) -> set[tuple[str, int]]:
        """Names and numbers of the calls that return tensors, none of which depends on the images."""
        return {(call.name, call.index) for call in self.calls if call.tensors() and not self.flow.depends(call)}

    def needs(self, sites: list[CutSite], constants: set[tuple[str, int]]) -> Needs:
        """What decoding would read of what was made before the cut."""
        captured = self.captured(sites) or []
        ends = {(site.module, site.hook.index): item.time for site, item in zip(sites, captured, strict=True) if not site.hook.before}
        replaced = [
            (call, ends.get((call.module, call.index), call.end or math.inf))
            for call, role in self.encoder_pass(sites).calls
            if role is CallRole.FEATURES or (role is CallRole.PLACEHOLDER and (call.name, call.index) not in constants)
        ]
        return decoder_needs(self.flow, replaced, captured)


class Verifier:
    """Decodes a trace's example with other values before the cut, and compares the output with that of the trace.

    A model that draws random numbers even in eval mode returns another output in each call: there only NaN in the output counts.

    Args:
        executor: The cut's executor.
        trace: A pass of its model.
        needs: What the decoder reads in that pass, by the dataflow.
    """

    def __init__(self, executor: SplitExecutor, trace: Trace, needs: Needs) -> None:
        self.executor, self.trace, self.needs = executor, trace, needs
        self.captured = trace.captured(executor.sites) or []
        # A maximum or a comparison can swallow NaN; where the model cannot compute with NaN, a number is tried.
        self.fills: tuple[float, ...] = (math.nan, 7.0)
        self.exact = not trace.training
        if trace.training and has_nan(trace.output):
            self.fills = ()

    def output(self, value: float, spoiled: Mapping[Position, Callable[[Tensor], Tensor]] | None = None) -> Any:
        """The output with ``value`` in all placeholders and in the images, and with some of the tensors that cross changed."""
        example = self.executor.example
        device, crossing = example.images.device, []
        for site, item in enumerate(self.captured):
            leaves, rebuild = flatten(item.value)
            changed = [
                (spoiled or {}).get((site, n), Tensor.clone)(x) if isinstance(x, Tensor) else x for n, x in enumerate(leaves)
            ]
            crossing.append(rebuild(changed))
        placeholders = self.executor.planner.plan(example.size, device).placeholders(len(example.images), device)
        placeholders = [map_tensors(partial(spoil, value=value), item) for item in placeholders]
        unread = [name for name in example.image_like if self.trace.flow.key(example.tensors[name]) not in self.needs.given]
        tensors = dict(example.tensors) | {name: spoil(example.tensors[name], value) for name in unread}
        with seeded(device), self.mode(), torch.no_grad():
            return self.executor.decode_values(crossing, placeholders, spoil(example.images, value), tensors)

    def changes(self, spoiled: Mapping[Position, Callable[[Tensor], Tensor]] | None = None) -> bool:
        """Whether the output differs from the trace's. It counts as different if decoding fails for every fill."""
        for value in self.fills:
            try:
                out = self.output(value, spoiled)
            except Exception:  # code that needs numbers
                continue
            return has_nan(out) if not self.exact else not same_outputs(out, self.trace.output)
        return bool(self.fills)

    def is_random(self) -> bool:
        """Whether the model returns another output in another call; if so, only NaN counts from now on."""
        example = self.executor.example
        with seeded(example.images.device, seed=1), self.mode(), torch.no_grad():
            again = self.executor.call_with(example.images, example.tensors)
        random = not same_outputs(again, self.trace.output)
        if random:
            self.exact, self.fills = False, () if has_nan(again) else (math.nan,)
        return random

    def reads(self, leaf: Position, tokens: int | None = None) -> bool:
        """Whether one of the tensors that cross is read, or the first ``tokens`` of it."""

        def spoiled(tensor: Tensor, value: float) -> Tensor:
            changed = spoil(tensor, value)
            return changed if tokens is None else torch.cat([changed[:, :tokens], tensor[:, tokens:]], 1)

        # Also a number, because NaN may be swallowed; but only where a difference can be seen.
        return any(self.changes({leaf: partial(spoiled, value=value)}) for value in (math.nan, 7.0)[: 1 + self.exact])

    def mode(self) -> Any:
        """A context in which the model's modules are in the modes of the trace."""
        return training_paths(self.executor.model, self.executor.example.images) if self.trace.training else eval_mode(self.executor.model)


def verify(
    executor: SplitExecutor, traced: Trace, constants: set[tuple[str, int]], complete_cuts: Callable[[list[str]], list[str]] | None
) -> list[Verifier]:
    """Check that a cut is complete in eval mode and in training, and note the arguments that the decoder reads.

    Args:
        executor: The cut's executor.
        traced: The model's pass in eval mode.
        constants: As for the executor.
        complete_cuts: Finds complete cuts for the error, given the layers that leak. ``None`` for a cut that is only suggested: it
            is not verified by decoding in training, which happens when the user takes it.

    Returns:
        A verifier for each trace.

    Raises:
        SplitError: the cut leaks.
    """
    verifiers, case = [], executor.example
    for training in (False, True):
        trace = _training_trace(executor, traced) if training else traced
        if trace is None:
            continue
        verifier = Verifier(executor, trace, trace.needs(executor.sites, constants))
        if leaking := _leaks(executor, verifier, decode=complete_cuts is not None or not training):
            raise _leak_error(executor.label, leaking, training, complete_cuts(leaking) if complete_cuts is not None else [])
        verifiers.append(verifier)
        executor.read_arguments |= {name for name in case.required if trace.flow.key(case.tensors[name]) in verifier.needs.given}
    return verifiers


def _training_trace(executor: SplitExecutor, traced: Trace) -> Trace | None:
    """A pass along the branches of training.

    ``None`` where training takes the same branches, where the model needs targets for it, or where it does not pass the cut.
    """
    twin = executor.planner.twin
    if twin is not None and twin.trains_as_in_eval(_TWIN_SHARE * traced.seconds):
        return None
    try:
        trace = Trace.of(executor.model, executor.example, traced.at, training=True)
    except Exception:  # a forward that needs targets while it trains
        return None
    return trace if trace.captured(executor.sites) is not None else None


def _leaks(executor: SplitExecutor, verifier: Verifier, *, decode: bool) -> list[str]:
    """The layers that are read round the cut; none if it is complete. ``decode`` also verifies that by decoding."""
    if not verifier.needs.complete:
        return verifier.needs.leaks or [IMAGES]
    if decode and verifier.changes() and (not verifier.exact or not verifier.is_random() or verifier.changes()):
        # One storage has two names: that of a layer that works in place, and that of its input, which is read as well.
        keys = {key for item in verifier.captured for key in item.keys}
        calls = verifier.trace.encoder_pass(executor.sites).calls
        replaced = [call for call, role in calls if role is CallRole.PLACEHOLDER]
        names = list(dict.fromkeys(call.name for call in replaced if keys & {info.key for info in call.tensors()}))
        return names or [UNTRACED]
    return []


def _leak_error(label: str, names: list[str], training: bool, complete: list[str]) -> SplitError:
    """The error for a cut that leaks, with the complete cuts that were found."""
    if complete:
        advice = "A skip connection goes round this layer. Complete cuts: " + "\n".join(
            ("" if number == 0 else " " * 16 + "or ") + f"split(model, at={at})" for number, at in enumerate(complete)
        )
    elif IMAGES not in names:
        advice = "A skip connection goes round this layer. feataug.cuts(model, images) lists the places where a cut is complete."
    else:
        advice = "No layer can replace the images: cut a model whose decoder does not read them."
    return SplitError(
        f"split: the cut at {label} leaks.",
        given=f"read after the cut{', in training' * training}, made before it: "
        + ", ".join(name if name in (IMAGES, UNTRACED) else repr(name) for name in names),
        needed="everything that the decoder reads crosses the cut",
        advice=advice,
    )


@contextmanager
def seeded(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Seed all global generators of random numbers, and restore their states afterwards."""
    with torch_seeded(seed, device), all_seeded(seed):
        yield


def spoil(tensor: Tensor, value: float) -> Tensor:
    """A tensor of the same shape and dtype with other values."""
    if tensor.is_floating_point():
        return torch.full_like(tensor, value)
    return ~tensor if tensor.dtype == torch.bool else torch.zeros_like(tensor)
