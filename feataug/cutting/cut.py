"""Cut a model into an encoder and a decoder, and run either of them, or both over a mixed batch."""

from __future__ import annotations

import json
import math
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_dtype_of, check_features, check_images, check_size
from feataug.core.copying import copy_model
from feataug.core.specs import FeatureSpec, crossing
from feataug.cutting.cut_sites import CutSite
from feataug.cutting.encoder_decoder import EncoderDecoder
from feataug.cutting.example import Example, explain_failures
from feataug.cutting.executor import SplitExecutor
from feataug.cutting.freezing import freeze, unfreeze
from feataug.cutting.hooks import CutHook, detach_hooks
from feataug.cutting.layer_lookup import find_call, layer_names
from feataug.cutting.level_reading import read_levels
from feataug.cutting.verification import IMAGES, UNTRACED, Trace, verify
from feataug.errors import SplitError

# A search that takes longer prints that it is under way.
_SLOW_SECONDS = 5.0


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
        model: Any module that takes images. It is not changed, except for a forward hook that is idle until the cut is used.
        at: Name of a layer, as ``named_modules()`` gives it: everything up to its output becomes the encoder. A layer called
            several times is cut at its last call. ``"name:input"`` cuts before the layer, ``"name:pre_act"`` before the activation
            that makes its output (where the paper cuts). Several names where no single layer holds all that the decoder reads.
            ``feataug.cuts(model, images)`` lists the places where a model can be cut.
        example: Images ``(B, C, H, W)`` that the model takes, on its device, to measure the features; zeros of ``(1, 3, 128, 128)``
            by default. Or a dictionary of the model's arguments, as in training: tensors that this call does not read after the cut
            are left out. Its arguments that are no tensors are passed in every call.
        encoder, decoder: The two halves, instead of ``model`` and ``at``. ``decoder`` is called as ``decoder(features)``, or as
            ``decoder(features, image_size)`` if its ``forward`` takes two positional arguments. ``features`` is the output of
            ``encoder``, in the same structure.

    Returns:
        The cut; ``cut.decode(cut.encode(images), images.shape[-2:])`` equals ``model(images)`` bit for bit in eval mode on CPU.

    Raises:
        SplitError: there is no such layer; the model does not call it; the tensor that crosses is no feature map; or a tensor from
            before the cut is read after it without crossing, so that the features do not determine the output. The message then
            names a complete cut.

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
        "split: a model and a layer, or an encoder and a decoder, are needed.",
        given=", ".join(
            name for name, value in (("model", model), ("at", at), ("encoder", encoder), ("decoder", decoder)) if value is not None
        )
        or "nothing",
        needed='split(model, at="layer3") or split(encoder=..., decoder=...)',
    )


