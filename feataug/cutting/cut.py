"""Cut a model in two: run what comes before a layer, what comes after it, or both over a mixed batch."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_dtype_of, check_features, check_images, check_size
from feataug.core.copying import copy_model
from feataug.core.specs import FeatureSpec
from feataug.cutting.cut_sites import CutSite
from feataug.cutting.encoder_decoder import EncoderDecoder
from feataug.cutting.example import Example, explain_failures
from feataug.cutting.executor import SplitExecutor
from feataug.cutting.hooks import CutHook, detach_hooks
from feataug.cutting.layer_lookup import find_call, layer_names
from feataug.cutting.level_reading import read_levels
from feataug.cutting.verification import IMAGES, UNTRACED, Trace, Verifier, check_complete, leak_error
from feataug.errors import SplitError, message

# A twin is asked whether training takes another way if that costs less than this share of a pass.
_WORTHWHILE = 0.35
# Seconds that something may take without a word.
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


class Cut(SplitExecutor):
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
        if isinstance(model, torch.jit.ScriptModule):
            raise SplitError(
                message(
                    "split: the model is in TorchScript, which takes no hooks.",
                    given=type(model).__name__,
                    needed="a model in Python",
                )
            )
        case = Example.of(example, model)
        with explain_failures("split", case):
            traced = Trace.of(model, case, self.at, training=False)
        places = [find_call(model, traced.calls, name) for name in self.at]
        sites = [CutSite(name, call.module, CutHook(call.index, before)) for name, (call, before) in zip(self.at, places, strict=True)]
        taken = traced.taken(sites)
        assert taken is not None
        until = max(item.time for item in taken)
        for site, item in zip(sites, taken, strict=True):
            site.copies = traced.flow.writes(item.keys, item.time, until)
        constants = traced.constants()
        super().__init__(model, sites, case, traced.passage(sites), constants)
        try:
            checked: list[Verifier] = []
            for training in (False, True):
                trace = self._in_training(traced.seconds) if training else traced
                if trace is None:
                    continue
                verifier = Verifier(self, trace, trace.needs(sites, constants))
                # A cut that is to be offered as advice is verified in eval mode, and in training when it is taken.
                if leak := check_complete(self, verifier, decode=advise or not training):
                    complete = self._complete_cuts(leak[0], traced) if advise else []
                    raise leak_error(self.label, *leak, complete)
                checked.append(verifier)
                self.read_arguments |= {
                    name for name in case.required if trace.flow.key(case.tensors[name]) in verifier.needs.given
                }
            self.layouts = read_levels(self, taken, checked)
            self.spec = FeatureSpec(
                tuple(level for (site, leaf), layout in self.layouts.items() for level in layout.specs(self.level_name(site, leaf)))
            )
            named = list(model.named_parameters())
            again = {name for v in checked for name, p in named if v.traced.flow.key(p) in v.needs.given}
            last_use = traced.flow.last_use()
            used = {name for name, p in named if last_use.get(traced.flow.key(p), math.inf) < until}
            self._encoder_names = used - again
            if self.planner.twin is None:
                # Now, since it runs the model, and hooks of others with it; a twin can be asked when somebody mixes.
                _ = self.one_pass
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
            SplitError: the cut is in use, or was removed.
        """
        self.check_usable()
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
            SplitError: the decoder reads an argument that is not given; or the cut is in use, or was removed.
        """
        self.check_usable()
        features = check_features("cut.decode", features, self.spec)
        size = check_size("cut.decode", "image_size", image_size)
        check_dtype_of("cut.decode", "features", features[0], self.model)
        if wanted := sorted(self.read_arguments & set(self.example.missing(args, kwargs))):
            raise SplitError(
                message(
                    "cut.decode: the decoder reads further arguments of the model.",
                    given="features alone",
                    needed=f"cut.decode(features, image_size, {', '.join(f'{name}=...' for name in wanted)})",
                )
            )
        return self.run_decoder(self.callee(), features, size, *self.blank_arguments(features, size, args, kwargs))

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
        model = copy_model(self.model)
        for module in model.modules():
            # Hooks of cuts are copied idle, and nobody will use them.
            detach_hooks(module, lambda hook: isinstance(hook, CutHook))
        return Cut(model, self.at, self._given)

    def _in_training(self, seconds: float) -> Trace | None:
        """A pass along the ways of training; one in eval mode took ``seconds``.

        ``None`` where it would tell nothing new; or where the model wants targets for it, or goes another way than through the cut.
        """
        if self.planner.twin is not None and self.planner.twin.trains_as_in_eval(_WORTHWHILE * seconds):
            return None
        try:
            trace = Trace.of(self.model, self.example, self.at, training=True)
        except Exception:  # nothing can be told here
            return None
        return trace if trace.taken(self.sites) is not None else None

    def _complete_cuts(self, leaking: list[str], traced: Trace) -> list[str]:
        """Complete cuts near a leaking one, tried out, as they would be written."""
        if 8 * traced.seconds > _SLOW_SECONDS:
            print(f"split: the cut at {self.label} leaks; looking for complete ones near it ...", file=sys.stderr, flush=True)
        calls, guilty = traced.calls, [name for name in leaking if name not in (IMAGES, UNTRACED)]
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
