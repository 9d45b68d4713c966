"""Cut a model in two: run what comes before a layer, what comes after it, or both over a mixed batch."""

from __future__ import annotations

import difflib
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from feataug.checks import check_features, describe
from feataug.errors import ShapeError, SplitError, message
from feataug.recording import Call, Stopped, eval_mode, patched, record, training_paths
from feataug.specs import FeatureSpec, LevelSpec


def split(
    model: nn.Module | None = None,
    at: str | None = None,
    *,
    example: Tensor | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> Cut:
    """Cut a segmentation model into an encoder and a decoder.

    Args:
        model: Any module that takes images. It stays as it is; a forward hook that does nothing by itself is added.
        at: Name of a layer, as ``named_modules()`` gives it: everything up to its output becomes the encoder. A layer called several
            times is cut at its last call. ``"name:input"`` cuts before the layer, ``"name:pre_act"`` before the activation that
            makes its output (where the paper cuts).
        example: Images ``(B, C, H, W)`` that the model can take, on its device, to measure the features on; zeros of
            ``(1, 3, 128, 128)`` by default.
        encoder, decoder: The two halves, instead of ``model`` and ``at``. ``decoder`` is called as ``decoder(features)``, or as
            ``decoder(features, image_size)`` if its ``forward`` takes two positional arguments; ``features`` is what ``encoder``
            returned, in the same structure.

    Returns:
        The cut; ``cut.decode(cut.encode(images), images.shape[-2:])`` equals ``model(images)`` bit for bit in eval mode on CPU.

    Raises:
        SplitError: no such layer; it is not called; what crosses is no feature map; or something made before the cut is read
            after it, so that the features alone do not determine the output.

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


class _Port:
    """The place in the model where features leave and enter; idle unless an action is set."""

    def __init__(self, call: int, before: bool) -> None:
        self.call, self.before = call, before
        self.action: Callable[[Any], Any] | None = None
        self.left = 0
        # Set by the cut, so that a mixer which is given the model finds the cut; weak, since the cut owns the port.
        self.cut: weakref.ref[Cut] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"call": self.call, "before": self.before, "action": None, "left": 0, "cut": None}

    @contextmanager
    def doing(self, action: Callable[[Any], Any], call: int | None = None) -> Iterator[None]:
        """Apply ``action`` to what passes at the ``call``-th call of the layer from now on."""
        if self.action is not None:
            raise SplitError(
                message(
                    "feataug: the cut is in use.", given="encode, decode or mixing inside `with cut.mixing`", needed="one at a time"
                )
            )
        self.action, self.left = action, self.call if call is None else call
        try:
            yield
        finally:
            self.action = None

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> Any:
        """The forward hook, or the forward pre-hook where the cut is at a layer's input."""
        if self.action is None:
            return None
        self.left -= 1
        if self.left != -1:
            return None
        if self.before:
            return (self.action(args[0]), *args[1:])
        return self.action(output)

    @contextmanager
    def mixing(self, synthetic: Sequence[Tensor]) -> Iterator[None]:
        """See ``Cut.mixing``."""
        arrived = []

        def append(value: Any) -> Any:
            leaves, structure = tree_flatten(value)
            if len(leaves) != len(synthetic):
                raise ShapeError(
                    message(
                        "cut.mixing: the synthetic features do not fit the cut.",
                        given=f"{len(synthetic)} tensors",
                        needed=f"{len(leaves)} tensors",
                    )
                )
            arrived.append(True)
            return tree_unflatten([_join(real, new) for real, new in zip(leaves, synthetic, strict=True)], structure)

        with self.doing(append):
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


def _join(real: Tensor, synthetic: Tensor) -> Tensor:
    """Real samples, then synthetic ones, in the real ones' device, dtype and memory format."""
    if synthetic.shape[1:] != real.shape[1:]:
        raise ShapeError(
            message(
                "cut.mixing: the synthetic features do not fit the cut.",
                given=describe(synthetic),
                needed=f"[n, {', '.join(map(str, real.shape[1:]))}]",
                advice="Generate from masks of the images' size, by a generator that was trained for this cut.",
            )
        )
    wide = real.ndim == 4 and real.is_contiguous(memory_format=torch.channels_last)
    # `cat` would drop channels_last and promote bf16 if the two differed.
    memory_format = torch.channels_last if wide else torch.contiguous_format
    return torch.cat([real, synthetic.to(real.device, real.dtype, memory_format=memory_format)])


class Cut:
    """A model cut in two; made by ``split``.

    Attributes:
        model: The model, as it was given (or the pair as one module).
        spec: A ``FeatureSpec``: name, channels and reduction of each tensor that crosses.
    """

    def __init__(self, model: nn.Module, at: str, example: Tensor | None) -> None:
        self.model, self.at = model, at
        if example is None:
            like = next(model.parameters(), torch.zeros(()))
            example = torch.zeros(1, 3, 128, 128, device=like.device, dtype=like.dtype)
        self._image_channels = example.shape[1]
        layer, _, side = at.partition(":")
        calls, plain = record(model, example)
        call, before = _find(model, calls, layer, side)
        value = call.inputs[0] if before else call.output
        self.spec = FeatureSpec(tuple(_levels(at, value, example)))
        self._structure = tree_flatten(value)[1]
        self._module = call.module
        self._port = _Port(call.index, before)
        self._port.cut = weakref.ref(self)
        register = self._module.register_forward_pre_hook if before else self._module.register_forward_hook
        # Registered once, and first, so that hooks of others (transformers records hidden states by hooks) see what we put in.
        handle = register(self._port, prepend=True)
        weakref.finalize(self, handle.remove)
        time = call.start if before else call.end
        assert time is not None
        self._plans: dict[tuple[int, int], list[Call]] = {}
        try:
            self._verify(example, plain)
            self._encoder_names = self._partition(calls, time, example)
        except BaseException:
            handle.remove()
            raise

    def __repr__(self) -> str:
        return f"Cut({type(self.model).__name__} at {self.at!r}, {self.spec})"

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder alone: images ``(B, C, H, W)`` to one tensor per level; nothing after the cut is computed.

        Gradients, modes and running statistics behave as in the model's own forward.
        """
        taken: list[Any] = []

        def take(value: Any) -> Any:
            taken.append(value)
            raise Stopped

        try:
            with self._port.doing(take):
                self.model(images)
        except Stopped:
            pass
        if not taken:
            raise SplitError(message("cut.encode: the model did not pass the cut.", given=self.at, needed="a call of that layer"))
        return tuple(tree_flatten(taken[0])[0])

    def decode(self, features: Sequence[Tensor] | Tensor, image_size: Sequence[int]) -> Any:
        """Run the decoder alone: features at the cut to the model's own output; nothing before the cut is computed.

        Args:
            features: One ``(B, channels, h, w)`` tensor per level.
            image_size: Rows and columns of the images that the features stand for.

        Raises:
            ShapeError: the features do not fit the cut.
        """
        rows, columns = int(image_size[0]), int(image_size[1])
        features = check_features("cut.decode", features, self.spec)
        plan = self._plan((rows, columns), features[0])
        sizes = [tuple(leaf.shape[2:]) for leaf in tree_flatten(plan[-1].output)[0]]
        for feature, size, level in zip(features, sizes, self.spec, strict=True):
            if tuple(feature.shape[2:]) != size:
                raise ShapeError(
                    message(
                        "cut.decode: the features do not fit the image size.",
                        given=f'{describe(feature)}   at level "{level.name}"',
                        needed=f"[B, {level.channels}, {size[0]}, {size[1]}]   for images of {rows} x {columns}",
                    )
                )
        fill = self._filler(len(features[0]))
        return self._decode(features, (rows, columns), [tree_map(fill, call.output) for call in plan[:-1]])

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
        with self._port.mixing(check_features("cut.mixing", synthetic, self.spec)):
            yield

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are used before the cut; with ``decoder_parameters`` disjoint and complete."""
        return (p for name, p in self.model.named_parameters() if name in self._encoder_names)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        return (p for name, p in self.model.named_parameters() if name not in self._encoder_names)

    def remove(self) -> None:
        """Take the hook off the model; the cut cannot be used afterwards. Happens by itself when the cut is deleted."""
        for hooks in (self._module._forward_hooks, self._module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if hook is self._port]:
                del hooks[key]

    def _plan(self, image_size: tuple[int, int], like: Tensor) -> list[Call]:
        """Calls that are over before the cut, outermost ones only, and last one whose output is what crosses it.

        Their outputs' shapes depend on the image size in ways only the model knows, so each new size is measured once.
        """
        if image_size not in self._plans:
            images = torch.zeros(1, self._image_channels, *image_size, device=like.device)
            images = images.to(next(self.model.parameters(), like).dtype)
            crossing: list[Any] = []

            def take(value: Any) -> Any:
                crossing.append(value)
                raise Stopped

            with self._port.doing(take):
                calls, _ = record(self.model, images)
            plan = [call for call in calls if call.outermost]
            for call in plan:
                call.output = tree_map(_shape_only, call.output)
                call.inputs, call.children = (), []
            plan.append(Call(self.at, self._module, None, 0, 0, output=tree_map(_shape_only, crossing[0])))
            self._plans[image_size] = plan
        return self._plans[image_size]

    def _filler(self, batch: int, value: float | None = None) -> Callable[[Any], Any]:
        """Makes the stand-in for a tensor that the encoder would have computed: never read, so never written either."""

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            # Plans are measured with one image, so a leading dimension is a multiple of the batch size.
            shape = (leaf.shape[0] * batch, *leaf.shape[1:]) if leaf.ndim else ()
            like = next(self.model.parameters(), leaf)
            empty = torch.empty(shape, dtype=leaf.dtype, device=like.device)
            return empty if value is None else empty.fill_(value)

        return fill

    def _decode(
        self, features: Sequence[Tensor], image_size: tuple[int, int], stand_ins: list[Any], images: Tensor | None = None
    ) -> Any:
        """Run the model with ``stand_ins`` for the calls that are over before the cut, on blank images by default."""
        queues: dict[nn.Module, list[Any]] = {}
        for call, stand_in in zip(self._plans[image_size][:-1], stand_ins, strict=True):
            queues.setdefault(call.module, []).append(stand_in)
        # A clone: an in-place activation after the cut must not eat the caller's tensor.
        crossing = tree_unflatten([feature.clone() for feature in features], self._structure)
        skipped = len(queues.get(self._module, ()))
        if not self._port.before:
            queues.setdefault(self._module, []).append(crossing)

        def stub(module: nn.Module, queue: list[Any]) -> Callable[..., Any]:
            original = module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                return queue.pop(0) if queue else original(*args, **kwargs)

            return forward

        stubs = {module: stub(module, queue) for module, queue in queues.items()}
        if images is None:
            images = features[0].new_zeros(()).expand(len(features[0]), self._image_channels, *image_size)
        with patched(stubs):
            if not self._port.before:
                return self.model(images)
            with self._port.doing(lambda _: crossing, call=skipped):
                return self.model(images)

    @torch.no_grad()
    def _verify(self, example: Tensor, plain: Any) -> None:
        """Decode with nonsense for the images and all before the cut: if the output changes, something was read round it."""
        size = (int(example.shape[-2]), int(example.shape[-1]))
        with eval_mode(self.model):
            features = self.encode(example)
            self._plan(size, features[0])
            # Two fills, since a NaN can be swallowed (by a maximum, by a comparison).
            for value in (float("nan"), 7.0):
                if not _same(self._spoiled(features, example, value), plain):
                    raise SplitError(self._leak(example, features, lambda out: not _same(out, plain), 7.0))
        with training_paths(self.model, example):
            # What only training reads (an auxiliary head). It may draw, so NaN is looked for, and not for equality.
            try:
                clean = not _has_nan(self.model(example))
                features = self.encode(example)
                leaks = clean and _has_nan(self._spoiled(features, example, float("nan")))
            except Exception:  # a forward that wants targets while it trains: nothing can be told here
                return
            if leaks:
                raise SplitError(self._leak(example, features, _has_nan, float("nan"), ", in training"))

    def _spoiled(self, features: tuple[Tensor, ...], example: Tensor, value: float) -> Any:
        """Decode with ``value`` in place of the images and of everything made before the cut."""
        size = (int(example.shape[-2]), int(example.shape[-1]))
        fill = self._filler(len(example), value)
        stand_ins = [tree_map(fill, call.output) for call in self._plan(size, features[0])[:-1]]
        return self._decode(features, size, stand_ins, torch.full_like(example, value))

    def _leak(
        self, example: Tensor, features: tuple[Tensor, ...], wrong: Callable[[Any], bool], value: float, when: str = ""
    ) -> str:
        """Name the calls before the cut whose outputs are read after it, by spoiling them one at a time."""
        size = (int(example.shape[-2]), int(example.shape[-1]))
        calls, _ = record(self.model, example)
        plan = self._plan(size, features[0])[:-1]
        whole = {(call.name, call.index): call.output for call in calls}
        fill = self._filler(len(example), value)
        guilty = []
        for spoiled in plan:
            stand_ins = [tree_map(fill, call.output) if call is spoiled else whole[call.name, call.index] for call in plan]
            if wrong(self._decode(features, size, stand_ins, example)):
                guilty.append(spoiled.name)
        return message(
            f'split: the cut at "{self.at}" leaks.',
            given=f"read after the cut{when}, made before it: " + (", ".join(repr(n) for n in guilty) or "the images themselves"),
            needed="everything that the decoder reads crosses the cut",
            advice="A skip connection goes round this layer. Cut before it begins, after it ends, or at the layer that returns all of it\n"
            '(often the whole encoder, such as "encoder" or "backbone").',
        )

    def _partition(self, calls: list[Call], time: int, example: Tensor) -> set[str]:
        """Names of the encoder's parameters: those of modules whose every call is over before the cut."""
        early, late = set(), set()
        for call in calls:
            assert call.end is not None
            if call.end <= time:
                early.add(call.module)
            elif call.start >= time:
                late.add(call.module)
            else:
                early.add(call.module)
                late.add(call.module)
        names, unclear = set(), {}
        for prefix, module in self.model.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                if module in early and module not in late:
                    names.add(name)
                elif module in early:
                    unclear[name] = parameter
        trainable = {name: parameter for name, parameter in unclear.items() if parameter.requires_grad}
        if trainable:
            # A module around the cut with parameters of its own (a ViT's position embedding): ask the decoder which it reads.
            with eval_mode(self.model), torch.enable_grad():
                # Constants, so that gradients cannot reach the encoder through what crosses.
                constants = [feature.detach() for feature in self.encode(example)]
                out = self.decode(constants, example.shape[-2:])
                total = sum(leaf.sum() for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor) and leaf.requires_grad)
                read = torch.autograd.grad(total, list(trainable.values()), allow_unused=True)  # type: ignore[arg-type]
            names |= {name for name, gradient in zip(trainable, read, strict=True) if gradient is None}
        return names


