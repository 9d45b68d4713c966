"""Run what comes before a cut, what comes after it, or both over a mixed batch."""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import describe
from feataug.core.modes import eval_mode
from feataug.core.rng import preserved_rng
from feataug.cutting.call_trace import replaced_forwards, uncompiled
from feataug.cutting.containers import flatten, leaves_of
from feataug.cutting.cut_sites import CrossingCollector, CutSite
from feataug.cutting.decode_plan import DecodePlan, DecodePlanner, ShapeTemplate
from feataug.cutting.encoder_pass import EncoderPass
from feataug.cutting.example import Example
from feataug.cutting.gradient_checkpoints import call_model
from feataug.cutting.hooks import CutHook, attach_hook, detach_hooks, in_use_error, join
from feataug.cutting.output_comparison import same_outputs
from feataug.cutting.partial_forward import PartialForward
from feataug.cutting.tensor_layout import Layout
from feataug.errors import ShapeError, SplitError


class SplitExecutor:
    """Runs the two halves of a model.

    Args:
        model: The whole model.
        sites: The sites of the cut. Their hooks are attached to the model here, and removed when the executor is deleted.
        example: An example of the model's arguments.
        traced: The model's pass of the example.
        constants: Names and numbers of calls that do not depend on the images, such as position embeddings: decoding repeats them.

    Attributes:
        layouts: How each tensor that crosses and is read holds its levels, by the numbers of its site and of its leaf there.
        read_arguments: Names of required arguments that the decoder reads, so that no placeholder can replace them.
    """

    def __init__(
        self, model: nn.Module, sites: list[CutSite], example: Example, traced: EncoderPass, constants: set[tuple[str, int]]
    ) -> None:
        self.model, self.sites, self.example = model, sites, example
        self.layouts: dict[tuple[int, int], Layout] = {}
        self.read_arguments: set[str] = set()
        self._mixing = self._removed = False
        # Whether the decoder works in place on the features, by the modes of all modules.
        self._in_place: dict[tuple[bool, ...], bool] = {}
        self._modules = tuple(model.modules())
        self._hooks = [(site.module, site.hook) for site in sites]
        for module, hook in self._hooks:
            attach_hook(module, hook)
        weakref.finalize(self, _remove, self._hooks)
        self.planner = DecodePlanner(model, sites, example, traced, constants)

    @property
    def label(self) -> str:
        """The names of the sites, for messages."""
        return ", ".join(f'"{site.name}"' for site in self.sites)

    def level_name(self, site: int, leaf: int) -> str:
        """The name of a tensor that crosses, for the spec and for messages."""
        name = self.sites[site].name
        return name if sum(s == site for s, _ in self.layouts) == 1 else f"{name}[{leaf}]"

    def remove(self) -> None:
        """Remove the hooks from the model."""
        self._removed = True
        _remove(self._hooks)

    def check_usable(self) -> None:
        """Attach the hooks again if something removed them (``torch.jit.script`` does).

        Raises:
            SplitError: the cut was removed; or it is in use, inside ``with cut.mixing(...)``.
        """
        if self._removed:
            raise SplitError(
                "feataug: the cut was removed.", given="encode, decode or mixing after cut.remove()", needed="a cut: split again"
            )
        for module, hook in self._hooks:
            attach_hook(module, hook)
        if self._mixing:
            raise in_use_error()

    def callee(self) -> Callable[..., Any]:
        """The model as a function, without what ``model.compile()`` made of it."""
        return uncompiled(self.model)

    def call_with(self, images: Tensor, tensors: Mapping[str, Any]) -> Any:
        """Call the model with these images and further tensors."""
        return call_model(self.callee(), *self.example.arguments(images, (), tensors))

    def decode_values(self, crossing: list[Any], placeholders: list[Any], images: Tensor, tensors: dict[str, Any]) -> Any:
        """Decode any values, with any placeholders, for images of the example's size."""
        plan = self.planner.plan(self.example.size, images.device)
        with PartialForward(plan, self.sites, crossing, placeholders).active():
            return self.call_with(images, tensors)

    def run_encoder(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
        """The levels from a call of the model (or of its ``forward``) that stops at the cut."""
        rows, columns = self.example.images_of(args, kwargs).shape[-2:]
        collector = CrossingCollector(self.sites)
        if not collector.run(lambda: call_model(call, args, kwargs)):
            missed = [site.name for site, value in zip(self.sites, collector.values, strict=True) if value is None]
            raise SplitError("cut.encode: the model did not pass the cut.", given=", ".join(missed), needed="a call of that layer")
        leaves = [leaves_of(value) for value in collector.values]
        return tuple(
            level
            for (site, leaf), layout in self.layouts.items()
            for level in layout.to_levels(leaves[site][leaf], (int(rows), int(columns)))
        )

    def run_decoder(
        self, call: Callable[..., Any], features: Sequence[Tensor], size: tuple[int, int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The output of a call of the model (or of its ``forward``) that starts at the cut.

        Args:
            call: The model, or its ``forward``.
            features: One tensor for each level.
            size: Rows and columns of the images.
            args, kwargs: The model's arguments, with blank images.
        """
        device, batch = features[0].device, len(features[0])
        plan = self.planner.plan(size, device)
        modes = tuple(module.training for module in self._modules)
        # The decoder must not write to the caller's tensors in place. The first call decodes copies, to see whether it does.
        copied = self._in_place.get(modes, True)
        given = tuple(feature.clone() for feature in features) if copied else features
        crossing = self._crossing(plan, given, size)
        with PartialForward(plan, self.sites, crossing, plan.placeholders(batch, device)).active():
            out = call_model(call, args, kwargs)
        if copied and not given[0].is_inference():
            self._in_place[modes] = any(copy._version for copy in given)
        return out

    def blank_images(self, batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Images of the right shape that take no memory."""
        like = self.example.images
        return torch.zeros((), device=device, dtype=like.dtype).expand(batch, like.shape[1], *size)

    def blank_arguments(
        self, features: Sequence[Tensor], size: tuple[int, int], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The model's arguments for decoding: blank images, the given arguments, and placeholders for missing ones."""
        batch, device = len(features[0]), features[0].device
        others = self.example.placeholders(self.example.missing(args, kwargs), batch, size, device)
        return self.example.arguments(self.blank_images(batch, size, device), args, {**kwargs, **others})

    def _crossing(self, plan: DecodePlan, features: Sequence[Tensor], size: tuple[int, int]) -> list[Any]:
        """The features in the structures in which the model passes them on."""
        crossing = []
        remaining = list(features)
        for site, tree in enumerate(plan.crossing):
            leaves, rebuild = flatten(tree)
            for number, leaf in enumerate(leaves):
                layout = self.layouts.get((site, number))
                if layout is None:
                    # Tensors that are passed on and not read are zeros: a norm on the way must not compute with NaN.
                    leaves[number] = leaf.zeros(len(features[0]), features[0].device) if isinstance(leaf, ShapeTemplate) else leaf
                    continue
                levels, remaining = remaining[: layout.count], remaining[layout.count :]
                expected = layout.size(leaf.base, size) if isinstance(leaf, ShapeTemplate) else ()
                if tuple(levels[0].shape[2:]) != expected:
                    raise ShapeError(
                        "cut.decode: the features do not fit the image size.",
                        given=f'{describe(levels[0])}   at level "{self.level_name(site, number)}"',
                        needed=f"[B, {layout.channels}, {', '.join(map(str, expected))}]   for images of {size[0]} x {size[1]}",
                    )
                leaves[number] = layout.to_tensor(levels)
            crossing.append(rebuild(leaves))
        return crossing

    @contextmanager
    def in_one_pass(self, synthetic: Sequence[Tensor], arrived: list[bool], ready: Callable[[], None]) -> Iterator[None]:
        """Append ``synthetic`` while the user's code calls the model; ``arrived`` gets an item when that happens."""

        def append(value: Any) -> Any:
            ready()
            arrived.append(True)
            return self._appended(value, synthetic)

        with self.sites[0].hook.applying(append, recomputed=True):
            yield

    def _appended(self, value: Any, synthetic: Sequence[Tensor]) -> Any:
        """The value that crosses at a single site, followed by the synthetic samples."""
        leaves, rebuild = flatten(value)
        remaining = list(synthetic)
        for number, leaf in enumerate(leaves):
            layout = self.layouts.get((0, number))
            if layout is not None:
                levels, remaining = remaining[: layout.count], remaining[layout.count :]
                leaves[number] = join(leaf, layout.to_tensor(levels))
            elif isinstance(leaf, Tensor) and leaf.ndim:
                # Passed on and not read, but code after the cut may need the same number of samples.
                leaves[number] = leaf[torch.arange(len(leaf) + len(synthetic[0]), device=leaf.device) % len(leaf)]
        return rebuild(leaves)

    @cached_property
    def one_pass(self) -> bool:
        """Whether features can be appended while the model runs once: not if code after the cut reads ``len(images)``."""
        if len(self.sites) > 1:
            return False
        example, twin = self.example, self.planner.twin
        try:
            if twin is not None:
                levels = [level for layout in self.layouts.values() for level in layout.specs("")]
                synthetic = [twin.like(example.images, (1, level.channels, *level.size(example.size))) for level in levels]
                return twin.can_mix(lambda value: self._appended(value, synthetic))
            return self._try_one_pass()
        except Exception:  # a model may fail in any way on a batch that grows halfway
            return False

    @torch.no_grad()
    def _try_one_pass(self) -> bool:
        """Whether the model itself returns the same from one pass as from its two halves."""
        example = self.example
        with eval_mode(self.model), preserved_rng(example.images.device):
            args, kwargs = example.arguments(example.images, (), {name: example.tensors[name] for name in example.required})
            real = self.run_encoder(self.callee(), args, kwargs)
            synthetic = tuple(level[:1] for level in real)
            with self.in_one_pass(synthetic, [], lambda: None):
                mixed = call_model(self.callee(), args, kwargs)
            joined = tuple(join(a, b) for a, b in zip(real, synthetic, strict=True))
            read = {name: example.tensors[name] for name in self.read_arguments}
            decoded = self.run_decoder(self.callee(), joined, example.size, *self.blank_arguments(joined, example.size, (), read))
        return same_outputs(mixed, decoded, exact=False)

    @contextmanager
    def in_two_steps(self, synthetic: Sequence[Tensor], arrived: list[bool], ready: Callable[[], None]) -> Iterator[None]:
        """As ``in_one_pass``, by running the two halves in turn instead of the model's ``forward``."""
        original = self.model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            images = self.example.images_of(args, kwargs)
            size = (int(images.shape[-2]), int(images.shape[-1]))
            with replaced_forwards({self.model: original}):
                # Planning for a new image size may call the model, and must not call this function.
                self.planner.plan(size, images.device)
            real = self.run_encoder(original, args, kwargs)
            ready()
            joined = tuple(join(a, b) for a, b in zip(real, synthetic, strict=True))
            blank = self.blank_images(len(joined[0]), size, images.device)
            # Synthetic samples have no further images (a depth map, say) either, and the decoder does not read them.
            unread = [name for name in self.example.required if name not in self.read_arguments]
            others = self.example.placeholders(unread, len(joined[0]), size, images.device)
            args, kwargs = self.example.replaced(args, kwargs, {id(images): blank}, others)
            out = self.run_decoder(original, joined, size, args, kwargs)
            arrived.append(True)
            return out

        if "torch._dynamo" in sys.modules:
            # A forward pass that stops halfway cannot be compiled. Layers that were compiled on their own stay compiled.
            forward = torch.compiler.disable(forward)
        self.check_usable()
        self._mixing = True
        try:
            with replaced_forwards({self.model: forward}):
                yield
        finally:
            self._mixing = False


def _remove(hooks: list[tuple[nn.Module, CutHook]]) -> None:
    for module, hook in hooks:
        detach_hooks(module, partial(operator.is_, hook))
