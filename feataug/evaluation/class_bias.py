"""Class bias: one number for each class, added to a trained model's logits. It is fitted on training images and costs no inference time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from feataug.core.checks import check_batch, check_loader, check_masks, check_number, check_void, describe, is_plain
from feataug.core.devices import device_of
from feataug.core.measures import MEASURES
from feataug.core.modes import eval_mode
from feataug.core.rng import generator_for
from feataug.errors import ConfigError, DataError, ShapeError
from feataug.losses import resize_logits, split_outputs
from feataug.metrics import scores

# The changes of one class's number to try, in units of the step, and the steps from coarse to fine.
_REACH = torch.arange(-8.0, 9.0)
_STEPS = (1.0, 0.5, 0.25, 0.125)
# The ascent may start from these shares of the prior's logarithm, besides zero.
_PRIORS = (0.25, 0.5, 1.0)
# The most sweeps over all classes for each step, for measures that improve only slowly.
_SWEEPS = 20


@torch.no_grad()
def fit_class_bias(
    predict: Callable[[Tensor], Any],
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    measure: str | Callable[[dict[str, Any]], float] = "miou",
    ignore_index: int = 255,
    pixels: int = 500_000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Fit a number for each class which, added to the logits, maximises ``measure`` on labelled images (post-hoc logit adjustment).

    A model that was trained on rare classes, or on crops and measured on whole images, predicts some classes too rarely and others too often.
    Class weights address this in training; a class bias takes one pass over some images. Fit it on *training* images, never on those that
    you measure on. ``Inference(model, class_bias=...)`` applies it.

    Args:
        predict: Maps images ``(B, C, H, W)`` to logits ``(B, K, h, w)``, or to any output that ``losses.split_outputs`` understands. Use
            what you predict with later, such as ``Inference(model, window=...)``. A module is put into eval mode; afterwards each of its
            parts has its previous mode.
        loader: Yields labelled ``(images, masks)`` without random colours, at the size of prediction. It is read once.
        num_classes: The number of classes ``K``.
        measure: ``"pixel_acc"``, ``"class_acc"``, ``"miou"``, ``"fw_iou"``, or a function from the result of ``metrics.scores`` to a
            number, where larger is better. A function takes about a hundred times as long.
        ignore_index: The label of void.
        pixels: The number of labelled pixels to use, drawn evenly from all. Memory and time grow with it and with ``K``.
        seed: Seeds the draw of pixels.
        device: The device for images and masks. By default that of a module's weights, or the CPU for a function.

    Returns:
        ``(K,)`` float32 on the CPU, with a mean of 0. A class without a labelled pixel gets the mean of the others.

    Raises:
        ConfigError: a number is out of range, ``measure`` is unknown, or ``ignore_index`` is a class.
        DataError: the loader yields something else, or no labelled pixel; or the model predicts NaN.
        ShapeError, DtypeError, LabelError: images, masks or predictions do not fit.

    Source:
        Menon et al. (2021), logit adjustment: the ascent may start from a share of the prior's logarithm. Ours: coordinate ascent on the
        measure itself, over the sampled pixels, with steps of 1 down to 1/8.

    Example:
        >>> logits = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> masks = logits.argmax(1)
        >>> spoiled = logits + torch.tensor([2.0, 0.0, 0.0])[:, None, None]  # predicts class 0 too often
        >>> bias = fit_class_bias(lambda images: images, [(spoiled, masks)], 3)
        >>> [round(value) for value in (bias - bias[1]).tolist()]
        [-2, 0, 0]
    """
    check_number("fit_class_bias", "num_classes", num_classes, low=2, integer=True)
    check_void("fit_class_bias", num_classes, ignore_index)
    check_number("fit_class_bias", "pixels", pixels, low=1, integer=True)
    check_number("fit_class_bias", "seed", seed, low=0, integer=True)
    if not callable(measure) and measure not in MEASURES:
        raise ConfigError(
            "fit_class_bias: there is no such measure.",
            given=repr(measure),
            needed=f"{', '.join(MEASURES)}, or a function of what metrics.scores returns",
        )
    device = device_of(predict) if device is None else device
    sample = _PixelSample(pixels, seed)
    with eval_mode(predict) if isinstance(predict, nn.Module) else nullcontext():
        for batch in check_loader("fit_class_bias", loader):
            images, masks = check_batch("fit_class_bias", batch)
            masks = check_masks("fit_class_bias", masks.to(device), num_classes, ignore_index)
            images = images.to(device, memory_format=torch.channels_last)
            logits = resize_logits(_logits(predict(images), masks, num_classes), masks.shape[-2:])
            labelled = masks != ignore_index
            sample.add(rearrange(logits, "b k h w -> b h w k")[labelled].float(), masks[labelled])
    found, labels = sample.kept()
    if not len(labels):
        raise DataError(
            "fit_class_bias: there is no labelled pixel.", given="void only, or an empty loader", needed="labelled images"
        )
    if bool(found.isnan().any()):
        count = int(found.isnan().any(1).sum())
        raise DataError(
            "fit_class_bias: the model predicts NaN.",
            given=f"at {count} of {len(labels)} sampled pixels",
            needed="numbers",
            advice="Its weights may have diverged in training, or half precision overflows.",
        )
    return _ascend(found, labels, measure)


