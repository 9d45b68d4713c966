"""Cut a model in two: run what comes before a layer, what comes after it, or both over a mixed batch."""

from __future__ import annotations

import inspect
import json
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from feataug.checks import check_features, describe
from feataug.errors import ShapeError, SplitError, message
from feataug.leaks import find_leaks, find_live, leak_error, same
from feataug.levels import Layout
from feataug.locating import find_call, partition
from feataug.port import Port, join
from feataug.recording import Call, Example, Stopped, eval_mode, patched
from feataug.replay import Plan, Site, Template, collecting, fill, invoke, make_plan, replaying
from feataug.specs import FeatureSpec
from feataug.tracing import storage, trace


def split(
    model: nn.Module | None = None,
    at: str | Sequence[str] | None = None,
    *,
    example: Tensor | Mapping[str, Any] | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> Cut:
    """Cut a segmentation model into an encoder and a decoder.

    Args:
        model: Any module that takes images. It stays as it is; a forward hook that does nothing by itself is added.
        at: Name of a layer, as ``named_modules()`` gives it: everything up to its output becomes the encoder. A layer called several
            times is cut at its last call. ``"name:input"`` cuts before the layer, ``"name:pre_act"`` before the activation that
            makes its output (where the paper cuts). Several names where no single layer holds all that the decoder reads.
            ``feataug.cuts(model, images)`` lists the places where a model can be cut.
        example: Images ``(B, C, H, W)`` that the model can take, on its device, to measure the features on; zeros of
            ``(1, 3, 128, 128)`` by default. Or a dictionary of the model's arguments, as it is called in training: what crosses and
            is not read in that call is left out. Arguments that are no tensors are then passed in every call.
        encoder, decoder: The two halves, instead of ``model`` and ``at``. ``decoder`` is called as ``decoder(features)``, or as
            ``decoder(features, image_size)`` if its ``forward`` takes two positional arguments; ``features`` is what ``encoder``
            returned, in the same structure.

    Returns:
        The cut; ``cut.decode(cut.encode(images), images.shape[-2:])`` equals ``model(images)`` bit for bit in eval mode on CPU.

    Raises:
        SplitError: no such layer; it is not called; what crosses is no feature map; or something made before the cut is read
            after it, so that the features alone do not determine the output: the message names a complete cut.

    Source:
        Sec. 3 (E and D), Sec. 4.4 (before ReLU). Ours: cutting by hooks.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
        >>> cut = split(model, at="1")
        >>> cut.spec
        FeatureSpec(levels=(LevelSpec(name='1', channels=8, reduction=2),))
        >>> images = torch.rand(2, 3, 32, 48)
        >>> torch.equal(cut.decode(cut.encode(images), (32, 48)), model(images))
        True
    """
    if model is not None and at is not None and encoder is None and decoder is None:
        return Cut(model, at, example)
    if model is None and at is None and encoder is not None and decoder is not None:
        return Cut(EncoderDecoder(encoder, decoder), "encoder", example)
    raise SplitError(
        message(
            "split: a model and a layer, or an encoder and a decoder, are needed.",
            given=", ".join(
                name
                for name, value in (("model", model), ("at", at), ("encoder", encoder), ("decoder", decoder))
                if value is not None
            )
            or "nothing",
            needed='split(model, at="layer3") or split(encoder=..., decoder=...)',
        )
    )


class EncoderDecoder(nn.Module):
    """Two halves as one model: ``decoder(encoder(images))``."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        positional = [
            p
            for p in inspect.signature(decoder.forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]
        self.takes_size = len(positional) >= 2

    def forward(self, images: Tensor) -> Any:
        """Images to whatever the decoder returns."""
        features = self.encoder(images)
        return self.decoder(features, tuple(images.shape[-2:])) if self.takes_size else self.decoder(features)


class Cut:
    """A model cut in two; made by ``split``.

    Attributes:
        model: The model, as it was given (or the pair as one module).
        at: Where it is cut.
        spec: A ``FeatureSpec``: name, channels and reduction of each tensor that crosses and is read after the cut.
        one_pass: Can ``mixing`` append features while the model runs once? Otherwise it takes the two halves in turn, with the same
            result.
    """

    def __init__(self, model: nn.Module, at: str | Sequence[str], example: Any, *, advise: bool = True) -> None:
        self.model = model
        self.at = (at,) if isinstance(at, str) else tuple(at)
        self._given = example
        self.example = Example.of(example, model)
        if not self.at or len(set(self.at)) < len(self.at):
            raise SplitError(
                message("split: layers must be named once.", given=repr(self.at), needed="one or several different names")
            )
        calls, plain, flow = trace(model, self.example.images, self.call_example)
        places = [find_call(model, calls, name) for name in self.at]
        # Names of calls that no image has a part in, such as position embeddings: the decoder may make them again.
        self._constants = {(call.name, call.index) for call in calls if tree_leaves(call.output) and not flow.depends(call.output)}
        self.sites = [
            Site(name, call.module, Port(call.index, before)) for name, (call, before) in zip(self.at, places, strict=True)
        ]
        self._hooks = [self._register(site) for site in self.sites]
        weakref.finalize(self, _remove, self._hooks)
        self._plans: dict[tuple[tuple[int, int], torch.device], Plan] = {}
        self._mixed = False
        # Whether the decoder works in place on what crosses, by the modes of all modules.
        self._in_place: dict[tuple[bool, ...], bool] = {}
        self._modules = tuple(model.modules())
        try:
            if leak := find_leaks(self, plain):
                complete = self._complete_cuts(leak[0], calls) if advise else []
                raise leak_error(self.label, *leak, complete)
            with torch.no_grad(), eval_mode(model):
                self.layouts = self._read_levels(plain)
            self.spec = FeatureSpec(
                tuple(level for (site, leaf), layout in self.layouts.items() for level in layout.specs(self._name(site, leaf)))
            )
            time = max(call.start if before else call.end or 0 for call, before in places)
            with eval_mode(model):
                self._encoder_names = partition(
                    model, time, lambda parameter: flow.read.get(storage(parameter)), self._made_again(), self._decode_constants
                )
                self.one_pass = self._is_one_pass()
        except BaseException:
            _remove(self._hooks)
            raise

    def __repr__(self) -> str:
        return f"Cut({type(self.model).__name__} at {self.label}, {self.spec})"

    @property
    def label(self) -> str:
        """Where the model is cut, for messages."""
        return ", ".join(f'"{name}"' for name in self.at)

    def encode(self, images: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the encoder alone; nothing after the cut is computed.

        Gradients, modes and running statistics behave as in the model's own forward.

        Args:
            images: ``(B, C, H, W)``.
            args, kwargs: Further arguments of the model.

        Returns:
            One tensor per level, as ``(B, channels, h, w)``: tokens and channels-last maps are turned, without a copy.
        """
        self._check_idle()
        return self._encode(self._call(), *self.example.arguments(images, args, kwargs))

    def decode(self, features: Sequence[Tensor] | Tensor, image_size: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """Run the decoder alone: features at the cut to the model's own output; nothing before the cut is computed.

        Args:
            features: One ``(B, channels, h, w)`` tensor per level.
            image_size: Rows and columns of the images that the features stand for.
            args, kwargs: Further arguments of the model.

        Raises:
            ShapeError: the features do not fit the cut.
        """
        self._check_idle()
        features = check_features("cut.decode", features, self.spec)
        size = (int(image_size[0]), int(image_size[1]))
        images = self._blank(len(features[0]), size, features[0].device)
        return self._decode(self._call(), features, size, *self.example.arguments(images, args, kwargs))

    @contextmanager
    def mixing(self, synthetic: Sequence[Tensor] | Tensor) -> Iterator[None]:
        """Append synthetic features at the cut while the user's own code calls the model once.

        Args:
            synthetic: One ``(n, channels, h, w)`` tensor per level.

        Raises:
            ShapeError: the features do not fit the cut.
            SplitError: the model was not called, or did not pass the cut.

        Example:
            >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
            >>> cut = split(model, at="1")
            >>> with cut.mixing(torch.rand(5, 8, 16, 16)):
            ...     out = model(torch.rand(11, 3, 32, 32))
            >>> out.shape
            torch.Size([16, 2, 16, 16])
        """
        synthetic = check_features("cut.mixing", synthetic, self.spec)
        arrived: list[bool] = []
        with self._in_one_pass(synthetic, arrived) if self.one_pass else self._in_two_steps(synthetic, arrived):
            yield
        if not arrived:
            raise SplitError(
                message(
                    "cut.mixing: the model did not pass the cut.",
                    given="no forward pass of the cut's model inside `with cut.mixing(...)`",
                    needed="one call of the model that was split",
                    advice="Is another copy of the model trained? Split the one that you train, before torch.compile.",
                )
            )

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are used before the cut; with ``decoder_parameters`` disjoint and complete."""
        return (p for name, p in self.model.named_parameters() if name in self._encoder_names)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        return (p for name, p in self.model.named_parameters() if name not in self._encoder_names)

    def remove(self) -> None:
        """Take the hooks off the model; the cut cannot be used afterwards. Happens by itself when the cut is deleted."""
        _remove(self._hooks)

    # What ``leaks`` and ``replay`` need.

    def call_example(self) -> Any:
        """Call the model as the example says."""
        return self._call_with(self.example.images, tensors=True)

    def take(self) -> list[Any]:
        """What crosses at each site when the example is passed."""
        return self._take(lambda: self.call_example())

    def plan(self, image_size: tuple[int, int], device: torch.device) -> Plan:
        """What decoding meets before the cut. Shapes depend on the image size in ways only the model knows: each is measured once."""
        key = (image_size, device)
        if key not in self._plans:
            shape = (int(self.example.images.shape[1]), *image_size)
            run = lambda n: self._call_with(torch.zeros(n, *shape, device=device, dtype=self.example.images.dtype))  # noqa: E731
            with torch.no_grad(), eval_mode(self.model):
                self._plans[key] = make_plan(self.model, self.sites, run, lambda c: (c.name, c.index) in self._constants)
        return self._plans[key]

    def replay(self, crossing: list[Any], stand_ins: list[Any], images: Tensor) -> Any:
        """Decode the example with anything in place of what the encoder made."""
        plan = self.plan(self.example.size, images.device)
        with replaying(plan, self.sites, crossing, stand_ins):
            return self._call_with(images, tensors=True)

    def _call(self) -> Callable[..., Any]:
        # Hooks are for the model as it is, not for what torch.compile made of it in place.
        return self.model._call_impl if self.model._compiled_call_impl is not None else self.model

    def _call_with(self, images: Tensor, *, tensors: bool = False) -> Any:
        args, kwargs = self.example.arguments(images, (), self.example.tensors if tensors else {})
        return invoke(self._call(), args, kwargs)

    def _take(self, run: Callable[[], Any]) -> list[Any]:
        with collecting(self.sites) as taken:
            try:
                run()
            except Stopped:
                return taken
        missing = [site.name for site, value in zip(self.sites, taken, strict=True) if value is None]
        raise SplitError(
            message("cut.encode: the model did not pass the cut.", given=", ".join(missing), needed="a call of that layer")
        )

    def _encode(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
        size = self.example.images_of(args, kwargs).shape[-2:]
        leaves = [tree_leaves(value) for value in self._take(lambda: invoke(call, args, kwargs))]
        return tuple(
            level
            for (site, leaf), layout in self.layouts.items()
            for level in layout.to_levels(leaves[site][leaf], (int(size[0]), int(size[1])))
        )

    def _decode(
        self, call: Callable[..., Any], features: Any, size: tuple[int, int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """``args`` and ``kwargs`` are the model's, with blank images."""
        features = check_features("cut.decode", features, self.spec)
        device, batch = features[0].device, len(features[0])
        plan = self.plan(size, device)
        modes = tuple(module.training for module in self._modules)
        # An in-place activation after the cut must not eat the caller's tensors: the first time they are copied, to see whether it does.
        copied = self._in_place.get(modes, True)
        given = tuple(feature.clone() for feature in features) if copied else features
        crossing = self._crossing(plan, given, size)
        stand_ins = [fill(step.output, batch, device) for step in plan.stubs()]
        with replaying(plan, self.sites, crossing, stand_ins):
            out = invoke(call, args, kwargs)
        if copied and not given[0].is_inference():
            self._in_place[modes] = any(copy._version for copy in given)
        return out

    def _blank(self, batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Images of the right shape that take no memory."""
        like = self.example.images
        return torch.zeros((), device=device, dtype=like.dtype).expand(batch, like.shape[1], *size)

    def _crossing(self, plan: Plan, features: Sequence[Tensor], size: tuple[int, int]) -> list[Any]:
        """Features in the structures in which the model passes them on."""
        crossing = []
        rest = list(features)
        for site, tree in enumerate(plan.crossing):
            leaves, structure = tree_flatten(tree)
            for number, leaf in enumerate(leaves):
                layout = self.layouts.get((site, number))
                if layout is None:
                    # Zeros for what is passed on and not read: a norm on the way there must not see nonsense.
                    leaves[number] = leaf.zeros(len(features[0]), features[0].device) if isinstance(leaf, Template) else leaf
                    continue
                own, rest = rest[: layout.count], rest[layout.count :]
                expected = layout.size(leaf.base, size) if isinstance(leaf, Template) else ()
                if tuple(own[0].shape[2:]) != expected:
                    raise ShapeError(
                        message(
                            "cut.decode: the features do not fit the image size.",
                            given=f'{describe(own[0])}   at level "{self._name(site, number)}"',
                            needed=f"[B, {layout.channels}, {', '.join(map(str, expected))}]   for images of {size[0]} x {size[1]}",
                        )
                    )
                leaves[number] = layout.to_tensor(own)
            crossing.append(tree_unflatten(leaves, structure))
        return crossing

    @contextmanager
    def _in_one_pass(self, synthetic: Sequence[Tensor], arrived: list[bool]) -> Iterator[None]:
        def append(value: Any) -> Any:
            leaves, structure = tree_flatten(value)
            rest = list(synthetic)
            for number, leaf in enumerate(leaves):
                layout = self.layouts.get((0, number))
                if layout is not None:
                    own, rest = rest[: layout.count], rest[layout.count :]
                    leaves[number] = join(leaf, layout.to_tensor(own))
                elif isinstance(leaf, Tensor) and leaf.ndim:
                    # Passed on and not read; some code may still want all samples of it.
                    leaves[number] = leaf[torch.arange(len(leaf) + len(synthetic[0]), device=leaf.device) % len(leaf)]
            arrived.append(True)
            return tree_unflatten(leaves, structure)

        with self.sites[0].port.doing(append, again=True):
            yield

    @contextmanager
    def _in_two_steps(self, synthetic: Sequence[Tensor], arrived: list[bool]) -> Iterator[None]:
        original = self.model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            images = self.example.images_of(args, kwargs)
            real = self._encode(original, args, kwargs)
            joined = tuple(join(a, b) for a, b in zip(real, synthetic, strict=True))
            size = (int(images.shape[-2]), int(images.shape[-1]))
            blank = self._blank(len(joined[0]), size, images.device)
            args = tuple(blank if item is images else item for item in args)
            kwargs = {key: blank if item is images else item for key, item in kwargs.items()}
            out = self._decode(original, joined, size, args, kwargs)
            arrived.append(True)
            return out

        if "torch._dynamo" in sys.modules:
            # Leaving a model half-way is nothing to compile; the layers that were compiled on their own stay so.
            forward = torch.compiler.disable(forward)
        self._check_idle()
        self._mixed = True
        try:
            with patched({self.model: forward}):
                yield
        finally:
            self._mixed = False

    def _check_idle(self) -> None:
        if self._mixed:
            raise SplitError(
                message(
                    "feataug: the cut is in use.", given="encode, decode or mixing inside `with cut.mixing`", needed="one at a time"
                )
            )

    def _register(self, site: Site) -> tuple[nn.Module, Port]:
        site.port.cut = weakref.ref(self)
        # First, so that hooks of others (transformers records hidden states by hooks) see what we put in.
        if site.port.before:
            site.module.register_forward_pre_hook(site.port, prepend=True, with_kwargs=True)
        else:
            site.module.register_forward_hook(site.port, prepend=True)
        return site.module, site.port

    def _name(self, site: int, leaf: int) -> str:
        name = self.sites[site].name
        return name if sum(s == site for s, _ in self.layouts) == 1 else f"{name}[{leaf}]"

    def _read_levels(self, plain: Any) -> dict[tuple[int, int], Layout]:
        """The tensors that cross and are read, by site and number, with their layouts."""
        images = self.example.images
        crossing = [tree_leaves(value) for value in self.take()]
        found = {
            (site, number): Layout.of(leaf, len(images), self.example.size)
            for site, leaves in enumerate(crossing)
            for number, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor)
        }
        live = find_live(self, plain, found)
        layouts: dict[tuple[int, int], Layout] = {}
        self.layouts = layouts
        for key, layout in found.items():
            if key not in live:
                continue
            if layout is None:
                raise SplitError(
                    message(
                        f"split: what crosses at {self.label} is no feature map.",
                        given=f"{describe(crossing[key[0]][key[1]])}, for images of {self.example.size[0]} x {self.example.size[1]}",
                        needed="(B, channels, h, w), (B, h, w, channels) or tokens (B, h w, channels), float, of ceil(image / stride)",
                        advice="If this is one, pass example= images of a size that the stride divides.",
                    )
                )
            layouts[key] = replace(layout, live=live[key] == "all")
        if not layouts:
            raise SplitError(
                message(
                    f"split: nothing that crosses at {self.label} is read after it.",
                    given=", ".join(describe(leaf) for leaf in tree_leaves(crossing)[:3]) or "no tensor",
                    needed="a layer whose output the model's output depends on",
                )
            )
        return layouts

    def _complete_cuts(self, guilty: list[str], calls: list[Call]) -> list[str]:
        """Complete cuts near a leaking one, tried out, as they would be written."""
        order = {call.name: call.start for call in reversed(calls)}
        together = sorted({*self.at, *guilty}, key=lambda name: order.get(name.partition(":")[0], 0))
        around = [".".join(parts[:n]) for parts in [self.at[0].partition(":")[0].split(".")] for n in range(len(parts) - 1, 0, -1)]
        results: list[str] = []
        for kind in ([together] if guilty else [], around):
            for at in kind:
                try:
                    cut = Cut(self.model, at, self._given, advise=False)
                except Exception:
                    continue
                read = [site.name for n, site in enumerate(cut.sites) if any(key[0] == n for key in cut.layouts)]
                cut.remove()
                results.append(json.dumps(read if len(read) > 1 else read[0]))
                break
        return list(dict.fromkeys(results))

    def _made_again(self) -> set[nn.Module]:
        """Modules that decoding does not replace as a whole although they, or parts of them, come before the cut."""
        replaced = [step.module for step in self.plan(self.example.size, self.example.images.device).steps if step.kind != "run"]
        return set(self.model.modules()) - {inner for module in replaced for inner in module.modules()}

    @torch.no_grad()
    def _is_one_pass(self) -> bool:
        """Does the model run with more samples after the cut than before it? Not if it reads ``len(images)`` there."""
        if len(self.sites) > 1:
            return False
        try:
            args, kwargs = self.example.arguments(self.example.images, (), {})
            real = self._encode(self._call(), args, kwargs)
            synthetic = tuple(level[:1] for level in real)
            with self._in_one_pass(synthetic, []):
                mixed = self._call_with(self.example.images)
            joined = [join(a, b) for a, b in zip(real, synthetic, strict=True)]
            return same(mixed, self.decode(joined, self.example.size), exact=False)
        except Exception:
            return False

    def _decode_constants(self) -> Any:
        """Decode features without history, so that gradients cannot reach the encoder through what crosses."""
        args, kwargs = self.example.arguments(self.example.images, (), self.example.tensors)
        features = [feature.detach() for feature in self._encode(self._call(), args, kwargs)]
        return self.decode(features, self.example.size, **self.example.tensors)


def _remove(hooks: list[tuple[nn.Module, Port]]) -> None:
    for module, port in hooks:
        for registered in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in registered.items() if hook is port]:
                del registered[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
