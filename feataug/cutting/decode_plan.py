"""What decoding does with the calls before the cut, and the shapes of the tensors that they return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.modes import eval_mode
from feataug.core.rng import preserved_rng
from feataug.cutting.call_trace import TensorInfo
from feataug.cutting.containers import Leaf, flatten, leaves_of
from feataug.cutting.cut_sites import CutSite
from feataug.cutting.cut_twin import CutTwin
from feataug.cutting.encoder_pass import CallRole, EncoderPass
from feataug.cutting.example import Example
from feataug.errors import SplitError


@dataclass(frozen=True)
class ShapeTemplate(Leaf):
    """A tensor's shape for any batch size: ``base + step * (batch - 1)``. The first dimension need not be the batch."""

    base: tuple[int, ...]
    step: tuple[int, ...]
    dtype: torch.dtype

    def shape(self, batch: int) -> list[int]:
        """The shape for this batch size."""
        return [base + step * (batch - 1) for base, step in zip(self.base, self.step, strict=True)]

    def placeholder(self, batch: int, device: torch.device) -> Tensor:
        """A placeholder: NaN (zeros for integers), so that the output shows whether it was read."""
        value = math.nan if self.dtype.is_floating_point or self.dtype.is_complex else 0
        return torch.full(self.shape(batch), value, dtype=self.dtype, device=device)

    def zeros(self, batch: int, device: torch.device) -> Tensor:
        """Zeros that take no memory; they cannot be written to."""
        return torch.zeros((), dtype=self.dtype, device=device).expand(self.shape(batch))


@dataclass(eq=False)
class PlannedCall:
    """A call that decoding makes before the cut is complete.

    Attributes:
        name, module: The module that is called.
        role: What decoding does with the call.
        output: For a placeholder: what the call returns, with a ``ShapeTemplate`` for each tensor.
        site: Number of the site at this call; -1 where there is none.
    """

    name: str
    module: nn.Module
    role: CallRole
    output: Any = None
    site: int = -1


@dataclass(eq=False)
class DecodePlan:
    """How decoding passes the layers before the cut, for one image size.

    Attributes:
        calls: In their order.
        crossing: The value that crosses at each site, with a ``ShapeTemplate`` for each tensor.
        skipped: For each site, how often its layer is called before the site is reached.
    """

    calls: list[PlannedCall]
    crossing: list[Any]
    skipped: list[int]

    def placeholders(self, batch: int, device: torch.device) -> list[Any]:
        """The values that the replaced calls return, in their order."""
        return [_filled(call.output, batch, device) for call in self.calls if call.role is CallRole.PLACEHOLDER]


class DecodePlanner:
    """Plans decoding for any image size.

    It measures the model's ``CutTwin``, which takes no memory and hardly any time, if the twin returns the same shapes for the
    example as the model does. Otherwise it runs the model's encoder, on one image and on two.

    Args:
        model: The whole model.
        sites: The sites of the cut.
        example: An example of the model's arguments.
        traced: The model's own pass of the example.
        constants: Names and numbers of calls that do not depend on the images, such as position embeddings. Decoding repeats them.
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[CutSite], example: Example, traced: EncoderPass, constants: set[tuple[str, int]]
    ) -> None:
        self.model, self.sites, self.example, self.constants = model, sites, example, constants
        self._traced = traced
        self._plans: dict[tuple[tuple[int, int], torch.device], DecodePlan] = {}
        self.twin = self._verified_twin()

    def plan(self, image_size: tuple[int, int], device: torch.device) -> DecodePlan:
        """The plan for one image size. It is measured once for each size, because only the model knows how shapes depend on it."""
        key = (image_size, device)
        if key not in self._plans:
            one, two = (self.encoder_pass(batch, image_size, device) for batch in (1, 2))
            self._plans[key] = self._plan_from(one, two)
        return self._plans[key]

    def encoder_pass(self, batch: int, image_size: tuple[int, int], device: torch.device) -> EncoderPass:
        """A pass of ``batch`` images of this size, as far as the cut."""
        if batch == len(self.example.images) and image_size == self.example.size:
            return self._traced
        if self.twin is not None:
            return self.twin.encoder_pass(batch, image_size)
        example = self.example
        images = torch.zeros(batch, example.images.shape[1], *image_size, device=device, dtype=example.images.dtype)
        arguments = example.arguments(images, (), example.placeholders(example.required, batch, image_size, device))
        with torch.no_grad(), eval_mode(self.model), preserved_rng(device):
            return EncoderPass.of(self.model, self.sites, arguments)

    def _verified_twin(self) -> CutTwin | None:
        try:
            twin = CutTwin(self.model, self.sites, self.example)
            twin_pass = twin.encoder_pass(len(self.example.images), self.example.size)
        except Exception:  # a model may fail in any way on tensors without values
            return None
        return twin if twin_pass.signature() == self._traced.signature() else None

    def _plan_from(self, one: EncoderPass, two: EncoderPass) -> DecodePlan:
        """The plan from the passes of one image and of two, which show what grows with the batch."""
        if [call.name for call, _ in one.calls] != [call.name for call, _ in two.calls]:
            raise SplitError(
                "split: the model calls other layers for another batch size.", given="1 and 2 images", needed="the same calls"
            )
        planned: list[PlannedCall] = []
        skipped = [0] * len(self.sites)
        original = {} if self.twin is None else self.twin.original
        for (call, role), (other, _) in zip(one.calls, two.calls, strict=True):
            module = original.get(call.module, call.module)
            number = next((n for n, site in enumerate(self.sites) if site.module is module and site.hook.index == call.index), -1)
            if number >= 0 and self.sites[number].hook.before:
                skipped[number] = sum(earlier.module is module for earlier in planned)
            if role is CallRole.PLACEHOLDER and (call.name, call.index) in self.constants:
                role = CallRole.EXECUTE
            output = _templates(call.output, other.output) if role is CallRole.PLACEHOLDER else None
            planned.append(PlannedCall(call.name, module, role, output, number))
        planned_sites = {call.site for call in planned}
        for number, site in enumerate(self.sites):
            if site.hook.before and number not in planned_sites:
                skipped[number] = sum(call.module is site.module for call in planned)
        return DecodePlan(planned, [_templates(a, b) for a, b in zip(one.crossing, two.crossing, strict=True)], skipped)


def _templates(one: Any, two: Any) -> Any:
    """A value with a ``ShapeTemplate`` for each tensor, from the value for one sample and the value for two."""
    leaves, rebuild = flatten(one)
    return rebuild(
        [
            ShapeTemplate(a.shape, tuple(y - x for x, y in zip(a.shape, b.shape, strict=True)), a.dtype) if isinstance(a, TensorInfo) else a
            for a, b in zip(leaves, leaves_of(two), strict=True)
        ]
    )


def _filled(tree: Any, batch: int, device: torch.device) -> Any:
    """A value with a placeholder for each ``ShapeTemplate``."""
    leaves, rebuild = flatten(tree)
    return rebuild([leaf.placeholder(batch, device) if isinstance(leaf, ShapeTemplate) else leaf for leaf in leaves])
