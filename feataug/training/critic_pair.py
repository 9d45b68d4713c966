"""BicycleGAN's two critics and their losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from feataug.core.checks import describe
from feataug.errors import ConfigError, ShapeError
from feataug.generation.critics import Discriminator, ShareEncoder, halved, matched
from feataug.generation.layers.class_shares import class_shares
from feataug.generation.layers.spectral_norm import SpectralConv2d, normalized_together, normalized_weights
from feataug.losses import lsgan

Levels = Sequence[Tensor]


def check_critic(made: object) -> None:
    """Raise ``ConfigError`` unless ``critic`` of ``GeneratorTrainer`` made a module that can be trained."""
    if not isinstance(made, nn.Module) or not any(True for _ in made.parameters()):
        raise ConfigError(
            "GeneratorTrainer: critic makes no critic.",
            given=f"a {type(made).__name__}" + (" without parameters" if isinstance(made, nn.Module) else ""),
            needed="a function of (num_classes, spec) that returns a new torch.nn.Module with parameters",
        )


class Shared(NamedTuple):
    """What both passes of a training step have in common: nothing here changes before the critics' own optimizer does.

    Attributes:
        masks: Of the half of the batch that is reconstructed, and of the other half.
        codes: The encoded masks: by the first critic those of the first half; by the second critic those of both halves.
        convs: Weight and bias of each convolution of both critics, one above the other. These two are empty where critics are called one by one.
    """

    masks: tuple[Tensor, Tensor]
    codes: tuple[Tensor, ...] = ()
    convs: tuple[tuple[Tensor, Tensor], ...] = ()

    def detached(self) -> Shared:
        """The same without gradients."""
        convs = tuple((weight.detach(), bias.detach()) for weight, bias in self.convs)
        return Shared(self.masks, tuple(code.detach() for code in self.codes), convs)


class CriticPair(nn.Module):
    """The critics of encoded and of random samples.

    Two ``Discriminator`` of one shape judge in one pass: side by side as the two groups of each convolution, with half as many kernels. Other
    critics are called one after the other.

    Args:
        encoded: Judges ``G(y, E(f))``, against the features of the same masks.
        random: Judges ``G(y, z)``, against the features of other masks.
    """

    def __init__(self, encoded: nn.Module, random: nn.Module) -> None:
        super().__init__()
        self.encoded: Any = encoded
        self.random: Any = random
        shapes = [[parameter.shape for parameter in critic.parameters()] for critic in (encoded, random)]
        self.side_by_side = type(encoded) is type(random) is Discriminator and shapes[0] == shapes[1] and encoded.scales == random.scales

    def share(self, masks: Tensor) -> Shared:
        """Begin a step with ``(2 B, H, W)`` masks."""
        half = len(masks) // 2
        first, second = masks[:half], masks[half:]
        if not self.side_by_side:
            return Shared((first, second))
        encoders = self.encoded.mask_encoder, self.random.mask_encoder
        if isinstance(encoders[0], ShareEncoder):
            shares = class_shares(masks, encoders[0].num_classes, encoders[0].stride)
            codes = encoders[0].encode(shares[:half]), encoders[1].encode(shares)
        else:
            codes = encoders[0](first), encoders[1](masks)
        return Shared((first, second), (codes[0], *codes[1].split(half)), self._joined())

    def _joined(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight and bias of each convolution, those of the second critic after those of the first."""
        pairs: list[Any] = [
            pair for pair in zip(self.encoded.patches.modules(), self.random.patches.modules(), strict=True) if isinstance(pair[0], nn.Conv2d)
        ]
        spectral = iter(normalized_weights([layer for pair in pairs if isinstance(pair[0], SpectralConv2d) for layer in pair], together=2))
        weights = [next(spectral) if isinstance(one, SpectralConv2d) else torch.cat([one.weight, two.weight]) for one, two in pairs]
        # All biases by one kernel.
        biases = torch.cat([layer.bias for pair in pairs for layer in pair]).split([2 * len(one.bias) for one, _ in pairs])
        return tuple(zip(weights, biases, strict=True))

    def forward(self, shared: Shared, encoded: Levels, random: Levels, real: tuple[Levels, Levels] | None = None) -> Tensor:
        """A least-squares GAN loss, summed over both critics.

        Args:
            shared: Of this step.
            encoded, random: Both kinds of samples for the first half of the masks, in standardised units: one tensor for each level.
            real: Real features of the first and of the second half.

        Returns:
            Without ``real``, the generator's loss: how far the samples are from being judged real. With them, half of the critics' two terms,
            in which no gradient reaches the samples.
        """
        if real is None:
            if self.side_by_side:
                fixed = shared.detached()
                code, same, _ = fixed.codes
                return _judge(self.encoded.patches, fixed.convs, [(encoded, code, random, same)], 1.0)
            with _frozen(self), normalized_together(self):
                masks = shared.masks[0]
                scores = [critic_scores(critic, masks, made) for critic, made in ((self.encoded, encoded), (self.random, random))]
            return lsgan(scores[0], 1.0) + lsgan(scores[1], 1.0)
        encoded, random = ([level.detach() for level in levels] for levels in (encoded, random))
        if self.side_by_side:
            code, same, other = shared.codes
            return _judge(self.encoded.patches, shared.convs, [(real[0], code, real[1], other), (encoded, code, random, same)], 1.0, 0.0)
        first, second = shared.masks
        pairs = [[torch.cat(both) for both in zip(*levels, strict=True)] for levels in ((real[0], encoded), (real[1], random))]
        # The norms of a user's critic, which torch's own parametrizations may compute.
        with normalized_together(self), parametrize.cached():
            # One encoding of the masks serves both if they are the same.
            scores = [critic_scores(self.encoded, first, pairs[0]), critic_scores(self.random, torch.cat([second, first]), pairs[1])]
        return lsgan(scores[0], 1.0, 0.0) + lsgan(scores[1], 1.0, 0.0)


def _judge(patches: Any, convs: Sequence[tuple[Tensor, Tensor]], batches: Sequence[tuple[Levels, Tensor, Levels, Tensor]], *targets: float) -> Tensor:
    """The loss of two critics side by side.

    Args:
        patches: The layers of one of them, for each level and scale.
        convs: Weight and bias of the convolutions of both.
        batches: For each target the features and the encoded masks for the first critic, and those for the second.
        targets: Of the scores.
    """
    left, scores = iter(convs), []
    for number, critics in enumerate(patches):
        rows = []
        for first, first_code, second, second_code in batches:
            one, two = first[number], second[number]
            rows.append(torch.cat([one, matched(first_code, one), two, matched(second_code, two)], dim=1))
        pairs = torch.cat(rows) if len(rows) > 1 else rows[0]
        for critic, hidden in zip(critics, halved(pairs, len(critics)), strict=True):
            for layer in critic:
                hidden = F.conv2d(hidden, *next(left), layer.stride, layer.padding, groups=2) if isinstance(layer, nn.Conv2d) else layer(hidden)
            scores.append(hidden)
    # The mean of a map with two channels is that of both critics.
    return 2 * lsgan(scores, *targets)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Without gradients for its parameters."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


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
