"""The generator's training step, written plainly: the other side of ``generator_step.py``, and a test's oracle.

One-hot masks, one forward for each use, contiguous tensors, no autocast. The networks and their first weights are those of
``feataug.training.bicyclegan.BicycleGANObjective``; what looks labels up and what computes spectral norms is replaced.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from feataug import FeatureGenerator, GeneratorConfig
from feataug.core.rng import generator_for
from feataug.generation.critics import ShareEncoder
from feataug.generation.layers.aspp import ASPP
from feataug.generation.layers.label_conv import LabelConv2d
from feataug.generation.layers.spectral_norm import SpectralConv2d
from feataug.losses import balanced_cross_entropy, kl_divergence, lsgan, mode_seeking, reconstruction, resize_logits
from feataug.training.bicyclegan import BicycleGANObjective


class OneHotConv(nn.Module):
    """``LabelConv2d`` on one-hot codes."""

    def __init__(self, layer: LabelConv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.stride, self.dilation = layer.weight, layer.bias, layer.stride, layer.dilation

    def forward(self, labels: Tensor) -> Tensor:
        code = F.one_hot(labels, self.weight.shape[1]).permute(0, 3, 1, 2).float().contiguous()
        padding = self.dilation * (self.weight.shape[-1] // 2)
        return F.conv2d(code, self.weight, self.bias, self.stride, padding, self.dilation)


class OneHotShares(nn.Module):
    """``ShareEncoder`` on one-hot codes."""

    def __init__(self, layer: ShareEncoder) -> None:
        super().__init__()
        self.project, self.stride, self.num_classes, self.out_channels = (
            layer.project,
            layer.stride,
            layer.num_classes,
            layer.out_channels,
        )

    def forward(self, masks: Tensor) -> Tensor:
        void = (masks < 0) | (masks >= self.num_classes)
        code = F.one_hot(masks.masked_fill(void, self.num_classes), self.num_classes + 1).permute(0, 3, 1, 2).float()
        # Cells at the far edges are averaged over the pixels that they have.
        shares = F.avg_pool2d(code, self.stride, ceil_mode=True, count_include_pad=False)
        return F.leaky_relu(self.project(shares), 0.2)


def one_by_one(layer: ASPP, inputs: Tensor) -> list[Tensor]:
    """The convolutions of ``ASPP`` as they are."""
    return [branch(inputs) for branch in layer.branches]


def with_spectral_norm(layer: SpectralConv2d) -> nn.Module:
    """The layer with torch's own spectral norm."""
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
    conv.weight, conv.bias = layer.weight, layer.bias
    normed: Any = spectral_norm(conv)
    with torch.no_grad():
        norm = normed.parametrizations.weight[0]
        norm._u.copy_(layer.u)
        norm._v.copy_(F.normalize(layer.weight.flatten(1).T @ layer.u, dim=0))
    return conv


def plainly(module: nn.Module) -> nn.Module:
    """Replace what looks labels up, and what is computed together, in place."""
    if isinstance(module, ASPP):
        setattr(module, "_branches", partial(one_by_one, module))  # noqa: B010, no method may be assigned to
    for name, child in module.named_children():
        if isinstance(child, LabelConv2d):
            setattr(module, name, OneHotConv(child))
        elif isinstance(child, ShareEncoder):
            setattr(module, name, OneHotShares(child))
        elif isinstance(child, SpectralConv2d):
            setattr(module, name, with_spectral_norm(child))
        else:
            plainly(child)
    return module


class PlainObjective:
    """``BicycleGANObjective.step`` with every network called wherever its result is needed."""

    def __init__(self, generator: FeatureGenerator, cut: Any, config: GeneratorConfig) -> None:
        self.generator, self.cut, self.config = generator, cut, config
        self.parts = BicycleGANObjective(generator, cut, config).parts

    def prepare(self, device: torch.device) -> None:
        """Move to the device, contiguous, and make the optimizers."""
        for module in (self.cut.model, self.generator, self.parts):
            plainly(module) if module is not self.cut.model else None
            module.to(device=device, memory_format=torch.contiguous_format)
        config = self.config
        critics = [*self.parts["judge_encoded"].parameters(), *self.parts["judge_random"].parameters()]
        self.adam_g, self.adam_e, self.adam_d = (
            torch.optim.Adam(list(parameters), lr=config.lr, betas=(config.beta1, config.beta2))
            for parameters in (self.generator.parameters(), self.parts["latent"].parameters(), critics)
        )

    def step(self, images: Tensor, masks: Tensor, seen: int) -> dict[str, Tensor]:
        """The unweighted losses of one step."""
        config, generator = self.config, self.generator
        encoder, judge_encoded, judge_random = (self.parts[name] for name in ("latent", "judge_encoded", "judge_random"))
        device = next(generator.parameters()).device
        images, masks = images.contiguous().to(device), masks.to(device)
        rng = generator_for(config.seed, "noise", seen)
        with torch.no_grad():
            real = generator.standardize(self.cut.encode(images))
        half = len(images) // 2
        (masks1, masks2), real1, real2 = masks[: 2 * half].split(half), [x[:half] for x in real], [x[half : 2 * half] for x in real]
        z_random, noise, z_other = (torch.randn(half, generator.latent_dim, generator=rng).to(device) for _ in range(3))
        mean, log_variance = encoder(real1)
        encoded = generator(masks1, mean + noise * (log_variance / 2).exp(), standardized=True)
        random = generator(masks1, z_random, standardized=True)
        losses = {
            "l1": reconstruction(encoded, real1),
            "kl": kl_divergence(mean, log_variance),
            "gan": lsgan(judge_encoded(masks1, encoded), 1.0) + lsgan(judge_random(masks1, random), 1.0),
        }
        if config.task_weight:
            logits = resize_logits(self.cut.decode(generator.destandardize(random), masks.shape[-2:]), masks.shape[-2:])
            losses["task"] = balanced_cross_entropy(logits, masks1, config.task_balance, generator.ignore_index)
        if config.diversity_weight:
            losses["diversity"] = mode_seeking(random, generator(masks1, z_other, standardized=True), z_random, z_other)
        self.adam_g.zero_grad()
        self.adam_e.zero_grad()
        sum(getattr(config, f"{name}_weight") * value for name, value in losses.items()).backward(retain_graph=True)
        encoder.requires_grad_(False)
        losses["latent"] = (encoder(random)[0] - z_random).abs().mean()
        (config.latent_weight * losses["latent"]).backward()
        encoder.requires_grad_(True)
        self.adam_g.step()
        self.adam_e.step()
        losses["critics"] = 0.5 * (
            lsgan(judge_encoded(masks1, real1), 1.0)
            + lsgan(judge_encoded(masks1, [x.detach() for x in encoded]), 0.0)
            + lsgan(judge_random(masks2, real2), 1.0)
            + lsgan(judge_random(masks1, [x.detach() for x in random]), 0.0)
        )
        self.adam_d.zero_grad()
        losses["critics"].backward()
        self.adam_d.step()
        return {name: value.detach() for name, value in losses.items()}
