"""Append synthetic samples to a batch, and compute the loss on the mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from feataug.core.checks import check_features, check_mask_form, check_number, check_pairs, check_void, describe
from feataug.core.compatibility import check_spec, labels_checked
from feataug.core.distributed import gather_strided, local_slice, rank_and_world
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import architecture, describe_filter, describe_masks
from feataug.core.latents import draw_latents, latents_on
from feataug.cutting.hooks import cut_of, join
from feataug.errors import ConfigError, ShapeError
from feataug.losses import segmentation_loss
from feataug.masks.decoder_score import synthetic_loss
from feataug.masks.nesting import bind_score, learns
from feataug.masks.sources import as_source, check_source
from feataug.mixing.batch import MixedBatch, MixPlan
from feataug.mixing.side_stream import SideStream
from feataug.mixing.synthetic_cache import SyntheticCache, stochastic_round


class FeatureMixer(nn.Module):
    """Extends batches of real features by synthetic ones, and computes Eq. (2) on them.

    Args:
        generator: A trained ``FeatureGenerator``, or any module with ``spec``, ``latent_dim`` (or ``latent_size(image_size)``) and
            ``(masks, z) -> features``. It is used frozen: in eval mode and without gradients.
        masks: A mask source: any object with ``draw(n, generator) -> (n, H, W)``; or whatever ``DatasetMasks`` takes, such as a
            reader of ``feataug.data``.
        ratio: Synthetic share of the mixed batch: 11 real samples at 0.3 make 16, of which 5 are synthetic. A number that is not
            whole is rounded at random, so that its mean over steps is exact.
        label_smoothing: epsilon of Eq. (3), for synthetic samples only. (The paper: 1e-4 on Cityscapes, 0.1 on ADE20K.)
        synthetic_weight: Factor of the synthetic terms in the mean over all valid pixels; ``"sum"`` for Eq. (1) as written, the
            mean over real pixels plus the mean over synthetic ones. See ``losses.segmentation_loss``.
        class_weights: ``(K,)`` factors of the pixels' losses by label, in real and synthetic samples; see ``deficit_weights``.
        aux_weight: Weight of the losses of auxiliary heads.
        ignore_index: Label of void.
        cut: The cut whose decoder hard negative mining asks for its loss; not needed otherwise, or with ``mixer.on(cut, ...)``.
        pixel_filter: Sets badly generated pixels to void: a ``PixelFilter``, or any function ``(features, masks) -> masks``.
        bank: Number of synthetic samples that are cached with their features and reused, such as 256; 0 generates all samples in
            every step. The cached features are on the device of the masks, and part of checkpoints.
        fresh: With a bank, the share of the steps whose synthetic samples are new; each replaces the oldest one.
        overlap: On a GPU, let ``mixer.on`` generate on its own CUDA stream while the encoder runs. Read the batch that it yields
            only after the model was called. Not yet benchmarked.
        seed: Seeds the counts, masks and noise.

    Raises:
        ConfigError: a number is out of range, ``masks`` cannot draw, or a bank is combined with a sampler that learns.
        ShapeError: the generator was made for another cut than ``cut``, or ``class_weights`` for another number of classes.

    In ``eval()`` mode nothing is appended, as with dropout.

    Under ``torch.distributed`` all processes draw the same plan for the whole batch, and each takes its share: together they use
    the masks and noise that one process with all real samples would use. Every process must have the same number of real samples.

    Source:
        Sec. 3 and 4.6 (70 % real, 30 % synthetic), 3.2 (label smoothing). Ours: the random rounding, the bank.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        generator: Any,
        masks: Any,
        ratio: float = 0.3,
        label_smoothing: float = 1e-4,
        *,
        synthetic_weight: float | Literal["sum"] = 1.0,
        class_weights: Tensor | None = None,
        aux_weight: float = 0.4,
        ignore_index: int = 255,
        cut: Any = None,
        pixel_filter: Callable[[Sequence[Tensor], Tensor], Tensor] | None = None,
        bank: int = 0,
        fresh: float = 0.25,
        overlap: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number("FeatureMixer", "ratio", ratio, low=0, high=1, open_high=True)
        check_number("FeatureMixer", "label_smoothing", label_smoothing, low=0, high=1)
        check_number("FeatureMixer", "aux_weight", aux_weight, low=0)
        if synthetic_weight != "sum":
            check_number("FeatureMixer", "synthetic_weight", synthetic_weight, low=0)
        check_void("FeatureMixer", getattr(generator, "num_classes", 0), ignore_index)
        check_source("FeatureMixer", masks)
        self.masks: Any = as_source(masks)
        if class_weights is not None and tuple(class_weights.shape) != (generator.num_classes,):
            given, needed = describe(class_weights), f"[{generator.num_classes}]"
            raise ShapeError("FeatureMixer: class_weights do not fit the generator's classes.", given=given, needed=needed)
        if bank and learns(self.masks):
            given = f"bank={bank}, {type(self.masks).__name__}(learn=True)"
            needed = "one of the two: a bank reuses its samples whatever their losses are"
            raise ConfigError("FeatureMixer: a bank cannot be combined with a sampler that learns.", given=given, needed=needed)
        self.generator: Any = generator
        self.ratio, self.label_smoothing, self.synthetic_weight = ratio, label_smoothing, synthetic_weight
        # Not persistent: it is a setting, not a state.
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.aux_weight, self.ignore_index, self.pixel_filter = aux_weight, ignore_index, pixel_filter
        self.bank = SyntheticCache(bank, fresh) if bank else None
        self.side_stream = SideStream(overlap)
        self.seed, self.rng = seed, torch.Generator().manual_seed(seed)
        self.generator.eval()
        if cut is not None:
            self._bind_score(cut)

    def train(self, mode: bool = True) -> FeatureMixer:
        """Switch appending on or off; the generator stays in eval mode."""
        super().train(mode)
        self.generator.eval()
        return self

    def plan(self, num_real: int, size: tuple[int, int] | None = None) -> MixPlan:
        """Draw the masks and the noise for a batch.

        Args:
            num_real: Number of real samples in each process.
            size: Rows and columns of the batch's masks. A bank that holds masks of another size is emptied and filled again.
        """
        count = stochastic_round(num_real * rank_and_world()[1] * self.ratio / (1 - self.ratio), self.rng)
        own = local_slice()
        if self.bank is not None:
            noise = partial(draw_latents, self.generator)
            masks, z, slots = self.bank.draw(count, self._draw_masks, noise, self.rng, size)
            return MixPlan(masks[own], z[own], masks, slots[own])
        masks = self._draw_masks(count, self.rng)
        return MixPlan(masks[own], draw_latents(self.generator, masks, self.rng)[own], masks)

    def forward(self, features: Sequence[Tensor] | Tensor, masks: Tensor, plan: MixPlan | None = None) -> MixedBatch:
        """Append synthetic samples to a batch of real features.

        Args:
            features: What ``cut.encode`` returned: one ``(real, channels, h, w)`` tensor per level, in the encoder's units.
            masks: ``(real, H, W)`` integers: the class of every pixel or ``ignore_index``, at image resolution.
            plan: A plan to replay, also in eval mode; a new one is drawn if ``None``.

        Returns:
            ``features`` with ``real + synthetic`` samples, the real ones first and unchanged; their ``masks``; ``is_synthetic``.
            These are new tensors: the inputs are not written to. Gradients reach the real features only.

        Raises:
            ShapeError: a feature does not fit the generator's spec, batch sizes differ, or drawn masks have another size.
            LabelError: a drawn mask holds a value that is not a class.
        """
        check_mask_form("FeatureMixer", masks)
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        features = check_features("FeatureMixer", features, self.generator.spec, size)
        check_pairs("FeatureMixer", features, masks)
        synthetic, batch = self._synthesize(masks, plan)
        if synthetic:
            features = tuple(join(real, new) for real, new in zip(features, synthetic, strict=True))
        return replace(batch, features=features)

    @contextmanager
    def on(self, target: Any, masks: Tensor, plan: MixPlan | None = None) -> Iterator[MixedBatch]:
        """Mix inside the user's own forward pass: call the model once within the ``with``, on the real images.

        Args:
            target: The cut, or the model that was split (also wrapped, as by DDP).
            masks: ``(real, H, W)``, the masks of the real images.
            plan: A plan to replay; a new one is drawn if ``None``.

        Yields:
            The mixed batch for ``mixer.loss(out, batch)``. Its ``features`` are empty: they never leave the model.

        Raises:
            SplitError: the target was not split, or was not called.
            ShapeError: the generator was made for another cut.
        """
        check_mask_form("FeatureMixer", masks)
        cut = cut_of(target)
        self._bind_score(cut)
        synthetic, batch = self._synthesize(masks, plan, beside_encoder=True)
        ready = partial(self.side_stream.synchronize, *synthetic, batch.masks)
        with cut.mixing(synthetic, ready=ready) if synthetic else nullcontext():
            yield batch

    def loss(self, out: Any, batch: MixedBatch) -> Tensor:
        """Eq. (2) and (3): cross entropy on real samples, label-smoothed cross entropy on synthetic ones.

        Args:
            out: The decoder's output on the mixed batch: logits, a dictionary with ``"out"`` (and ``"aux"``), or a sequence that
                starts with the logits. Logits smaller than the masks are resized.
            batch: What the mixer returned.

        Raises:
            ShapeError: ``out`` holds no logits, or another number of samples.
        """
        return segmentation_loss(
            out,
            batch.masks,
            batch.num_real,
            label_smoothing=self.label_smoothing,
            synthetic_weight=self.synthetic_weight,
            class_weights=self.class_weights,
            aux_weight=self.aux_weight,
            ignore_index=self.ignore_index,
            observe=partial(self._observe, batch.global_masks) if batch.global_masks is not None else None,
            # In eval mode one process may compute the loss alone.
            across_processes=self.training,
        )

    def settings(self) -> dict[str, Any]:
        """The settings that a run depends on, for checkpoints and result files."""
        names = ("ratio", "label_smoothing", "synthetic_weight", "aux_weight", "ignore_index")
        found = {name: getattr(self, name) for name in names} | {"masks": type(self.masks).__name__}
        if self.pixel_filter is not None:
            found["pixel_filter"] = getattr(self.pixel_filter, "factor", True)
        if self.class_weights is not None:
            found["class_weights"] = self.class_weights.tolist()
        return found | ({"bank": self.bank.size, "fresh": self.bank.fresh} if self.bank is not None else {})

    def origin(self) -> dict[str, Any]:
        """The origin of the synthetic samples, on which a run depends as well as on ``settings``."""
        found: dict[str, Any] = {"mask_source": describe_masks(self.masks), "mixing_seed": self.seed, "mixer": type(self).__qualname__}
        if isinstance(self.generator, nn.Module):
            found |= {"generator": fingerprint(self.generator), "architecture": architecture(self.generator)}
        return found | ({"filter": describe_filter(self.pixel_filter)} if self.pixel_filter is not None else {})

    def plan_state(self) -> dict[str, Any]:
        """Everything that decides future plans, for checkpoints."""
        state: dict[str, Any] = {"rng": self.rng.get_state()}
        if hasattr(self.masks, "state_dict"):
            state["masks"] = self.masks.state_dict()
        if self.bank is not None:
            self.side_stream.synchronize()
            state["bank"] = self.bank.state()
        return state

    def load_plan_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``plan_state``."""
        self.rng.set_state(state["rng"])
        if "masks" in state:
            self.masks.load_state_dict(state["masks"])
        if self.bank is not None:
            self.bank.load_state(state["bank"])

    def _synthesize(
        self, real_masks: Tensor, plan: MixPlan | None, *, beside_encoder: bool = False
    ) -> tuple[tuple[Tensor, ...], MixedBatch]:
        """Synthetic features, and the mixed batch without features."""
        real_masks = real_masks.long()
        num_real, device = len(real_masks), real_masks.device
        if plan is None and not self.training:
            return (), MixedBatch((), real_masks, torch.zeros(num_real, dtype=torch.bool, device=device), num_real)
        # A replayed plan belongs to another step: the sampler must not learn from it, and the bank holds other samples by now.
        replayed = plan is not None
        plan = plan or self.plan(num_real, (int(real_masks.shape[1]), int(real_masks.shape[2])))
        is_synthetic = torch.arange(num_real + len(plan.masks), device=device) >= num_real
        batch = MixedBatch((), real_masks, is_synthetic, num_real, plan.global_masks if learns(self.masks) and not replayed else None)
        if not len(plan.masks):
            return (), batch
        if plan.masks.shape[1:] != real_masks.shape[1:]:
            given, needed = describe(plan.masks), f"[n, {real_masks.shape[1]}, {real_masks.shape[2]}]"
            advice = "Give the mask source the crop of the training images: feataug.DatasetMasks(data, transforms=...)."
            raise ShapeError("FeatureMixer: drawn masks differ in size from the batch's.", given=given, needed=needed, advice=advice)
        if not beside_encoder:
            self.side_stream.synchronize()
        checked = labels_checked(self.generator, plan.masks, device)
        with torch.no_grad(), self.side_stream.work(device, real_masks) if beside_encoder else nullcontext():
            masks, z = plan.masks.to(device, non_blocking=True), latents_on(device, plan.z)
            if self.bank is not None and plan.slots is not None and not replayed:
                synthetic, masks = self.bank.fetch(plan.slots, masks, z, partial(self._generate, checked=checked))
            else:
                synthetic, masks = self._generate(masks, z, checked)
            return synthetic, replace(batch, masks=torch.cat([real_masks, masks.long()]))

    def _generate(self, masks: Tensor, z: Tensor, checked: bool) -> tuple[tuple[Tensor, ...], Tensor]:
        """New features, and the masks in which badly generated pixels are void."""
        synthetic = tuple(self.generator(masks, z, checked=True) if checked else self.generator(masks, z))
        return synthetic, masks if self.pixel_filter is None else self.pixel_filter(synthetic, masks)

    def _draw_masks(self, count: int, rng: torch.Generator) -> Tensor:
        masks = self.masks.draw(count, rng)
        if count:
            check_mask_form("FeatureMixer", masks)
        return masks

    def _observe(self, global_masks: Tensor, losses: Tensor) -> None:
        self.masks.observe(global_masks, gather_strided(losses, len(global_masks)))

    def _bind_score(self, cut: Any) -> None:
        """Bind the mask source to the loss of the decoder of ``cut``, which the generator must fit.

        Every call binds a new score: that of another mixer or cut would use a decoder that may no longer be trained.
        """
        spec = getattr(cut, "spec", None)
        if spec is not None:
            check_spec("FeatureMixer", self.generator.spec, spec)
        bind_score(self.masks, synthetic_loss(self.generator, cut, ignore_index=self.ignore_index, across_processes=True))
