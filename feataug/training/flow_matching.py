"""One training step of a generator that flows from noise to features: conditional flow matching, then distillation."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from feataug.core.checks import check_loader
from feataug.core.distributed import local_slice, rank_and_world
from feataug.core.modes import eval_mode
from feataug.core.rng import generator_for
from feataug.core.windows import tiles
from feataug.cutting.cut import Cut
from feataug.errors import ConfigError, FeatAugWarning
from feataug.generation.flow import draw_times, latent_size
from feataug.generation.generator import FeatureGenerator
from feataug.training.config import GeneratorConfig
from feataug.training.cuda_graph import GraphedLoss
from feataug.training.flow_losses import Distillation, FlowLosses
from feataug.training.objective_base import Objective, size_of

# Images on which the held-out loss is measured.
HELD_OUT_IMAGES = 200
# Weight of the error of the features that a mask lets expect. They are learned beside the velocity and cost it nothing (measured on CamVid).
EXPECTED_WEIGHT = 0.25
# Images in which the learning rate rises to its full value.
WARM_UP = 600
# Steps whose samples the generator's own few learn to give, and their learning rate in shares of the flow's. No others were tried.
TEACHER_STEPS, DISTILL_RATE = 8, 0.25


def _schedule(seen: int, num_images: int) -> float:
    """Factor of the learning rate: a short linear rise, then a cosine to zero."""
    rise = min(WARM_UP, num_images // 10)
    return min(1.0, (seen + 1) / max(rise, 1)) * (1 + math.cos(math.pi * min(1.0, seen / num_images))) / 2


class FlowObjective(Objective):
    """A flow generator, its optimizer, and what they learn from a batch.

    Training has two parts. First the network learns velocities from features. Then the generator, in its own few steps, learns to give the
    samples that these weights give in many: it needs masks alone there.

    Args:
        generator: Made for ``cut.spec`` with ``preset="flow"``.
        cut: A cut of the trained model, which is in eval mode and without gradients.
        config: Length, learning rate, noise levels.
        cuda_graph: Whether the loss of either part and its gradient are replayed from CUDA graphs.

    Attributes:
        parts: Empty at first, since nothing but the generator is trained; then ``teacher``, the weights of the first part.
        optimizers: ``generator``; there after ``prepare``.
        first_part: The length of the first part.

    Source:
        Lipman et al. (2023). Distillation: Luhman and Luhman (2021), of all steps at once. Ours: in the space of intermediate features,
        for all levels of a cut together.
    """

    loss: Any
    velocity_loss: Any
    distill_loss: Any

    def __init__(self, generator: FeatureGenerator, cut: Cut, config: GeneratorConfig, *, cuda_graph: bool = False) -> None:
        super().__init__(generator, cut, config)
        self.cuda_graph = cuda_graph
        share = config.distill_share if generator.steps < TEACHER_STEPS else 0
        self.first_part = config.num_images - round(share * config.num_images)

    @property
    def half_life(self) -> int:
        """Of the weights' moving average, in images. Weights from before the second part must not remain in its average."""
        rest = self.config.num_images - self.first_part
        return min(self.config.ema_images, max(1, rest // 8)) if self.parts else self.config.ema_images

    def begin(self) -> None:
        """Start the first part, also with a generator that an earlier training distilled."""
        self.parts.clear()
        self.generator.distilled_steps = None
        # Of the weights of before.
        self.generator.covariance_map.clear()

    def next_part(self, seen: int, averaged: FeatureGenerator) -> bool:
        """Start the second part, from the averaged weights of the first, if it is time. Return whether it was."""
        if self.parts or seen < self.first_part or self.first_part == self.config.num_images:
            return False
        self._distill_from(averaged)
        return True

    def restore(self, parts: dict[str, Any], averaged: FeatureGenerator) -> None:
        """Load the state of ``parts`` from a checkpoint of either part."""
        if parts:
            self._distill_from(averaged)
        super().restore(parts, averaged)

    def _distill_from(self, averaged: FeatureGenerator) -> None:
        teacher = copy.deepcopy(averaged).eval().requires_grad_(False)
        teacher.steps = TEACHER_STEPS
        self.parts["teacher"] = teacher
        self.generator.load_state_dict(averaged.state_dict())
        for made in (self.generator, averaged):
            made.distilled_steps = made.steps
        self.optimizers["generator"].state.clear()
        if self.cuda_graph:
            self.distill_loss = GraphedLoss(lambda: Distillation(FlowLosses(self.generator), teacher), self.accelerator)
        else:
            self.distill_loss = Distillation(self.loss, teacher)

    def prepare(self, accelerator: Accelerator) -> None:
        """Move everything to the accelerator's device, and make the optimizer."""
        config = self.config
        self.place(accelerator)
        fused = accelerator.device.type in ("cpu", "cuda")
        adam = torch.optim.AdamW(
            self.generator.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay, fused=fused
        )
        self.loss, adam = accelerator.prepare(FlowLosses(self.generator), adam)
        self.velocity_loss = GraphedLoss(lambda: FlowLosses(self.generator), accelerator) if self.cuda_graph else self.loss
        self.optimizers = {"generator": adam}

    def step(self, images: Tensor | Sequence[Tensor], masks: Tensor, seen: int) -> dict[str, Tensor]:
        """One step of the generator.

        Args:
            images: ``(B, 3, H, W)``, on any device; or the features, one tensor for each level, as a ``FeatureBank`` has them.
            masks: ``(B, H, W)``.
            seen: Images before this batch, in all processes: they decide the noise and the learning rate.

        Returns:
            ``flow`` and ``expected``: the mean squared errors of the velocity, and of the features that the masks let expect. In the second
            part ``distill``: that of the samples. Without gradients.

        Raises:
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``.
        """
        # Noise depends on the seed and the images seen alone, so that a resumed run draws what the undisturbed one would. It has as many
        # numbers as the features, so that it is drawn where it is needed.
        rng = generator_for(self.config.seed, "noise", seen, device=self.accelerator.device)
        lr, total, losses = self._distill(masks, rng, seen) if self.parts else self._flow(images, masks, rng, seen)
        optimizer = self.optimizers["generator"]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        self.accelerator.backward(total)
        # Noise makes a few gradients far larger than the rest, above all while the learning rate is at its highest.
        self.accelerator.clip_grad_norm_(self.generator.parameters(), 1.0)
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _flow(self, images: Any, masks: Tensor, rng: torch.Generator, seen: int) -> tuple[float, Tensor, dict[str, Tensor]]:
        """Learning rate of the first part, what it minimises, and the losses by name."""
        masks, real = self.real(images, masks)
        noise, times = self._draw(len(masks) * rank_and_world()[1], masks, rng, local_slice())
        with self.accelerator.autocast():
            loss, expected = self.velocity_loss(masks, real, noise, times)
        lr = self.config.lr * _schedule(seen, self.first_part)
        return lr, loss + EXPECTED_WEIGHT * expected, {"flow": loss, "expected": expected}

    def _distill(self, masks: Tensor, rng: torch.Generator, seen: int) -> tuple[float, Tensor, dict[str, Tensor]]:
        """The same of the second part."""
        masks = self.checked(masks)
        z = self._draw_z(len(masks) * rank_and_world()[1], masks, rng, local_slice()).to(masks.device)
        with self.accelerator.autocast():
            loss = self.distill_loss(masks, z)
        rate = _schedule(seen - self.first_part, self.config.num_images - self.first_part)
        return DISTILL_RATE * self.config.lr * rate, loss, {"distill": loss}

    @torch.no_grad()
    def held_out(
        self, generator: FeatureGenerator, loader: Iterable[tuple[Tensor, Tensor]], window: tuple[int, int] | None = None
    ) -> float:
        """The loss of ``generator`` on images that are not trained on, always with the same noise.

        It bounds the likelihood of unseen features. If it rises while training goes on, the generator memorises. In the second part it is
        that of the weights that are distilled: the others have no velocities any more. Images larger than
        ``window`` are cut into windows, as in ``recognition``: other features lie at the edges of whole images, above all where the
        stride does not divide them, and the loss could not be compared with that of training.

        Args:
            generator: The trained weights or their moving average.
            loader: ``(images, masks)``; the first ``HELD_OUT_IMAGES`` count.
            window: Rows and columns of the training crops; ``None`` for whole images.

        Returns:
            The mean over these images, or over their windows; NaN if there are none.

        Raises:
            ConfigError: ``generator`` was distilled in an earlier training.
        """
        flow: Any = self.parts["teacher"] if self.parts else generator
        if flow.distilled_steps is not None:
            raise ConfigError(
                "GeneratorTrainer: a distilled generator has no velocities, and so no loss on held-out images.",
                given=f"a generator of {flow.distilled_steps} steps",
                needed="a generator that was trained with GeneratorConfig(distill_share=0)",
            )
        rng, loss_of = generator_for(self.config.seed, "held out", 0), FlowLosses(flow)
        total, counted, seen = 0.0, 0, 0
        with eval_mode(self.cut.model):
            for images, masks in check_loader("GeneratorTrainer", loader):
                # Features from a bank are those of crops.
                parts = tiles(images, masks, window, generator.ignore_index) if isinstance(images, Tensor) else [(images, masks, masks)]
                for part, given, _ in parts:
                    given, real = self.real(part, given)
                    noise, times = self._draw(len(given), given, rng, slice(None))
                    total += float(loss_of(given, real, noise, times)[0]) * len(given)
                    counted += len(given)
                seen += len(masks)
                if seen >= HELD_OUT_IMAGES:
                    break
        return total / counted if counted else math.nan

    def _draw(self, count: int, masks: Tensor, rng: torch.Generator, mine: slice) -> tuple[list[Tensor], Tensor]:
        """Noise and times for ``count`` samples, of which this process takes those of ``mine``; ``config.noise_levels`` of each."""
        device = self.accelerator.device
        drawn = [(self._draw_z(count, masks, rng, mine), draw_times(count, rng)[mine]) for _ in range(self.config.noise_levels)]
        z, times = torch.cat([z for z, _ in drawn]), torch.cat([times for _, times in drawn])
        return self.generator.noise_maps(z.to(device), size_of(masks)), times.to(device)

    def _draw_z(self, count: int, masks: Tensor, rng: torch.Generator, mine: slice) -> Tensor:
        """Noise for ``count`` samples of the masks' size, of which this process takes those of ``mine``; on the device of ``rng``."""
        return torch.randn(count, latent_size(self.generator.spec, size_of(masks)), generator=rng, device=rng.device)[mine]


def warn_of_memory(curve: Sequence[float]) -> None:
    """Warn if the loss on held-out images has risen again.

    Warns:
        FeatAugWarning: the last loss is more than 2 % above the lowest.
    """
    if curve and curve[-1] > 1.02 * min(curve):
        warnings.warn(
            f"GeneratorTrainer: the loss on held-out images has risen from {min(curve):.3f} to {curve[-1]:.3f}: the generator begins to "
            "memorise the training images. Train on fewer images (num_images), or with more augmentation.",
            FeatAugWarning,
            stacklevel=4,
        )