class Cut:
    """A model cut in two; made by ``split``.

    Attributes:
        model: The model that was given, or the pair of encoder and decoder as one module.
        at: The names of the layers where it is cut.
        example: How the model is called; see ``split``.
        spec: A ``FeatureSpec``: name, channels and reduction of each tensor that crosses the cut and is read after it.
        one_pass: Whether ``mixing`` can append features while the model runs once. Otherwise it runs the two halves in turn, with
            the same result.

    Source:
        Sec. 3: the model as decoder after encoder. Ours: any model, any layer, several at once, in one pass.
    """

    def __init__(self, model: nn.Module, at: str | Sequence[str], example: Any, *, advise: bool = True) -> None:
        self.model, self.at, self._given_example = model, layer_names(at), example
        if isinstance(model, torch.jit.ScriptModule):
            raise SplitError(
                "split: the model is in TorchScript, which takes no hooks.", given=type(model).__name__, needed="a model in Python"
            )
        self.example = Example.of(example, model)
        with explain_failures("split", self.example):
            traced = Trace.of(model, self.example, self.at, training=False)
        sites = []
        for name in self.at:
            call, before = find_call(model, traced.calls, name)
            sites.append(CutSite(name, call.module, CutHook(call.index, before, weakref.ref(self))))
        captured = traced.captured(sites)
        assert captured is not None
        complete_at = max(item.time for item in captured)
        for site, item in zip(sites, captured, strict=True):
            site.copies = traced.flow.writes(item.keys, item.time, complete_at)
        constants = traced.constants()
        self._executor = SplitExecutor(model, sites, self.example, traced.encoder_pass(sites), constants)
        try:
            verifiers = verify(self._executor, traced, constants, partial(self._complete_cuts, traced) if advise else None)
            self._executor.layouts = read_levels(self._executor, captured, verifiers)
            self.spec = FeatureSpec(
                tuple(
                    level
                    for (site, leaf), layout in self._executor.layouts.items()
                    for level in layout.specs(self._executor.level_name(site, leaf))
                )
            )
            last_use = traced.flow.last_use()
            self._encoder_names = {
                name
                for name, parameter in model.named_parameters()
                if last_use.get(traced.flow.key(parameter), math.inf) < complete_at
                and not any(v.trace.flow.key(parameter) in v.needs.given for v in verifiers)
            }
            if self._executor.planner.twin is None:
                # Without a twin this runs the model, with hooks of others, so it is done now and not while somebody mixes.
                _ = self.one_pass
        except BaseException:
            self.remove()
            raise

    @property
    def label(self) -> str:
        """Where the model is cut, for messages."""
        return self._executor.label

    @property
    def one_pass(self) -> bool:
        """Whether ``mixing`` can append features while the model runs once."""
        return self._executor.one_pass

    def remove(self) -> None:
        """Remove the hooks from the model; the cut cannot be used afterwards. This happens by itself when the cut is deleted."""
        self._executor.remove()

    def __repr__(self) -> str:
        return f"Cut({type(self.model).__name__} at {self.label}; channels / stride: {crossing(self.spec)})"

    def encode(self, images: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the encoder alone: nothing after the cut is computed.

        Gradients, modes and running statistics behave as in the model's own forward.

        Args:
            images: ``(B, C, H, W)``.
            args, kwargs: Further arguments of the model.

        Returns:
            One tensor ``(B, channels, h, w)`` per level. Tokens and channels-last maps are rearranged without a copy.

        Raises:
            DtypeError, ShapeError: ``images`` are no images, or have another dtype than the model's weights.
            SplitError: the cut is in use, or was removed.
        """
        executor = self._executor
        executor.check_usable()
        if torch.is_floating_point(self.example.images):
            check_images("cut.encode", images, self.model)
        return executor.run_encoder(executor.callee(), *self.example.arguments(images, args, kwargs))

    def decode(self, features: Sequence[Tensor] | Tensor, image_size: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """Run the decoder alone, from features at the cut to the model's own output: nothing before the cut is computed.

        Args:
            features: One ``(B, channels, h, w)`` tensor per level.
            image_size: Rows and columns of the images that the features belong to.
            args, kwargs: Further arguments of the model.

        Raises:
            ShapeError: the features do not fit the cut.
            SplitError: the decoder reads an argument that is missing; or the cut is in use, or was removed.
        """
        executor = self._executor
        executor.check_usable()
        features = check_features("cut.decode", features, self.spec)
        size = check_size("cut.decode", "image_size", image_size)
        check_dtype_of("cut.decode", "features", features[0], self.model)
        if missing := sorted(executor.read_arguments & set(self.example.missing(args, kwargs))):
            raise SplitError(
                "cut.decode: the decoder reads further arguments of the model.",
                given="features alone",
                needed=f"cut.decode(features, image_size, {', '.join(f'{name}=...' for name in missing)})",
            )
        return executor.run_decoder(executor.callee(), features, size, *executor.blank_arguments(features, size, args, kwargs))

    @contextmanager
    def mixing(self, synthetic: Sequence[Tensor] | Tensor, *, ready: Callable[[], None] | None = None) -> Iterator[None]:
        """Append synthetic features at the cut while the user's own code calls the model once.

        Args:
            synthetic: One ``(n, channels, h, w)`` tensor per level.
            ready: Called when the model reaches the cut, before ``synthetic`` is read; it can wait for another stream of a GPU.

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
        mix = self._executor.in_one_pass if self.one_pass else self._executor.in_two_steps
        with mix(synthetic, arrived, ready or (lambda: None)):
            yield
        if not arrived:
            raise SplitError(
                "cut.mixing: the model did not pass the cut.",
                given="no forward pass of the cut's model inside `with cut.mixing(...)`",
                needed="one call of the model that was split",
                advice="Is another copy of the model trained? Split the one that you train, before torch.compile.",
            )

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are used before the cut and not after it."""
        return (p for name, p in self.model.named_parameters() if name in self._encoder_names)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        return (p for name, p in self.model.named_parameters() if name not in self._encoder_names)

    def freeze_encoder(self) -> None:
        """Freeze the encoder with its norms, until ``unfreeze_encoder``.

        Weights that are used before the cut alone require no gradient. Layers that run before the cut alone stay in eval mode, also after
        ``model.train()``: the running statistics of norms do not change, and dropout and stochastic depth are off. ``feataug.update_bn``
        leaves these norms as they are. Copies of the model stay frozen; of a pickled one only the weights do. Make the optimizer
        afterwards, or leave it as it is: weights without gradients are not updated.
        """
        freeze(self)

    def unfreeze_encoder(self) -> None:
        """Let the encoder train again: its weights require gradients, and its layers have the mode of the model."""
        unfreeze(self)

    def clone(self) -> Cut:
        """A copy of the model, cut at the same place."""
        model = copy_model(self.model)
        for module in model.modules():
            # Copied hooks belong to no cut.
            detach_hooks(module, lambda hook: isinstance(hook, CutHook))
        return Cut(model, self.at, self._given_example)

    def _complete_cuts(self, traced: Trace, leaking: list[str]) -> list[str]:
        """Complete cuts near a leaking one, each tried out, as a user would write them."""
        if 8 * traced.seconds > _SLOW_SECONDS:
            print(f"split: the cut at {self.label} leaks; looking for complete ones near it ...", file=sys.stderr, flush=True)
        calls, layers = traced.calls, [name for name in leaking if name not in (IMAGES, UNTRACED)]
        order = {call.name: call.start for call in reversed(calls)}
        together = sorted({*self.at, *layers}, key=lambda name: order.get(name.partition(":")[0], 0))
        path = self.at[0].partition(":")[0].split(".")
        parents = [".".join(path[:n]) for n in range(len(path) - 1, 0, -1)]
        results: list[str] = []
        for candidates in ([together] if layers else [], parents):
            for at in candidates:
                try:
                    cut = Cut(self.model, at, self._given_example, advise=False)
                except Exception:
                    continue
                found = cut._executor
                read = [site.name for n, site in enumerate(found.sites) if any(key[0] == n for key in found.layouts)]
                cut.remove()
                results.append(json.dumps(read if len(read) > 1 else read[0]))
                break
        return list(dict.fromkeys(results))
