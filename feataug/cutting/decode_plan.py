"""What decoding meets before the cut: which calls are replaced, and by tensors of which shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.modes import eval_mode
from feataug.core.rng import preserved_rng
from feataug.cutting.call_trace import Call, TensorInfo, uncompiled
from feataug.cutting.containers import Leaf, flatten, leaves_of, map_tensors, tensors_of
from feataug.cutting.cut_sites import CutSite, invoke, observe
from feataug.cutting.dataflow import trace
from feataug.cutting.example import Example
from feataug.cutting.hooks import CutHook, attach_hook, detach_hooks
from feataug.cutting.meta_twin import MetaTwin
from feataug.errors import SplitError, message


@dataclass(frozen=True)
class ShapeTemplate(Leaf):
    """A tensor's shape as a function of the batch size: ``base + step * (batch - 1)``. The leading dimension need not be the batch."""

    base: tuple[int, ...]
    step: tuple[int, ...]
    dtype: torch.dtype

    def shape(self, batch: int) -> list[int]:
        """For so many samples."""
        return [base + step * (batch - 1) for base, step in zip(self.base, self.step, strict=True)]

    def placeholder(self, batch: int, device: torch.device) -> Tensor:
        """What the encoder's calls return while decoding: NaN (of integers zeros), so that nothing can be read unnoticed."""
        value = math.nan if self.dtype.is_floating_point or self.dtype.is_complex else 0
        return torch.full(self.shape(batch), value, dtype=self.dtype, device=device)

    def zeros(self, batch: int, device: torch.device) -> Tensor:
        """Zeros that take no memory; they cannot be written to."""
        return torch.zeros((), dtype=self.dtype, device=device).expand(self.shape(batch))


@dataclass(eq=False)
class PlannedCall:
    """A call that decoding meets before the cut: stood in for (``"stub"``), replaced by what crosses (``"site"``), or made (``"run"``)."""

    name: str
    module: nn.Module
    kind: str
    output: Any = None
    site: int = -1


@dataclass(eq=False)
class DecodePlan:
    """What decoding meets before the cut, for one image size.

    Attributes:
        steps: In the order of their calls.
        crossing: What crosses at each site, with templates for tensors.
        skipped: For each site, how often its layer is called before it is reached.
    """

    steps: list[PlannedCall]
    crossing: list[Any]
    skipped: list[int]

    def placeholders(self, batch: int, device: torch.device) -> list[Any]:
        """What the replaced calls return, in their order."""
        return [fill(step.output, batch, device) for step in self.steps if step.kind == "stub"]


def fill(tree: Any, batch: int, device: torch.device) -> Any:
    """A value with stand-ins for its templates."""
    leaves, rebuild = flatten(tree)
    return rebuild([leaf.placeholder(batch, device) if isinstance(leaf, ShapeTemplate) else leaf for leaf in leaves])


def calls_before_cut(calls: Sequence[Call], sites: Sequence[CutSite], until: float = math.inf) -> Iterator[tuple[Call, str]]:
    """The calls that decoding meets before the cut: outermost ones that are over ``until`` then, and those that the cut lies within."""
    calls = [call for call in calls if call.start < until]
    entered = {call for call in calls if call.end is None or call.end > until}
    ends = {call for call in calls for site in sites if site.is_at(call) and not site.port.before}
    for call in calls:
        if any(site.is_at(call) for site in sites):
            entered.add(call) if call not in ends else None
            while call.parent is not None:
                call = call.parent
                entered.add(call)
    entered -= ends
    met = set()
    for call in calls:
        if call.parent is None or call.parent in met:
            if call in entered:
                met.add(call)
            yield call, "site" if call in ends else "run" if call in entered else "stub"