class _PixelSample:
    """Draw pixels evenly from a stream: each gets a random key, and the smallest keys are kept."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.rng = size, generator_for(seed, "class bias")
        self.items: tuple[Tensor, Tensor, Tensor] | None = None
        self.bound = 1.0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        keys = torch.rand(len(labels), generator=self.rng, dtype=torch.float64)
        chosen = (keys < self.bound).nonzero().flatten()
        where = chosen.to(labels.device)
        new = keys[chosen], logits[where].cpu(), labels[where].long().cpu()
        kept = new if self.items is None else tuple(torch.cat(pair) for pair in zip(self.items, new, strict=True))
        if len(kept[0]) > self.size:
            order = kept[0].argsort()[: self.size].sort().values
            kept = tuple(item[order] for item in kept)
            self.bound = float(kept[0].max())
        self.items = kept  # type: ignore[assignment]

    def kept(self) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, K)`` and labels ``(N,)``."""
        if self.items is None:
            return torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
        return self.items[1], self.items[2]


def _logits(out: Any, masks: Tensor, num_classes: int) -> Tensor:
    logits = split_outputs(out)[0]
    shaped = is_plain(logits) and logits.is_floating_point() and logits.ndim == 4 and 0 not in logits.shape
    if not shaped or logits.shape[:2] != (len(masks), num_classes):
        needed = f"({len(masks)}, {num_classes}, h, w) float"
        raise ShapeError("fit_class_bias: the model's output is no logits.", given=describe(logits), needed=needed)
    return logits


def _ascend(logits: Tensor, labels: Tensor, measure: str | Callable[[dict[str, Any]], float]) -> Tensor:
    """Maximise the measure by changing one class's number after another."""
    classes = logits.shape[1]
    counts = torch.bincount(labels, minlength=classes)
    known = counts > 0
    bias, best = _start(logits, labels, counts, measure)
    leaders = _TopTwo(logits, bias)
    for step in _STEPS:
        for _ in range(_SWEEPS):
            before = best
            for k in known.nonzero().flatten().tolist():
                tried = bias[k] + step * _REACH
                values = _measure_all(_confusions(logits, labels, leaders, k, tried), measure)
                # Among equals take the smallest change: a class without any influence keeps its number.
                index = int((values - 1e-9 * _REACH.abs()).argmax())
                if float(values[index]) > best + 1e-7:
                    bias[k], best = tried[index], float(values[index])
                    leaders.change(k, float(bias[k]))
            if best <= before + 1e-7:
                break
    bias[~known] = bias[known].mean()
    return bias - bias.mean()


