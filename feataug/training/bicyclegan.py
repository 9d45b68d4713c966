"""One training step of a generator: BicycleGAN's objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from feataug.core.checks import describe
from feataug.core.distributed import local_slice, rank_and_world
from feataug.core.rng import derive_seed, generator_for, seeded
from feataug.core.specs import FeatureSpec
from feataug.cutting.cut import Cut
from feataug.errors import ConfigError, ShapeError, TrainingError
from feataug.generation.critics import Discriminator, LatentEncoder
from feataug.generation.generator import FeatureGenerator
from feataug.generation.layers.spectral_norm import normalized_together
from feataug.losses import balanced_cross_entropy, kl_divergence, lsgan, mode_seeking, reconstruction, resize_logits, split_outputs
from feataug.training.config import GeneratorConfig
from feataug.training.objective_base import Objective

MakeCritic = Callable[[int, FeatureSpec], nn.Module]


def check_critic(made: object) -> None:
    """Raise ``ConfigError`` unless ``critic`` of ``GeneratorTrainer`` made a module that can be trained."""
    if not isinstance(made, nn.Module) or not any(True for _ in made.parameters()):
        raise ConfigError(
            "GeneratorTrainer: critic makes no critic.",
            given=f"a {type(made).__name__}" + (" without parameters" if isinstance(made, nn.Module) else ""),
            needed="a function of (num_classes, spec) that returns a new torch.nn.Module with parameters",
        )


def critic_scores(critic: Any, masks: Tensor, features: Any) -> list[Tensor]:
    """Call a critic and check its scores: a list of tensors with one row for each feature."""
    scores = critic(masks, features)
    count = len(features[0])
    listed = isinstance(scores, (list, tuple)) and len(scores) > 0
    wrong = (
        [score for score in scores if not (isinstance(score, Tensor) and score.ndim and len(score) == count)]
        if listed
        else [scores]
    )
    if wrong:
        raise ShapeError(
            "GeneratorTrainer: the critic returns no scores.",
            given=describe(wrong[0]),
            needed=f"a list of tensors with {count} rows each, one for each feature",
        )
    return list(scores)


class BicycleGANObjective(Objective):
    """The generator, the latent encoder and the critics with their optimizers, and one training step of them all.

    Args:
        generator: A generator made for ``cut.spec``.
        cut: A cut of the trained model, which is in eval mode and without gradients.
        config: The loss weights, the learning rate and the critics.
        critic: Makes a critic from ``(num_classes, spec)``, once for each branch. The default is the ``Discriminator`` of ``config``.

    Attributes:
        parts: ``latent``, ``judge_encoded`` and ``judge_random``; checkpoints know them by these names.
        optimizers: ``generator``, ``latent`` and ``critics``; ``prepare`` makes them.

    Source:
        Zhu et al. (2017), BicycleGAN: cVAE-GAN on ``G(y, E(f))``, cLR-GAN on ``G(y, z)``, in two halves of a batch.
    """

    models: dict[str, Any]

    def __init__(self, generator: FeatureGenerator, cut: Cut, config: GeneratorConfig, critic: MakeCritic | None = None) -> None:
        super().__init__(generator, cut, config)
        if critic is None:
            critic = partial(Discriminator, width=config.critic_width, scales=config.critic_scales, masks=config.critic_masks)
        with seeded(derive_seed(config.seed, "critics"), torch.get_default_device()):
            critics = {name: critic(generator.num_classes, cut.spec) for name in ("judge_encoded", "judge_random")}
            for made in critics.values():
                check_critic(made)
            latent = LatentEncoder(cut.spec, generator.latent_dim, width=config.critic_width)
            self.parts = nn.ModuleDict(critics | {"latent": latent})

    def prepare(self, accelerator: Accelerator) -> None:
        """Move everything to the accelerator's device and make the optimizers."""
        config = self.config
        self.place(accelerator)
        # One kernel for all weights takes a third of the time, also on the CPU. Other devices have no such kernel.
        fused = accelerator.device.type in ("cpu", "cuda")
        adam: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "fused": fused}
        optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), **adam),
            "latent": torch.optim.Adam(self.parts["latent"].parameters(), **adam),
            "critics": torch.optim.Adam(
                [*self.parts["judge_encoded"].parameters(), *self.parts["judge_random"].parameters()], **adam
            ),
        }
        parts = accelerator.prepare(self.generator, *self.parts.values(), *optimizers.values())
        self.models = dict(zip(("generator", *self.parts), parts, strict=False))
        self.optimizers = dict(zip(optimizers, parts[len(self.models) :], strict=True))

    def step(self, images: Tensor | Sequence[Tensor], masks: Tensor, seen: int) -> dict[str, Tensor]:
        """Update the generator and the latent encoder, then the critics.

        Args:
            images: ``(B, 3, H, W)`` on any device; or features of a ``FeatureBank``, one tensor for each level.
            masks: ``(B, H, W)``.
            seen: The number of images before this batch in all processes. It decides the noise and the learning rate.

        Returns:
            The unweighted losses, without gradients.

        Raises:
            TrainingError: fewer than two samples.
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``.
        """
        config, generator, device = self.config, self.generator, self.accelerator.device
        models, optimizers = self.models, self.optimizers
        if len(masks) < 2:
            raise TrainingError(
                "GeneratorTrainer: batches are too small.",
                given=f"{len(masks)} sample",
                needed="two or more: one half is reconstructed, the critic sees the other half as real",
                advice="Use a larger batch_size, and drop_last=True.",
            )
        masks, real = self.real(images, masks)
        half = len(masks) // 2
        masks1, masks2 = masks[:half], masks[half : 2 * half]
        real1, real2 = [x[:half] for x in real], [x[half : 2 * half] for x in real]
        # Noise depends only on the seed and the images seen: a resumed run draws what an undisturbed run would draw.
        rng = generator_for(config.seed, "noise", seen)

        def noise() -> Tensor:
            return torch.randn(half * rank_and_world()[1], generator.latent_dim, generator=rng)[local_slice()].to(device)

        for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
            group["lr"] = config.lr * min(1.0, 2 - 2 * seen / config.num_images)
        critics = {"encoded": models["judge_encoded"], "random": models["judge_random"]}
        losses: dict[str, Tensor] = {}
        # Spectral norms are computed once for all uses of the critics, whose weights change in the end.
        with normalized_together(*(critics.values() if config.gan_weight else ())):
            for critic in critics.values():
                critic.requires_grad_(False)
            with self.accelerator.autocast():
                mean, log_variance = models["latent"](real1)
                z_random = noise()
                codes = [mean + noise() * (log_variance / 2).exp(), z_random]
                z_other = noise()
                if config.diversity_weight:
                    codes.append(z_other)
                made = models["generator"](masks1, torch.cat(codes), samples=len(codes), standardized=True)
                encoded, random, *other = zip(*(level.float().chunk(len(codes)) for level in made), strict=True)
                losses["l1"] = reconstruction(encoded, real1)
                losses["kl"] = kl_divergence(mean, log_variance)
                if config.gan_weight:
                    losses["gan"] = lsgan(critic_scores(critics["encoded"], masks1, encoded), 1.0)
                    losses["gan"] = losses["gan"] + lsgan(critic_scores(critics["random"], masks1, random), 1.0)
                else:
                    losses["gan"] = made[0].new_zeros(())
                # Only G learns to keep z readable: if E learned from this loss as well, the two would hide z from the critics.
                models["latent"].requires_grad_(False)
                found, _ = models["latent"](random)
                models["latent"].requires_grad_(True)
                losses["latent"] = (found - z_random).abs().mean()
                if config.task_weight:
                    out = self.cut.decode(generator.destandardize(random), masks.shape[-2:])
                    logits = resize_logits(split_outputs(out)[0], masks.shape[-2:])
                    losses["task"] = balanced_cross_entropy(
                        logits, masks1, config.task_balance, generator.ignore_index, across_processes=True
                    )
                if config.diversity_weight:
                    losses["diversity"] = mode_seeking(random, other[0], z_random, z_other)
                total = sum(getattr(config, f"{name}_weight") * value for name, value in losses.items())
            for name in ("generator", "latent"):
                optimizers[name].zero_grad()
            self.accelerator.backward(total)
            for name in ("generator", "latent"):
                optimizers[name].step()
            for critic in critics.values():
                critic.requires_grad_(True)
            if config.gan_weight:
                # Those of a user's critic, which torch's own parametrizations may compute.
                with parametrize.cached():
                    critic_loss = self._critic_loss(critics["encoded"], masks1, real1, masks1, encoded)
                    critic_loss = critic_loss + self._critic_loss(critics["random"], masks2, real2, masks1, random)
                optimizers["critics"].zero_grad()
                self.accelerator.backward(critic_loss)
                optimizers["critics"].step()
                losses["critics"] = critic_loss
        return {name: value.detach() for name, value in losses.items()}

    def _critic_loss(self, critic: Any, real_masks: Tensor, real: Any, masks: Tensor, synthetic: Any) -> Tensor:
        """Half of LSGAN's two terms: real scores to 1, synthetic scores to 0. Both are judged in one pass."""
        with self.accelerator.autocast():
            pairs = [torch.cat([mine, level.detach()]) for mine, level in zip(real, synthetic, strict=True)]
            # One encoding of the masks serves both if they are the same.
            scores = critic_scores(critic, masks if real_masks is masks else torch.cat([real_masks, masks]), pairs)
            return lsgan(scores, 1.0, 0.0)
