"""The losses as pure functions: Eq. (2) and (3) for the segmentation model, and BicycleGAN's for the generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from feataug.core.checks import check_mask_form, check_masks, check_number, check_void, describe, is_plain
from feataug.core.distributed import all_reduce_sum, rank_and_world
from feataug.errors import ShapeError


def split_outputs(out: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The logits in a model's output, and those of its auxiliary heads.

    The output may be a tensor, a dictionary (torchvision's ``"out"`` and ``"aux"``, transformers' ``"logits"``), or a sequence that
    starts with the logits.

    Raises:
        ShapeError: there are no logits in it.
    """
    if isinstance(out, Tensor):
        return out, ()
    if isinstance(out, Mapping):
        for key in ("out", "logits"):
            if key in out:
                return out[key], tuple(out[name] for name in ("aux",) if isinstance(out.get(name), Tensor))
    elif isinstance(out, Sequence) and len(out) and all(isinstance(item, Tensor) for item in out):
        return out[0], tuple(out[1:])
    raise ShapeError(
        "feataug: cannot find the logits in the model's output.",
        given=describe(out),
        needed='a tensor, a dictionary with "out" or "logits", or a sequence of tensors that starts with the logits',
        advice="Pass the logits themselves, (B, K, h, w).",
    )


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits ``(B, K, h, w)`` resized to ``size`` by bilinear interpolation, without aligned corners."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def smoothed_cross_entropy(logits: Tensor, masks: Tensor, label_smoothing: float = 0.0, ignore_index: int = 255) -> Tensor:
    """Eq. (3) at every pixel: ``-sum_k log p(k) q(k)`` with ``q(y) = 1 - eps (K - 1) / K`` and ``q(k) = eps / K`` elsewhere.

    Args:
        logits: ``(B, K, H, W)``.
        masks: ``(B, H, W)``.
        label_smoothing: epsilon; equals torch's ``label_smoothing``.
        ignore_index: Label of void.

    Returns:
        ``(B, H, W)``, zero at void pixels.

    Raises:
        ConfigError: ``ignore_index`` is a class.
    """
    check_void("smoothed_cross_entropy", logits.shape[1], ignore_index)
    return F.cross_entropy(logits.float(), masks, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing)


def balanced_cross_entropy(
    logits: Tensor, masks: Tensor, balance: float, ignore_index: int = 255, *, across_processes: bool = False
) -> Tensor:
    """Mean cross entropy over valid pixels, each weighted by its class's area in the batch to the power of ``-balance``,
    with a mean weight of 1.

    Args:
        logits: ``(B, K, H, W)``.
        masks: ``(B, H, W)``.
        balance: 0 gives all pixels the same weight, 1 all classes.
        ignore_index: Label of void.
        across_processes: As for ``segmentation_loss``.

    Returns:
        A scalar; 0 if no pixel is valid.

    Source:
        Ours.
    """
    reduce_sum, processes = (all_reduce_sum, rank_and_world()[1]) if across_processes else (_unchanged, 1)
    classes = logits.shape[1]
    check_void("balanced_cross_entropy", classes, ignore_index)
    if balance:
        # Void is counted behind the classes.
        labels = masks.masked_fill(masks == ignore_index, classes).flatten()
        area = torch.zeros(classes + 1, device=masks.device)
        area = reduce_sum(area.scatter_add_(0, labels, area.new_ones(()).expand(labels.shape)))[:classes]
        weight = area.clamp(min=1).pow(-balance)
        count = (area * weight).sum()
    else:
        weight, count = None, reduce_sum((masks != ignore_index).sum())
    # The sum apart: with cross_entropy's own there is no deterministic algorithm on a GPU.
    pixels = F.cross_entropy(logits.float(), masks, weight, ignore_index=ignore_index, reduction="none")
    # Without a valid pixel both are 0.
    loss = pixels.sum() / count.clamp(min=1e-12)
    return processes * loss if processes > 1 else loss


def _unchanged(value: Tensor) -> Tensor:
    return value


