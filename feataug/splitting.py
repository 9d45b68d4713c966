"""Cut a model in two: run what comes before a layer, what comes after it, or both over a mixed batch."""

from __future__ import annotations

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
from feataug.leaks import verify
from feataug.locating import find_call, measure_levels, partition
from feataug.port import Port
from feataug.recording import Call, Stopped, patched, record
from feataug.specs import FeatureSpec


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
        call, before = find_call(model, calls, layer, side)
        value = call.inputs[0] if before else call.output
        self.spec = FeatureSpec(tuple(measure_levels(at, value, example)))
        self._structure = tree_flatten(value)[1]
        self._module = call.module
        self._port = Port(call.index, before)
        self._port.cut = weakref.ref(self)
        register = self._module.register_forward_pre_hook if before else self._module.register_forward_hook
        # Registered once, and first, so that hooks of others (transformers records hidden states by hooks) see what we put in.
        handle = register(self._port, prepend=True)
        weakref.finalize(self, handle.remove)
        time = call.start if before else call.end
        assert time is not None
        self._plans: dict[tuple[int, int], list[Call]] = {}
        try:
            verify(self, example, plain)
            self._encoder_names = partition(model, calls, time, lambda: self._decode_constants(example))
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
        plan = self.plan((rows, columns), features[0])
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
        fill = self.filler(len(features[0]))
        return self.decode_with(features, (rows, columns), [tree_map(fill, call.output) for call in plan[:-1]])

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

    def plan(self, image_size: tuple[int, int], like: Tensor) -> list[Call]:
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

    def filler(self, batch: int, value: float | None = None) -> Callable[[Any], Any]:
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

    def decode_with(
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

    def _decode_constants(self, example: Tensor) -> Any:
        """Decode features without history, so that gradients cannot reach the encoder through what crosses."""
        return self.decode([feature.detach() for feature in self.encode(example)], example.shape[-2:])


def _shape_only(leaf: Any) -> Any:
    """A tensor's shape and dtype without its memory."""
    return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") if isinstance(leaf, Tensor) else leaf
