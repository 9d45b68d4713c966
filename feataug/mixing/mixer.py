"""Append synthetic samples to a batch, and the loss on the mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from feataug.core.checks import check_features, check_mask_form, check_number, check_pairs, check_void, describe, is_sequence
from feataug.core.compatibility import check_spec, labels_checked
from feataug.core.distributed import gather_strided, local_slice, rank_and_world
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import architecture, describe_filter, describe_masks
from feataug.cutting.hooks import cut_of, join
from feataug.errors import ConfigError, ShapeError, message
from feataug.losses import segmentation_loss
from feataug.masks.decoder_score import bind_score, learns, synthetic_loss
from feataug.masks.sources import as_source
from feataug.mixing.batch import MixedBatch, MixPlan
from feataug.mixing.side_stream import SideStream
from feataug.mixing.synthetic_cache import SyntheticCache, at_random


class FeatureMixer(nn.Module):
    """Extends batches of real features by synthetic ones, and computes Eq. (2) on them.

    Args:
        generator: A trained ``FeatureGenerator``, or any module with ``spec``, ``latent_dim`` and ``(masks, z) -> features``. It is
            used frozen: in eval mode, without gradients.
        masks: A mask source: any object with ``draw(n, generator) -> (n, H, W)``; or whatever ``DatasetMasks`` takes, such as a reader of
            ``feataug.data``.
        ratio: Synthetic share of the mixed batch: 11 real samples at 0.3 give 16, of which 5 are synthetic. A number that is
            not whole is rounded at random, so that its mean over steps is exact.
        label_smoothing: epsilon of Eq. (3), on synthetic samples only. (The paper: 1e-4 on Cityscapes, 0.1 on ADE20K.)
        synthetic_weight: Factor of the synthetic terms in the mean over all valid pixels; ``"sum"`` for Eq. (1) as written, the mean
            over real pixels plus the mean over synthetic ones. See ``losses.segmentation_loss``.
        class_weights: ``(K,)`` factors of the pixels' losses by their label, in real and synthetic samples; see ``deficit_weights``.
        aux_weight: Weight of auxiliary heads' losses.
        ignore_index: Label of void.
        cut: The cut that the mixer works at. Only hard negative mining needs it, to ask the current decoder for its loss;
            ``mixer.on(cut, ...)`` finds it by itself.
        pixel_filter: From synthetic features and their masks to masks in which badly generated pixels are void: a ``PixelFilter``.
        bank: Synthetic samples that are kept, with their features, and drawn again, so that a step makes few new ones: 256, say. 0 makes
            all anew in every step. The features lie where the masks do, and in checkpoints.
        fresh: Share of a step's synthetic samples that are new where there is a bank, each in the place of the oldest.
        overlap: On a GPU, let ``mixer.on`` generate on a stream of its own while the encoder runs; the batch it yields may be looked at once
            the model was called. Nobody has measured yet what it saves.
        seed: Of the counts, masks and noise.

    Raises:
        ConfigError: a number is out of range, ``masks`` cannot draw, or a bank is to go with a sampler that learns from every draw.
        ShapeError: the generator was made for another cut than ``cut``, or ``class_weights`` for other classes.

    In ``eval()`` mode nothing is appended, as with dropout.

    Under ``torch.distributed`` every process draws the same plan for all of them, and takes its share of it: masks and noise differ between
    processes, and together they are those that one process with all real samples would draw. Every process has to have equally many real samples.

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
        if isinstance(masks, Mapping) or not (callable(getattr(masks, "draw", None)) or is_sequence(masks)):
            raise ConfigError(
                message(
                    "FeatureMixer: masks cannot draw.",
                    given=type(masks).__name__,
                    needed="a mask source, an object with draw(n, generator) -> (n, H, W); or a data set, a sequence or a tensor of masks",
                )
            )
        masks = as_source(masks)
        self.generator: Any = generator
        self.masks = masks
        self.ratio, self.label_smoothing, self.synthetic_weight = ratio, label_smoothing, synthetic_weight
        if class_weights is not None and tuple(class_weights.shape) != (generator.num_classes,):
            raise ShapeError(
                message(
                    "FeatureMixer: class_weights do not fit the generator's classes.",
                    given=describe(class_weights),
                    needed=f"[{generator.num_classes}]",
                )
            )
        # Not persistent: a setting, no state.
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.aux_weight, self.ignore_index, self.pixel_filter = aux_weight, ignore_index, pixel_filter
        if bank and learns(masks):
            raise ConfigError(
                message(
                    "FeatureMixer: a bank leaves the sampler nothing to learn.",
                    given=f"bank={bank}, {type(masks).__name__}(learn=True)",
                    needed="one of the two: a bank draws its samples again whatever their losses are",
                )
            )
        self.bank = SyntheticCache(bank, fresh) if bank else None
        self.aside = SideStream() if overlap else None
        self.seed = seed
        self.rng = torch.Generator().manual_seed(seed)
        self.generator.eval()
        if cut is not None:
            self._mine_with(cut)

    def train(self, mode: bool = True) -> FeatureMixer:
        """Switch appending on or off; the generator stays in eval mode."""
        super().train(mode)
        self.generator.eval()
        return self

    def plan(self, num_real: int, size: tuple[int, int] | None = None) -> MixPlan:
        """Draw the masks and the noise for a batch with ``num_real`` real samples (in each process).

        Args:
            num_real: Real samples of the batch, in each process.
            size: Rows and columns of the batch's masks: a bank that holds masks of another size is then filled from the start.
        """
        count = at_random(num_real * rank_and_world()[1] * self.ratio / (1 - self.ratio), self.rng)
        if self.bank is not None:
            masks, z, places = self.bank.draw(count, self._draw, self.generator.latent_dim, self.rng, size)
            return MixPlan(masks[local_slice()], z[local_slice()], masks, places[local_slice()])
        masks = self._draw(count, self.rng)
        z = torch.randn(count, self.generator.latent_dim, generator=self.rng)
        return MixPlan(masks[local_slice()], z[local_slice()], masks)

    def _draw(self, count: int, rng: torch.Generator) -> Tensor:
        masks = self.masks.draw(count, rng)
        check_mask_form("FeatureMixer", masks) if count else None
        return masks

    def forward(self, features: Sequence[Tensor] | Tensor, masks: Tensor, plan: MixPlan | None = None) -> MixedBatch:
        """Append synthetic samples to a batch of real features.

        Args:
            features: What ``cut.encode`` returned: one ``(real, channels, h, w)`` tensor per level, in the encoder's units.
            masks: ``(real, H, W)`` integers: class of every pixel or ``ignore_index``, at image resolution.
            plan: A plan to replay, also in eval mode; drawn if ``None``.

        Returns:
            ``features`` with ``real + synthetic`` samples, the real ones first and untouched; their ``masks``; ``is_synthetic``. New
            tensors: the inputs are not written to. Gradients reach the real features only.

        Raises:
            ShapeError: a feature does not fit the generator's spec, batch sizes differ, or drawn masks have another size.
            LabelError: a drawn mask holds a value that is no class.
        """
        check_mask_form("FeatureMixer", masks)
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        features = check_features("FeatureMixer", features, self.generator.spec, size)
        check_pairs("FeatureMixer", features, masks)
        synthetic, joined = self._synthesize(masks, plan)
        if synthetic:
            features = tuple(join(real, new) for real, new in zip(features, synthetic, strict=True))
        return MixedBatch(features, *joined)

    @contextmanager
    def on(self, target: Any, masks: Tensor, plan: MixPlan | None = None) -> Iterator[MixedBatch]:
        """Mix inside the user's own forward: call the model once within the ``with``, on the real images.

        Args:
            target: The cut, or the model that was split (also wrapped, as by DDP).
            masks: ``(real, H, W)``, of the real images.
            plan: A plan to replay; drawn if ``None``.

        Yields:
            The mixed batch for ``mixer.loss(out, batch)``. Its ``features`` are empty: they never leave the model.

        Raises:
            SplitError: the target was not split, or was not called.
            ShapeError: the generator was made for another cut.
        """
        check_mask_form("FeatureMixer", masks)
        cut = cut_of(target)
        self._mine_with(cut)
        synthetic, joined = self._synthesize(masks, plan, aside=True)
        batch = MixedBatch((), *joined)
        if not synthetic:
            yield batch
            return
        if self.aside is None:
            with cut.mixing(synthetic):
                yield batch
            return
        ready = partial(self.aside.synchronize, *synthetic, batch.masks)
        with cut.mixing(synthetic, ready=ready):
            yield batch

    def loss(self, out: Any, batch: MixedBatch) -> Tensor:
        """Eq. (2) and (3): cross entropy on real samples, label-smoothed cross entropy on synthetic ones.

        Args:
            out: The decoder's output on the mixed batch: logits, a dictionary with ``"out"`` (and ``"aux"``), or a sequence that starts
                with the logits. Logits smaller than the masks are resized.
            batch: What the mixer returned.

        Raises:
            ShapeError: no logits there, or another number of samples.
        """
        observe = partial(self._observe, batch.drawn) if batch.drawn is not None else None
        return segmentation_loss(
            out,
            batch.masks,
            batch.num_real,
            label_smoothing=self.label_smoothing,
            synthetic_weight=self.synthetic_weight,
            class_weights=self.class_weights,
            aux_weight=self.aux_weight,
            ignore_index=self.ignore_index,
            observe=observe,
            # Out of training a single process may want to know.
            across_processes=self.training,
        )

    def settings(self) -> dict[str, Any]:
        """What a run depends on, for checkpoints and result files."""
        names = ("ratio", "label_smoothing", "synthetic_weight", "aux_weight", "ignore_index")
        filtered = {"pixel_filter": getattr(self.pixel_filter, "factor", True)} if self.pixel_filter is not None else {}
        weighted = {"class_weights": self.class_weights.tolist()} if self.class_weights is not None else {}
        kept = {"bank": self.bank.size, "fresh": self.bank.fresh} if self.bank is not None else {}
        return {name: getattr(self, name) for name in names} | {"masks": type(self.masks).__name__} | filtered | weighted | kept

    def origin(self) -> dict[str, Any]:
        """Where synthetic samples come from: what a run depends on besides ``settings``."""
        generator = self.generator
        found: dict[str, Any] = {"mask_source": describe_masks(self.masks), "mixing_seed": self.seed, "mixer": type(self).__qualname__}
        if isinstance(generator, nn.Module):
            found |= {"generator": fingerprint(generator), "architecture": architecture(generator)}
        return found | ({"filter": describe_filter(self.pixel_filter)} if self.pixel_filter is not None else {})

    def plan_state(self) -> dict[str, Any]:
        """Everything that decides future plans, for checkpoints."""
        state: dict[str, Any] = {"rng": self.rng.get_state()}
        if hasattr(self.masks, "state_dict"):
            state["masks"] = self.masks.state_dict()
        if self.bank is not None:
            if self.aside is not None:
                self.aside.synchronize()
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
        self, real_masks: Tensor, plan: MixPlan | None, *, aside: bool = False
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """Synthetic features, and the rest of the mixed batch."""
        real_masks = real_masks.long()
        num_real, device = len(real_masks), real_masks.device
        if plan is None and not self.training:
            return (), (real_masks, torch.zeros(num_real, dtype=torch.bool, device=device), num_real)
        # A plan that is replayed was drawn for another step: its losses are not the sampler's business, and the bank holds others.
        replayed = plan is not None
        size = (int(real_masks.shape[1]), int(real_masks.shape[2]))
        plan = plan or self.plan(num_real, size)
        seen = plan.drawn if learns(self.masks) and not replayed else None
        flags = torch.arange(num_real + len(plan.masks), device=device) >= num_real
        if not len(plan.masks):
            return (), (real_masks, flags, num_real, seen)
        if plan.masks.shape[1:] != real_masks.shape[1:]:
            raise ShapeError(
                message(
                    "FeatureMixer: drawn masks differ in size from the batch's.",
                    given=describe(plan.masks),
                    needed=f"[n, {real_masks.shape[1]}, {real_masks.shape[2]}]",
                    advice="Give the mask source the crop of the training images: feataug.DatasetMasks(data, transforms=...).",
                )
            )
        if self.aside is not None and not aside:
            self.aside.synchronize()
        checked = labels_checked(self.generator, plan.masks, device)
        with torch.no_grad(), self.aside.work(device, real_masks) if aside and self.aside is not None else nullcontext():
            drawn, z = plan.masks.to(device, non_blocking=True), plan.z.to(device, non_blocking=True)
            if self.bank is not None and plan.places is not None and not replayed:
                synthetic, drawn = self.bank.take(plan.places, drawn, z, partial(self._make, checked=checked))
            else:
                synthetic, drawn = self._make(drawn, z, checked)
            joined = torch.cat([real_masks, drawn.long()])
        return synthetic, (joined, flags, num_real, seen)

    def _make(self, masks: Tensor, z: Tensor, checked: bool) -> tuple[tuple[Tensor, ...], Tensor]:
        """New features, and the masks with void where they are bad."""
        synthetic = tuple(self.generator(masks, z, checked=True) if checked else self.generator(masks, z))
        return synthetic, masks if self.pixel_filter is None else self.pixel_filter(synthetic, masks)

    def _observe(self, drawn: Tensor, losses: Tensor) -> None:
        self.masks.observe(drawn, gather_strided(losses, len(drawn)))

    def _mine_with(self, cut: Any) -> None:
        """Offer samplers that have no score the loss of the decoder of ``cut``, for which the generator has to be made.

        A new score in each call: one from another mixer, or from another cut, asks a decoder that may be long gone.
        """
        spec = getattr(cut, "spec", None)
        if spec is not None:
            check_spec("FeatureMixer", self.generator.spec, spec)
        bind_score(self.masks, synthetic_loss(self.generator, cut, ignore_index=self.ignore_index, across_processes=True))
