"""One training step of a generator: BicycleGAN's objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from feataug.core.distributed import local_slice, rank_and_world
from feataug.core.rng import derive_seed, generator_for, seeded
from feataug.core.specs import FeatureSpec
from feataug.cutting.cut import Cut
from feataug.errors import TrainingError
from feataug.generation.critics import Discriminator, LatentEncoder
from feataug.generation.generator import FeatureGenerator
from feataug.losses import balanced_cross_entropy, kl_divergence, mode_seeking, reconstruction, resize_logits, split_outputs
from feataug.training.config import GeneratorConfig
from feataug.training.critic_pair import CriticPair, Shared, check_critic
from feataug.training.objective_base import Objective

MakeCritic = Callable[[int, FeatureSpec], nn.Module]


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
        self.critics = CriticPair(self.parts["judge_encoded"], self.parts["judge_random"])
        # One kernel for all weights takes a third of the time, also on the CPU. Other devices have no such kernel.
        fused = accelerator.device.type in ("cpu", "cuda")
        adam: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "fused": fused}
        optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), **adam),
            "latent": torch.optim.Adam(self.parts["latent"].parameters(), **adam),
            "critics": torch.optim.Adam(self.critics.parameters(), **adam),
        }
        parts = accelerator.prepare(self.generator, self.parts["latent"], self.critics, *optimizers.values())
        self.models = dict(zip(("generator", "latent", "critics"), parts, strict=False))
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
        config = self.config
        if len(masks) < 2:
            raise TrainingError(
                "GeneratorTrainer: batches are too small.",
                given=f"{len(masks)} sample",
                needed="two or more: one half is reconstructed, the critic sees the other half as real",
                advice="Use a larger batch_size, and drop_last=True.",
            )
        masks, real = self.real(images, masks)
        half = len(masks) // 2
        masks, real1, real2 = masks[: 2 * half], [x[:half] for x in real], [x[half : 2 * half] for x in real]
        for group in (group for optimizer in self.optimizers.values() for group in optimizer.param_groups):
            group["lr"] = config.lr * min(1.0, 2 - 2 * seen / config.num_images)
        with self.accelerator.autocast():
            shared = self.critics.share(masks) if config.gan_weight else None
            losses, encoded, random = self._generator_losses(masks[:half], real1, shared, seen)
            # By one kernel for all weights.
            weights = [getattr(config, f"{name}_weight") for name in losses]
            total = torch.stack(torch._foreach_mul(list(losses.values()), weights)).sum()
        self._update(total, "generator", "latent")
        if shared is not None:
            with self.accelerator.autocast():
                losses["critics"] = self.models["critics"](shared, encoded, random, (real1, real2))
            self._update(losses["critics"], "critics")
        return {name: value.detach() for name, value in losses.items()}

    def _update(self, loss: Tensor, *names: str) -> None:
        """A step of the optimizers of these names."""
        for name in names:
            self.optimizers[name].zero_grad()
        self.accelerator.backward(loss)
        for name in names:
            self.optimizers[name].step()

    def _generator_losses(self, masks: Tensor, real: list[Tensor], shared: Shared | None, seen: int) -> tuple[dict[str, Tensor], Any, Any]:
        """The unweighted losses of the generator and of the latent encoder, and the samples of ``G(y, E(f))`` and of ``G(y, z)``."""
        config, generator, models = self.config, self.generator, self.models
        # Noise depends only on the seed and the images seen: a resumed run draws what an undisturbed run would draw.
        rng = generator_for(config.seed, "noise", seen)

        def noise() -> Tensor:
            drawn = torch.randn(len(masks) * rank_and_world()[1], generator.latent_dim, generator=rng)
            return drawn[local_slice()].to(self.accelerator.device)

        mean, log_variance = models["latent"](real)
        z_random = noise()
        codes = [mean + noise() * (log_variance / 2).exp(), z_random]
        z_other = noise()
        if config.diversity_weight:
            codes.append(z_other)
        made = models["generator"](masks, torch.cat(codes), samples=len(codes), standardized=True, checked=True)
        encoded, random, *other = zip(*(level.float().chunk(len(codes)) for level in made), strict=True)
        losses = {"l1": reconstruction(encoded, real), "kl": kl_divergence(mean, log_variance)}
        losses["gan"] = models["critics"](shared, encoded, random) if shared is not None else made[0].new_zeros(())
        # Only G learns to keep z readable: if E learned from this loss as well, the two would hide z from the critics.
        models["latent"].requires_grad_(False)
        found, _ = models["latent"](random)
        models["latent"].requires_grad_(True)
        losses["latent"] = (found - z_random).abs().mean()
        if config.task_weight:
            out = self.cut.decode(generator.destandardize(random), masks.shape[-2:])
            logits = resize_logits(split_outputs(out)[0], masks.shape[-2:])
            losses["task"] = balanced_cross_entropy(logits, masks, config.task_balance, generator.ignore_index, across_processes=True)
        if config.diversity_weight:
            losses["diversity"] = mode_seeking(random, other[0], z_random, z_other)
        return losses, encoded, random