@dataclass(eq=False)
class EncoderPass:
    """One pass of the model as far as the cut.

    Attributes:
        met: The calls that decoding would meet, as ``reached`` lists them.
        crossing: What crosses at each site, with a ``TensorInfo`` for each tensor.
    """

    met: list[tuple[Call, str]]
    crossing: list[Any]

    @classmethod
    def of(cls, model: nn.Module, sites: Sequence[CutSite], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> EncoderPass:
        """Call the model with these arguments, and leave it at the cut."""
        args, kwargs = arguments
        calls, crossing = observe(model, sites, partial(invoke, uncompiled(model), args, kwargs))
        return cls(list(calls_before_cut(calls, sites)), [map_tensors(TensorInfo.of, value) for value in crossing])

    def signature(self) -> list[Any]:
        """What must agree between the passes of two models if one is to speak for the other."""
        returned = [
            (call.name, kind, [_signature(leaf) for leaf in leaves_of(call.output)]) for call, kind in self.met if kind == "stub"
        ]
        return [*returned, [[_signature(leaf) for leaf in leaves_of(value)] for value in self.crossing]]


class DecodePlanner:
    """Measures what decoding meets before the cut, for any image size.

    The model's ``MetaTwin`` is asked if it returns the same shapes for the example as the model: it takes no memory and hardly any time.
    Otherwise the model's encoder is run, on one image and on two.

    Args:
        model: The whole model.
        sites: Where it is cut.
        example: How it is called.
        traced: How the model itself passed the example.
        constants: Names and numbers of calls that do not depend on the images, such as position embeddings: decoding repeats them.
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[CutSite], example: Example, traced: EncoderPass, constants: set[tuple[str, int]]
    ) -> None:
        self.model, self.sites, self.example, self.constants = model, sites, example, constants
        self._traced = traced
        self._plans: dict[tuple[tuple[int, int], torch.device], DecodePlan] = {}
        self.twin = self._verified_twin()

    def plan(self, image_size: tuple[int, int], device: torch.device) -> DecodePlan:
        """The plan for one image size, which is measured once: shapes depend on it in ways that only the model knows."""
        key = (image_size, device)
        if key not in self._plans:
            one, two = (self.passage(batch, image_size, device) for batch in (1, 2))
            self._plans[key] = self._compared(one, two)
        return self._plans[key]

    def passage(self, batch: int, image_size: tuple[int, int], device: torch.device) -> EncoderPass:
        """How so many images of that size pass, with a ``TensorInfo`` for each tensor."""
        if batch == len(self.example.images) and image_size == self.example.size:
            return self._traced
        if self.twin is not None:
            return self.twin.passage(batch, image_size)
        example = self.example
        images = torch.zeros(batch, example.images.shape[1], *image_size, device=device, dtype=example.images.dtype)
        arguments = example.arguments(images, (), example.placeholders(example.required, batch, image_size, device))
        with torch.no_grad(), eval_mode(self.model), preserved_rng(device):
            return EncoderPass.of(self.model, self.sites, arguments)

    def _verified_twin(self) -> CutTwin | None:
        try:
            twin = CutTwin(self.model, self.sites, self.example)
            seen = twin.passage(len(self.example.images), self.example.size)
        except Exception:  # whatever a model may do with numbers that are not there
            return None
        return twin if seen.signature() == self._traced.signature() else None

    def _compared(self, one: EncoderPass, two: EncoderPass) -> DecodePlan:
        if [call.name for call, _ in one.met] != [call.name for call, _ in two.met]:
            raise SplitError(
                message(
                    "split: the model calls other layers for another batch size.", given="1 and 2 images", needed="the same calls"
                )
            )
        steps: list[PlannedCall] = []
        skipped = [0] * len(self.sites)
        original = {} if self.twin is None else self.twin.original
        for (call, kind), (other, _) in zip(one.met, two.met, strict=True):
            module = original.get(call.module, call.module)
            at = next(
                (number for number, site in enumerate(self.sites) if site.module is module and site.port.index == call.index), -1
            )
            if at >= 0 and self.sites[at].port.before:
                skipped[at] = sum(step.module is module for step in steps)
            if kind == "stub" and (call.name, call.index) in self.constants:
                kind = "run"
            steps.append(PlannedCall(call.name, module, kind, _templates(call.output, other.output) if kind == "stub" else None, at))
        met = [step.site for step in steps]
        for number, site in enumerate(self.sites):
            if site.port.before and number not in met:
                skipped[number] = sum(step.module is site.module for step in steps)
        return DecodePlan(steps, [_templates(a, b) for a, b in zip(one.crossing, two.crossing, strict=True)], skipped)


class CutTwin(MetaTwin):
    """A model's twin, cut where the model is cut.

    Args:
        model: The model.
        sites: Where it is cut.
        example: How it is called.
    """

    def __init__(self, model: nn.Module, sites: Sequence[CutSite], example: Example) -> None:
        super().__init__(model)
        self.example = example
        for module in self.original:
            detach_hooks(module, lambda hook: isinstance(hook, CutHook))
        self.sites = [CutSite(site.name, self.of[site.module], CutHook(site.port.index, site.port.before)) for site in sites]
        for site in self.sites:
            attach_hook(site.module, site.port)

    def passage(self, batch: int, image_size: tuple[int, int]) -> EncoderPass:
        """How so many images of that size pass."""
        # All that the example holds only where it is the example: the model itself was traced so.
        whole = batch == len(self.example.images) and image_size == self.example.size
        arguments = self._arguments(batch, image_size, self.example.tensors if whole else self.example.required)
        with self.active(), eval_mode(self.model):
            return EncoderPass.of(self.model, self.sites, arguments)

    def trains_as_in_eval(self, seconds: float) -> bool:
        """Whether every operation of a pass along the ways of training reads and writes what it does in eval mode.

        Args:
            seconds: Given up, with ``False``, if one pass takes longer: some operations are slow where there are no numbers.
        """
        try:
            return self._operations(seconds, training=False) == self._operations(seconds, training=True)
        except Exception:  # a forward that wants targets while it trains, or numbers
            return False

    def can_mix(self, append: Callable[[Any], Any]) -> bool:
        """Whether the model returns one sample more if ``append`` adds one at the cut, as it does for one image more.

        Raises:
            Exception: of any kind, where it cannot.
        """
        batch = len(self.example.images)
        return self._output_signature(batch, append) == self._output_signature(batch + 1)

    def _operations(self, seconds: float, *, training: bool) -> list[Any]:
        """The calls of a pass of the example, and what each operation reads and writes."""
        args, kwargs = self._arguments(len(self.example.images), self.example.size, self.example.tensors)
        followed = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor)]
        with self.active():
            run = partial(invoke, uncompiled(self.model), args, kwargs)
            calls, _, flow = trace(self.model, followed, run, training=training, within=seconds)
        return [[call.name for call in calls], flow.operations, flow.outputs]

    def _output_signature(self, batch: int, append: Callable[[Any], Any] | None = None) -> list[Any]:
        """Shapes and types of what the model returns for so many images of the example's size."""
        args, kwargs = self._arguments(batch, self.example.size, self.example.required)
        at_cut = self.sites[0].port.applying(append) if append is not None else nullcontext()
        with self.active(), eval_mode(self.model), at_cut:
            return [_signature(TensorInfo.of(tensor)) for tensor in tensors_of(invoke(uncompiled(self.model), args, kwargs))]

    def _arguments(self, batch: int, image_size: tuple[int, int], tensors: Iterable[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        images = self.like(self.example.images, (batch, self.example.images.shape[1], *image_size))
        return self.example.arguments(images, (), self.example.placeholders(tensors, batch, image_size, images.device))


def _signature(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, TensorInfo) else type(leaf)


def _templates(first: Any, second: Any) -> Any:
    """The same value with a ``ShapeTemplate`` for each tensor, from passes with one sample and with two."""
    leaves, rebuild = flatten(first)
    others = leaves_of(second)

    def one(a: Any, b: Any) -> Any:
        if not isinstance(a, TensorInfo):
            return a
        return ShapeTemplate(a.shape, tuple(y - x for x, y in zip(a.shape, b.shape, strict=True)), a.dtype)

    return rebuild([one(a, b) for a, b in zip(leaves, others, strict=True)])