def per_sample_loss(logits: Tensor, masks: Tensor, ignore_index: int = 255) -> Tensor:
    """Mean cross entropy over the valid pixels of each sample, ``(B,)``; 0 for a sample without any.

    Source:
        Sec. 3.3 ranks patches by it.
    """
    pixels = smoothed_cross_entropy(resize_logits(logits, masks.shape[-2:]), masks, 0.0, ignore_index)
    valid = (masks != ignore_index).flatten(1).sum(1)
    return pixels.flatten(1).sum(1) / valid.clamp(min=1)


def segmentation_loss(
    out: Any,
    masks: Tensor,
    num_real: int | None = None,
    *,
    label_smoothing: float = 0.0,
    synthetic_weight: float | Literal["sum"] = 1.0,
    class_weights: Tensor | None = None,
    aux_weight: float = 0.4,
    ignore_index: int = 255,
    observe: Callable[[Tensor], None] | None = None,
    across_processes: bool = False,
) -> Tensor:
    """Eq. (2): cross entropy on real samples, label-smoothed cross entropy on synthetic ones.

    Args:
        out: The model's output on the mixed batch; see ``split_outputs``. Logits smaller than the masks are resized.
        masks: ``(B, H, W)``.
        num_real: Number of real samples, which come first; ``None`` if all samples are real.
        label_smoothing: epsilon of Eq. (3), for the synthetic samples only.
        synthetic_weight: Factor of the synthetic pixels' terms in the mean over all valid pixels; or ``"sum"``, which adds the
            mean over the synthetic pixels to the mean over the real ones, as Eq. (1) is written. (For a weight ``w`` equal to
            real over synthetic pixels, the first is ``real / (real + synthetic)`` times the second.)
        class_weights: ``(K,)`` factors of the pixels' terms by their label, in all samples. The sum is still divided by the number
            of pixels, not by the sum of the weights. See ``deficit_weights``.
        aux_weight: Factor of each auxiliary head's loss, 0.4 in PSPNet.
        ignore_index: Label of void.
        observe: A function that gets the mean loss of each synthetic sample over its valid pixels, ``(synthetic,)``, unweighted and
            detached.
        across_processes: Whether to divide by the mean number of valid pixels over the processes. As DDP averages gradients, they
            then equal those of one process with all samples, even if void differs between processes. All processes have to call it.

    Returns:
        A scalar; 0 (with a gradient of 0) if no pixel is valid.
    """
    check_mask_form("segmentation_loss", masks)
    masks = masks.long()
    check_number("segmentation_loss", "label_smoothing", label_smoothing, low=0, high=1)
    if num_real is not None:
        check_number("segmentation_loss", "num_real", num_real, low=0, high=len(masks), integer=True)
    logits, auxiliary = split_outputs(out)
    class_weights = class_weights.to(masks.device) if class_weights is not None else None
    num_real = len(masks) if num_real is None else num_real
    parts = ((slice(None, num_real), 0.0), (slice(num_real, None), label_smoothing))
    valid = [(masks[part] != ignore_index).flatten(1).sum(1) for part, _ in parts]
    counts = torch.stack([numbers.sum() for numbers in valid])
    if across_processes:
        counts = all_reduce_sum(counts) / rank_and_world()[1]
    # If all processes together have one valid pixel, the mean count is below 1.
    least = 1 / rank_and_world()[1] if across_processes else 1

    def head_loss(head: Tensor, main: bool) -> Tensor:
        if not is_plain(head) or not head.is_floating_point() or head.ndim != 4 or 0 in head.shape:
            raise ShapeError("segmentation_loss: these are no logits.", given=describe(head), needed="(B, K, h, w) floating point")
        if masks.device.type == "cpu":
            # On a GPU this check would wait for the queue, so there torch's own assertion must do.
            check_masks("segmentation_loss", masks, head.shape[1], ignore_index)
        check_void("segmentation_loss", head.shape[1], ignore_index)
        if class_weights is not None and tuple(class_weights.shape) != (head.shape[1],):
            raise ShapeError(
                "segmentation_loss: class_weights do not fit the logits.",
                given=describe(class_weights),
                needed=f"[{head.shape[1]}]",
            )
        head = resize_logits(head, masks.shape[-2:])
        if len(head) != len(masks):
            raise ShapeError(
                "segmentation_loss: logits and masks hold different numbers of samples.",
                given=f"logits {describe(head)}, masks {describe(masks)}",
                needed="one mask for each sample that the decoder saw",
                advice="Call the model inside `with mixer.on(...)`, or decode batch.features, not the real features alone.",
            )
        sums: list[Tensor] = []
        for piece, (part, smoothing), numbers in zip(_real_and_synthetic(head, num_real), parts, valid, strict=True):
            pixels = smoothed_cross_entropy(piece, masks[part], smoothing, ignore_index)
            if observe is not None and main and sums:
                observe(pixels.detach().flatten(1).sum(1) / numbers.clamp(min=1))
            if class_weights is not None:
                pixels = pixels * class_weights[masks[part].masked_fill(masks[part] == ignore_index, 0)]
            sums.append(pixels.sum())
        if synthetic_weight == "sum":
            return sums[0] / counts[0].clamp(min=least) + sums[1] / counts[1].clamp(min=least)
        return (sums[0] + synthetic_weight * sums[1]) / (counts[0] + counts[1]).clamp(min=least)

    return head_loss(logits, True) + aux_weight * sum((head_loss(head, False) for head in auxiliary), logits.new_zeros(()))