def _find(model: nn.Module, calls: list[Call], layer: str, side: str) -> tuple[Call, bool]:
    """The call to cut at, and whether to cut before it."""
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise SplitError(
            message(
                f'split: the model has no layer "{layer}".',
                given=f"{type(model).__name__} with {len(names)} layers",
                needed="a name from model.named_modules(), such as " + ", ".join(repr(name) for name in near),
            )
        )
    if side not in ("", "input", "pre_act"):
        raise SplitError(message("split: no such side of a layer.", given=f'":{side}"', needed='nothing, ":input" or ":pre_act"'))
    module = model.get_submodule(layer)
    own = [call for call in calls if call.module is module]
    if not own:
        raise SplitError(
            message(
                f'split: the layer "{layer}" is not called in the model\'s forward pass.',
                given=f"{type(module).__name__}, in eval mode",
                needed="a layer that every forward pass calls",
            )
        )
    call = own[-1]
    if side == "pre_act":
        inner = [c for c in calls if c.end is not None and call.start <= c.start and c.end <= (call.end or 0)]
        # An in-place activation returns its input, so identity with the block's output is not enough: the last one is it.
        found = [c for c in inner if c.output is call.output and _is_activation(c.module)]
        if not found:
            raise SplitError(
                message(
                    f'split: no activation makes the output of "{layer}".',
                    given=f"{type(module).__name__}",
                    needed="a block whose output is that of a module such as ReLU",
                    advice=f'Cut at "{layer}" itself: its output is not activated, or by a function instead of a module.',
                )
            )
        return found[-1], True
    return call, side == "input"


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    return "activation" in kind.__module__


