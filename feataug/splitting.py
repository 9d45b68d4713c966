"""Cut a model in two: run what comes before a layer, what comes after it, or both over a mixed batch."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from feataug.checks import check_dtype_of, check_features, check_images, check_size, describe
from feataug.errors import SplitError, message
from feataug.halves import Halves, take_off
from feataug.leaks import find_leaks, find_live, leak_error, same
from feataug.levels import Layout
from feataug.locating import find_call, layer_names, partition
from feataug.port import Port, join
from feataug.recording import Call, Example, eval_mode, uncompiled
from feataug.replay import Site
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


class Cut(Halves):
    """A model cut in two; made by ``split``.

    Attributes:
        model: The model, as it was given (or the pair as one module).
        at: Where it is cut.
        spec: A ``FeatureSpec``: name, channels and reduction of each tensor that crosses and is read after the cut.
        one_pass: Can ``mixing`` append features while the model runs once? Otherwise it takes the two halves in turn, with the same
            result.

    Source:
        Sec. 3: the model as decoder after encoder. Ours: any model, any layer, several at once, in one pass.
    """

    def __init__(self, model: nn.Module, at: str | Sequence[str], example: Any, *, advise: bool = True) -> None:
        self.at = layer_names(at)
        self._given = example
        case = Example.of(example, model)
        args, kwargs = case.arguments(case.images, (), case.tensors)
        calls, plain, flow = trace(model, case.images, lambda: uncompiled(model)(*args, **kwargs))
        places = [find_call(model, calls, name) for name in self.at]
        sites = [Site(name, call.module, Port(call.index, before)) for name, (call, before) in zip(self.at, places, strict=True)]
        constants = {(call.name, call.index) for call in calls if tree_leaves(call.output) and not flow.depends(call.output)}
        super().__init__(model, sites, case, constants)
        try:
            if leak := find_leaks(self, plain):
                complete = self._complete_cuts(leak[0], calls) if advise else []
                raise leak_error(self.label, *leak, complete)
            with torch.no_grad(), eval_mode(model):
                self.layouts = self._read_levels(plain)
            self.spec = FeatureSpec(
                tuple(level for (site, leaf), layout in self.layouts.items() for level in layout.specs(self.level_name(site, leaf)))
            )
            time = max(call.start if before else call.end or 0 for call, before in places)
            with eval_mode(model):
                self._encoder_names = partition(
                    model, time, lambda parameter: flow.read.get(storage(parameter)), self._made_again(), self._decode_constants
                )
                self.one_pass = self._is_one_pass()
        except BaseException:
            self.remove()
            raise

    def __repr__(self) -> str:
        return f"Cut({type(self.model).__name__} at {self.label}, {self.spec})"

    def encode(self, images: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the encoder alone; nothing after the cut is computed.

        Gradients, modes and running statistics behave as in the model's own forward.

        Args:
            images: ``(B, C, H, W)``.
            args, kwargs: Further arguments of the model.

        Returns:
            One tensor per level, as ``(B, channels, h, w)``: tokens and channels-last maps are turned, without a copy.

        Raises:
            DtypeError, ShapeError: these are no images, or of another type than the model's weights.
        """
        self.check_idle()
        if torch.is_floating_point(self.example.images):
            check_images("cut.encode", images, self.model)
        return self.run_encoder(self.callee(), *self.example.arguments(images, args, kwargs))

    def decode(self, features: Sequence[Tensor] | Tensor, image_size: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """Run the decoder alone: features at the cut to the model's own output; nothing before the cut is computed.

        Args:
            features: One ``(B, channels, h, w)`` tensor per level.
            image_size: Rows and columns of the images that the features stand for.
            args, kwargs: Further arguments of the model.

        Raises:
            ShapeError: the features do not fit the cut.
        """
        self.check_idle()
        features = check_features("cut.decode", features, self.spec)
        size = check_size("cut.decode", "image_size", image_size)
        check_dtype_of("cut.decode", "features", features[0], self.model)
        images = self.blank(len(features[0]), size, features[0].device)
        return self.run_decoder(self.callee(), features, size, *self.example.arguments(images, args, kwargs))

    @contextmanager
    def mixing(self, synthetic: Sequence[Tensor] | Tensor, *, ready: Callable[[], None] | None = None) -> Iterator[None]:
        """Append synthetic features at the cut while the user's own code calls the model once.

        Args:
            synthetic: One ``(n, channels, h, w)`` tensor per level.
            ready: Called when the model has come to the cut, before ``synthetic`` is read: to wait for a GPU's other stream, say.

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
        way = self.in_one_pass if self.one_pass else self.in_two_steps
        with way(synthetic, arrived, ready or (lambda: None)):
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

    def clone(self) -> Cut:
        """A copy of the model, cut at the same place."""
        model = copy.deepcopy(self.model)
        for module in model.modules():
            # Hooks of cuts are copied idle, and nobody will use them.
            take_off(module, lambda hook: isinstance(hook, Port))
        return Cut(model, self.at, self._given)

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
            real = self.run_encoder(self.callee(), args, kwargs)
            synthetic = tuple(level[:1] for level in real)
            with self.in_one_pass(synthetic, [], lambda: None):
                mixed = self.call_with(self.example.images)
            joined = [join(a, b) for a, b in zip(real, synthetic, strict=True)]
            return same(mixed, self.decode(joined, self.example.size), exact=False)
        except Exception:
            return False

    def _decode_constants(self) -> Any:
        """Decode features without history, so that gradients cannot reach the encoder through what crosses."""
        args, kwargs = self.example.arguments(self.example.images, (), self.example.tensors)
        features = [feature.detach() for feature in self.run_encoder(self.callee(), args, kwargs)]
        return self.decode(features, self.example.size, **self.example.tensors)