def _real_and_synthetic(head: Tensor, num_real: int) -> tuple[Tensor, Tensor]:
    """The logits of real and of synthetic samples, by ``split``: the gradient of a slice would fill a tensor of full size."""
    if num_real == len(head):
        return head, head.detach()[:0]
    if num_real == 0:
        return head.detach()[:0], head
    first, second = head.split([num_real, len(head) - num_real])
    return first, second


def lsgan(scores: Sequence[Tensor], *targets: float) -> Tensor:
    """Least-squares GAN loss, summed over the critic's scales: ``sum_s mean((D_s - target)^2)``.

    Args:
        scores: For each scale ``(B, ...)``.
        targets: One for all, or several for as many equal parts of the batch, one after the other: the mean of the parts' losses.

    Source:
        Mao et al. (2017); BicycleGAN's multi-scale critics.
    """
    # Made on the device: to bring them there would wait for all earlier work.
    wanted = torch.full((len(scores[0]),), targets[0], device=scores[0].device)
    for part, target in zip(wanted.chunk(len(targets))[1:], targets[1:], strict=True):
        part.fill_(target)
    return _sum([F.mse_loss(score.float(), wanted.view(-1, *[1] * (score.ndim - 1)).expand_as(score)) for score in scores])


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of ``N(mean, exp(log_variance))`` from ``N(0, 1)``: summed over the latent, mean over the batch.

    BicycleGAN sums over the batch as well, so that its weight grows with the batch size.
    """
    return (mean.square() + log_variance.exp() - log_variance - 1).sum() * (0.5 / len(mean))


def reconstruction(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference in standardised units, averaged over the levels."""
    return _mean([(s.float() - r.float()).abs().mean() for s, r in zip(synthetic, real, strict=True)])


def mode_seeking(first: Sequence[Tensor], second: Sequence[Tensor], z1: Tensor, z2: Tensor) -> Tensor:
    """``|z1 - z2| / |f1 - f2|``, small when different noise gives different features.

    Source:
        Mao et al. (2019), MSGAN, Eq. (4), as a ratio of means over each sample.
    """
    differences = [(a.float() - b.float()).abs() for a, b in zip(first, second, strict=True)]
    difference = _mean([level.mean(tuple(range(1, level.ndim))) for level in differences])
    return ((z1 - z2).abs().mean(1) / (difference + 1e-5)).mean()


def _sum(values: Sequence[Tensor]) -> Tensor:
    """Without a kernel where there is one value."""
    return torch.stack(list(values)).sum(0) if len(values) > 1 else values[0]


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Without a kernel where there is one value."""
    return torch.stack(list(values)).mean(0) if len(values) > 1 else values[0]