def _levels(at: str, value: Any, example: Tensor) -> Iterator[LevelSpec]:
    """Measure what crosses; channels and strides as they are, not as metadata has them."""
    leaves = tree_flatten(value)[0]
    rows, columns = example.shape[-2:]
    for number, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or leaf.ndim != 4 or not leaf.is_floating_point() or 0 in leaf.shape:
            raise SplitError(
                message(
                    f'split: what crosses at "{at}" is no feature map.',
                    given=describe(leaf),
                    needed="(B, channels, h, w) float tensors",
                )
            )
        reduction = max(1, round(rows / leaf.shape[2]))
        level = LevelSpec(at if len(leaves) == 1 else f"{at}[{number}]", leaf.shape[1], reduction)
        if level.size((rows, columns)) != tuple(leaf.shape[2:]):
            raise SplitError(
                message(
                    f'split: the stride at "{at}" cannot be measured.',
                    given=f"{tuple(leaf.shape[2:])} for images of {rows} x {columns}",
                    needed="rows and columns of ceil(image / stride)",
                    advice="Pass example= of a size that the strides divide. Channels-last (NHWC) maps are not supported here.",
                )
            )
        yield level


def _shape_only(leaf: Any) -> Any:
    """A tensor's shape and dtype without its memory."""
    return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") if isinstance(leaf, Tensor) else leaf


def _has_nan(out: Any) -> bool:
    return any(isinstance(leaf, Tensor) and bool(leaf.isnan().any()) for leaf in tree_flatten(out)[0])


def _same(out: Any, plain: Any) -> bool:
    """Equal bit for bit, NaN equal to NaN, in all tensors of two outputs."""
    a, b = tree_flatten(out)[0], tree_flatten(plain)[0]
    return len(a) == len(b) and all(
        torch.equal(x.nan_to_num(), y.nan_to_num()) and torch.equal(x.isnan(), y.isnan()) if isinstance(x, Tensor) else True
        for x, y in zip(a, b, strict=True)
    )
