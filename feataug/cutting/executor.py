"""The mechanics of a cut: run what comes before it, what comes after it, or both over a mixed batch."""

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
from feataug.core.specs import FeatureSpec
from feataug.cutting.call_trace import ForwardStopped, replaced_forwards, uncompiled
from feataug.cutting.containers import flatten, leaves_of
from feataug.cutting.cut_sites import CutSite, collecting, invoke
from feataug.cutting.decode_plan import DecodePlan, DecodePlanner, EncoderPass, ShapeTemplate
from feataug.cutting.example import Example
from feataug.cutting.hooks import CutHook, attach_hook, detach_hooks, join
from feataug.cutting.output_comparison import same_outputs
from feataug.cutting.partial_forward import replaying
from feataug.cutting.tensor_layout import Layout
from feataug.errors import ShapeError, SplitError, message


class SplitExecutor:
    """A model, the sites where it is cut, and what is known of the tensors that cross there.

    Args:
        model: The whole model.
        sites: Where it is cut; their hooks are put on here.
        example: How it is called.
        traced: How the example passed the sites.
        constants: Names and numbers of calls that no image has a part in, such as position embeddings: the decoder may make them again.
    """

    spec: FeatureSpec

    def __init__(
        self, model: nn.Module, sites: list[CutSite], example: Example, traced: EncoderPass, constants: set[tuple[str, int]]
    ) -> None:
        self.model, self.sites, self.example = model, sites, example
        self.layouts: dict[tuple[int, int], Layout] = {}
        # Names of required arguments that the decoder reads, so that nothing can stand in for them.
        self.read_arguments: set[str] = set()
        self._mixed = self._removed = False
        # Whether the decoder works in place on what crosses, by the modes of all modules.
        self._in_place: dict[tuple[bool, ...], bool] = {}
        self._modules = tuple(model.modules())
        self._hooks = [(site.module, site.port) for site in sites]
        for site in sites:
            site.port.cut = weakref.ref(self)
            attach_hook(site.module, site.port)
        weakref.finalize(self, _remove, self._hooks)
        self.planner = DecodePlanner(model, sites, example, traced, constants)

    @property
    def label(self) -> str:
        """Where the model is cut, for messages."""
        return ", ".join(f'"{site.name}"' for site in self.sites)

    def remove(self) -> None:
        """Take the hooks off the model; the cut cannot be used afterwards. Happens by itself when the cut is deleted."""
        self._removed = True
        _remove(self._hooks)

    def plan(self, image_size: tuple[int, int], device: torch.device) -> DecodePlan:
        """What decoding meets before the cut."""
        return self.planner.plan(image_size, device)

    def decode_raw(self, crossing: list[Any], placeholders: list[Any], images: Tensor, tensors: dict[str, Any]) -> Any:
        """Decode with anything in place of what the encoder made."""
        plan = self.plan(self.example.size, images.device)
        with replaying(plan, self.sites, crossing, placeholders):
            return self.call_with(images, tensors)

    def callee(self) -> Callable[..., Any]:
        """The model, for calling."""
        return uncompiled(self.model)

    def call_with(self, images: Tensor, tensors: Mapping[str, Any]) -> Any:
        """Call the model with other images, and further arguments."""
        args, kwargs = self.example.arguments(images, (), tensors)
        return invoke(self.callee(), args, kwargs)

    def _take(self, run: Callable[[], Any]) -> list[Any]:
        with collecting(self.sites) as taken:
            try:
                run()
            except ForwardStopped:
                return taken
        missing = [site.name for site, value in zip(self.sites, taken, strict=True) if value is None]
        raise SplitError(
            message("cut.encode: the model did not pass the cut.", given=", ".join(missing), needed="a call of that layer")
        )

    def run_encoder(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Levels from a call of the model (or of its ``forward``) that is left at the cut."""
        size = self.example.images_of(args, kwargs).shape[-2:]
        leaves = [leaves_of(value) for value in self._take(lambda: invoke(call, args, kwargs))]
        return tuple(
            level
            for (site, leaf), layout in self.layouts.items()
            for level in layout.to_levels(leaves[site][leaf], (int(size[0]), int(size[1])))
        )

    def run_decoder(
        self, call: Callable[..., Any], features: Any, size: tuple[int, int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """``args`` and ``kwargs`` are the model's, with blank images."""
        device, batch = features[0].device, len(features[0])
        plan = self.plan(size, device)
        modes = tuple(module.training for module in self._modules)
        # An in-place activation after the cut must not eat the caller's tensors: the first time they are copied, to see whether it does.
        copied = self._in_place.get(modes, True)
        given = tuple(feature.clone() for feature in features) if copied else features
        crossing = self._crossing(plan, given, size)
        with replaying(plan, self.sites, crossing, plan.placeholders(batch, device)):
            out = invoke(call, args, kwargs)
        if copied and not given[0].is_inference():
            self._in_place[modes] = any(copy._version for copy in given)
        return out

    def blank(self, batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Images of the right shape that take no memory."""
        like = self.example.images
        return torch.zeros((), device=device, dtype=like.dtype).expand(batch, like.shape[1], *size)

    def blank_arguments(
        self, features: Sequence[Tensor], size: tuple[int, int], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The model's arguments for decoding: blank images, those that are given, and stand-ins for required ones that are not."""
        batch, device = len(features[0]), features[0].device
        others = self.example.placeholders(self.example.missing(args, kwargs), batch, size, device)
        return self.example.arguments(self.blank(batch, size, device), args, {**kwargs, **others})

    def _crossing(self, plan: DecodePlan, features: Sequence[Tensor], size: tuple[int, int]) -> list[Any]:
        """Features in the structures in which the model passes them on."""
        crossing = []
        rest = list(features)
        for site, tree in enumerate(plan.crossing):
            leaves, rebuild = flatten(tree)
            for number, leaf in enumerate(leaves):
                layout = self.layouts.get((site, number))
                if layout is None:
                    # Zeros for what is passed on and not read: a norm on the way there must not see nonsense.
                    leaves[number] = leaf.zeros(len(features[0]), features[0].device) if isinstance(leaf, ShapeTemplate) else leaf
                    continue
                own, rest = rest[: layout.count], rest[layout.count :]
                expected = layout.size(leaf.base, size) if isinstance(leaf, ShapeTemplate) else ()
                if tuple(own[0].shape[2:]) != expected:
                    raise ShapeError(
                        message(
                            "cut.decode: the features do not fit the image size.",
                            given=f'{describe(own[0])}   at level "{self.level_name(site, number)}"',
                            needed=f"[B, {layout.channels}, {', '.join(map(str, expected))}]   for images of {size[0]} x {size[1]}",
                        )
                    )
                leaves[number] = layout.to_tensor(own)
            crossing.append(rebuild(leaves))
        return crossing

    @contextmanager
    def in_one_pass(self, synthetic: Sequence[Tensor], arrived: list[bool], ready: Callable[[], None]) -> Iterator[None]:
        """Append ``synthetic`` while the user's code calls the model; ``arrived`` is filled when that happens."""

        def append(value: Any) -> Any:
            ready()
            arrived.append(True)
            return self.appended(value, synthetic)

        with self.sites[0].port.applying(append, again=True):
            yield

    def appended(self, value: Any, synthetic: Sequence[Tensor]) -> Any:
        """What crosses at a single site, and ``synthetic`` samples after it."""
        leaves, rebuild = flatten(value)
        rest = list(synthetic)
        for number, leaf in enumerate(leaves):
            layout = self.layouts.get((0, number))
            if layout is not None:
                own, rest = rest[: layout.count], rest[layout.count :]
                leaves[number] = join(leaf, layout.to_tensor(own))
            elif isinstance(leaf, Tensor) and leaf.ndim:
                # Passed on and not read; some code may still want all samples of it.
                leaves[number] = leaf[torch.arange(len(leaf) + len(synthetic[0]), device=leaf.device) % len(leaf)]
        return rebuild(leaves)

    @cached_property
    def one_pass(self) -> bool:
        """Whether ``mixing`` can append features while the model runs once: not if it reads ``len(images)`` after the cut."""
        if len(self.sites) > 1:
            return False
        example, twin = self.example, self.planner.twin
        try:
            if twin is not None:
                levels = [level for layout in self.layouts.values() for level in layout.specs("")]
                synthetic = [twin.like(example.images, (1, level.channels, *level.size(example.size))) for level in levels]
                return twin.can_mix(lambda value: self.appended(value, synthetic))
            return self._try_one_pass()
        except Exception:  # that it cannot
            return False

    @torch.no_grad()
    def _try_one_pass(self) -> bool:
        """The same, by what the model itself does."""
        example = self.example
        with eval_mode(self.model), preserved_rng(example.images.device):
            args, kwargs = example.arguments(example.images, (), {name: example.tensors[name] for name in example.required})
            real = self.run_encoder(self.callee(), args, kwargs)
            synthetic = tuple(level[:1] for level in real)
            with self.in_one_pass(synthetic, [], lambda: None):
                mixed = invoke(self.callee(), args, kwargs)
            joined = tuple(join(a, b) for a, b in zip(real, synthetic, strict=True))
            read = {name: example.tensors[name] for name in self.read_arguments}
            apart = self.run_decoder(self.callee(), joined, example.size, *self.blank_arguments(joined, example.size, (), read))
        return same_outputs(mixed, apart, exact=False)

    @contextmanager
    def in_two_steps(self, synthetic: Sequence[Tensor], arrived: list[bool], ready: Callable[[], None]) -> Iterator[None]:
        """The same by the two halves in turn, in place of the model's ``forward``."""
        original = self.model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            images = self.example.images_of(args, kwargs)
            size = (int(images.shape[-2]), int(images.shape[-1]))
            with replaced_forwards({self.model: original}):
                # Images of a new size are measured by calling the model, which must not end up here.
                self.plan(size, images.device)
            real = self.run_encoder(original, args, kwargs)
            ready()
            joined = tuple(join(a, b) for a, b in zip(real, synthetic, strict=True))
            blank = self.blank(len(joined[0]), size, images.device)
            # Of further images, too, there are none for synthetic samples, and nobody reads them.
            unread = [name for name in self.example.required if name not in self.read_arguments]
            others = self.example.placeholders(unread, len(joined[0]), size, images.device)
            args, kwargs = self.example.replaced(args, kwargs, {id(images): blank}, others)
            out = self.run_decoder(original, joined, size, args, kwargs)
            arrived.append(True)
            return out

        if "torch._dynamo" in sys.modules:
            # Leaving a model half-way is nothing to compile; the layers that were compiled on their own stay so.
            forward = torch.compiler.disable(forward)
        self.check_usable()
        self._mixed = True
        try:
            with replaced_forwards({self.model: forward}):
                yield
        finally:
            self._mixed = False

    def check_usable(self) -> None:
        """Put the hooks on again where something took them off (``torch.jit.script`` does).

        Raises:
            SplitError: the cut was removed; or it is in use, inside ``with cut.mixing(...)``.
        """
        if self._removed:
            raise SplitError(
                message(
                    "feataug: the cut was removed.",
                    given="encode, decode or mixing after cut.remove()",
                    needed="a cut: split again",
                )
            )
        for module, port in self._hooks:
            attach_hook(module, port)
        if self._mixed:
            raise SplitError(
                message(
                    "feataug: the cut is in use.", given="encode, decode or mixing inside `with cut.mixing`", needed="one at a time"
                )
            )

    def level_name(self, site: int, leaf: int) -> str:
        """The name of a tensor that crosses, for the spec and for messages."""
        name = self.sites[site].name
        return name if sum(s == site for s, _ in self.layouts) == 1 else f"{name}[{leaf}]"


def _remove(hooks: list[tuple[nn.Module, CutHook]]) -> None:
    for module, port in hooks:
        detach_hooks(module, partial(operator.is_, port))
