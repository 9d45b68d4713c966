"""A model's copy on the meta device, cut where the model is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn

from feataug.core.modes import eval_mode
from feataug.cutting.call_trace import TensorInfo, uncompiled
from feataug.cutting.containers import tensors_of
from feataug.cutting.cut_sites import CutSite
from feataug.cutting.dataflow import trace
from feataug.cutting.encoder_pass import EncoderPass, leaf_signature
from feataug.cutting.example import Example
from feataug.cutting.gradient_checkpoints import call_model
from feataug.cutting.hooks import CutHook, attach_hook, detach_hooks
from feataug.cutting.meta_twin import MetaTwin


class CutTwin(MetaTwin):
    """A model's twin, cut where the model is cut.

    Args:
        model: The model.
        sites: The sites of the cut.
        example: An example of the model's arguments.
    """

    def __init__(self, model: nn.Module, sites: Sequence[CutSite], example: Example) -> None:
        super().__init__(model)
        self.example = example
        for module in self.original:
            detach_hooks(module, lambda hook: isinstance(hook, CutHook))
        self.sites = [CutSite(site.name, self.of[site.module], CutHook(site.hook.index, site.hook.before)) for site in sites]
        for site in self.sites:
            attach_hook(site.module, site.hook)

    def encoder_pass(self, batch: int, image_size: tuple[int, int]) -> EncoderPass:
        """A pass of ``batch`` images of this size, as far as the cut."""
        # The twin is compared with the model's trace, for which the model got all tensors of the example.
        is_example = batch == len(self.example.images) and image_size == self.example.size
        arguments = self._arguments(batch, image_size, self.example.tensors if is_example else self.example.required)
        with self.active(), eval_mode(self.model):
            return EncoderPass.of(self.model, self.sites, arguments)

    def trains_as_in_eval(self, seconds: float) -> bool:
        """Whether training takes the same branches: every operation reads and writes what it does in eval mode.

        Args:
            seconds: Time limit for one pass; the answer is ``False`` beyond it. Some operations are slow on the meta device.
        """
        try:
            return self._operations(seconds, training=False) == self._operations(seconds, training=True)
        except Exception:  # a forward that needs targets while it trains, or values
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
            run = partial(call_model, uncompiled(self.model), args, kwargs)
            calls, _, flow = trace(self.model, followed, run, training=training, within=seconds)
        return [[call.name for call in calls], flow.operations, flow.outputs]

    def _output_signature(self, batch: int, append: Callable[[Any], Any] | None = None) -> list[Any]:
        """Shapes and dtypes that the model returns for ``batch`` images of the example's size."""
        args, kwargs = self._arguments(batch, self.example.size, self.example.required)
        at_cut = self.sites[0].hook.applying(append) if append is not None else nullcontext()
        with self.active(), eval_mode(self.model), at_cut:
            return [leaf_signature(TensorInfo.of(tensor)) for tensor in tensors_of(call_model(uncompiled(self.model), args, kwargs))]

    def _arguments(self, batch: int, image_size: tuple[int, int], tensors: Iterable[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        images = self.like(self.example.images, (batch, self.example.images.shape[1], *image_size))
        return self.example.arguments(images, (), self.example.placeholders(tensors, batch, image_size, images.device))