class _TopTwo:
    """The two classes with the largest biased logits at every pixel, updated as the numbers change.

    With many classes, finding them again in every step would take most of the time.

    Args:
        logits: ``(N, K)``.
        bias: ``(K,)``.
    """

    def __init__(self, logits: Tensor, bias: Tensor) -> None:
        self.logits, self.biased = logits, logits + bias
        self.values, self.classes = self.biased.topk(2, dim=1)

    def without(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the largest biased logit of all classes except ``k``, and its class, ``(N,)`` each."""
        first = (self.classes[:, 0] != k).long()[:, None]
        return self.values.gather(1, 1 - first)[:, 0], self.classes.gather(1, 1 - first)[:, 0]

    def change(self, k: int, number: float) -> None:
        """Set the number of class ``k``."""
        new = self.logits[:, k] + number
        self.biased[:, k] = new
        was_top = (self.classes == k).any(1)
        # Where k was among the two, a third class may now be larger.
        rows = was_top.nonzero().flatten()
        self.values[rows], self.classes[rows] = self.biased[rows].topk(2, dim=1)
        # Elsewhere k can only have become one of the two.
        ahead = ~was_top & (new > self.values[:, 0])
        second = ~was_top & (new > self.values[:, 1]) & (new <= self.values[:, 0])
        self.values[ahead, 1], self.classes[ahead, 1] = self.values[ahead, 0], self.classes[ahead, 0]
        self.values[ahead, 0], self.classes[ahead, 0] = new[ahead], k
        self.values[second, 1], self.classes[second, 1] = new[second], k


def _start(logits: Tensor, labels: Tensor, counts: Tensor, measure: Any) -> tuple[Tensor, float]:
    """Choose the best start: zero, or a share of the prior's logarithm."""
    prior = torch.where(counts > 0, (counts.clamp(min=1) / counts.sum()).log(), torch.zeros(()))
    tried = [torch.zeros_like(prior), *(-share * prior for share in _PRIORS)]
    classes = len(counts)
    found = [torch.bincount(labels * classes + (logits + bias).argmax(1), minlength=classes**2).view(classes, classes) for bias in tried]
    values = _measure_all(torch.stack(found), measure)
    return tried[int(values.argmax())].clone(), float(values.max())


def _confusions(logits: Tensor, labels: Tensor, leaders: _TopTwo, k: int, tried: Tensor) -> Tensor:
    """Compute the confusion matrices ``(T, K, K)`` for ``T`` ascending numbers of class ``k`` in one pass over the pixels."""
    classes = logits.shape[1]
    margin, runner_up = leaders.without(k)
    # The first number with which the pixel is predicted as class k; with all smaller numbers it is the runner-up.
    first = torch.searchsorted(tried, margin - logits[:, k])
    size = len(tried) + 1

    def counted(predicted: Tensor | int) -> Tensor:
        index = (first * classes + labels) * classes + predicted
        return torch.bincount(index, minlength=size * classes**2).view(size, classes, classes)

    taken = counted(k).cumsum(0)[:-1]
    left = counted(runner_up).flip(0).cumsum(0).flip(0)[1:]
    return taken + left


def _measure_all(confusions: Tensor, measure: str | Callable[[dict[str, Any]], float]) -> Tensor:
    """Compute the measure of each confusion matrix ``(T, K, K)``; named measures for all at once, as ``metrics.scores`` defines them."""
    if callable(measure):
        return torch.tensor([float(measure(scores(one))) for one in confusions], dtype=torch.float64)
    counts = confusions.double()
    hits, true, predicted = counts.diagonal(dim1=1, dim2=2), counts.sum(2), counts.sum(1)
    iou = hits / (true + predicted - hits)
    total = true.sum(1)
    values = {
        "pixel_acc": lambda: hits.sum(1) / total,
        "class_acc": lambda: (hits / true).nanmean(1),
        "miou": lambda: iou.nanmean(1),
        "fw_iou": lambda: (true * iou).nansum(1) / total,
    }
    return 100 * values[measure]()
