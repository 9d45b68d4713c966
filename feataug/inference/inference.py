"""Prediction of whole images at several scales, with mirror images, sliding windows and a class bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.core.checks import check_images, check_number, check_sequence, check_size, describe, is_plain
from feataug.core.modes import eval_mode
from feataug.core.windows import window_starts
from feataug.errors import ConfigError, FeatAugError, ShapeError
from feataug.io.inference_file import FILE, read_settings, refuse, write_settings
from feataug.losses import resize_logits, split_outputs


class Inference(nn.Module):
    """Average a model's prediction over scales, mirror images and windows, for ``evaluate``, ``pseudo_masks`` or on its own.

    The result is the logarithm of the mean probabilities. It can be used like a model's logits: its softmax is the mean, its argmax the
    most probable class. ``.exp()`` gives the probabilities.

    Args:
        model: Maps images ``(B, C, H, W)`` to logits ``(B, K, h, w)`` or to any output that ``losses.split_outputs`` understands. A
            module is put into eval mode while it predicts; afterwards each of its parts has its previous mode.
        scales: Factors of the images' rows and columns. PSPNet's are ``(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)``.
        flip: Average with the prediction of the mirror image.
        window: Rows and columns of a sliding window, usually the size of the training crops. The last window of a row or column is
            moved inwards. Smaller images are padded on both sides with zero, the mean colour of normalised images. ``None`` predicts
            whole images.
        stride: Rows and columns from one window to the next; by default two thirds of the window, rounded up.
        divisor: Pads whole images to multiples of this number, for models that accept no other sizes. Not for use with a window.
        batch_size: The number of crops, or scaled images, in one call of the model; by default the number of images.
        class_bias: ``(K,)``: a number for each class, added to the logarithms of the mean probabilities; see ``fit_class_bias``.

    Raises:
        ConfigError: a setting is out of range or contradicts another, or ``class_bias`` is not finite.
        ShapeError: ``window`` or ``stride`` is no size; or, in ``forward``, the model has other classes than ``class_bias``.

    Source:
        Zhao et al. (2017), by their code (hszhao/semseg, tool/test.py): six scales, mirror images, windows with a stride of two thirds,
        mean of the softmax. The paper's Tables 2 and 5 have a block of multi-scale prediction, but do not name the scales. Ours: the
        whole image is mirrored before it is cut into windows, so that the prediction of the mirror image is the mirrored prediction;
        images are smoothed before downscaling, as in training.

    Example:
        >>> model = nn.Conv2d(3, 4, 1)
        >>> predict = Inference(model, scales=(0.5, 1.0), flip=True, window=(32, 32))
        >>> predict(torch.zeros(2, 3, 48, 80)).shape
        torch.Size([2, 4, 48, 80])
    """

    class_bias: Tensor | None

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        divisor: int = 1,
        batch_size: int | None = None,
        class_bias: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise ConfigError("Inference: model is not callable.", given=describe(model), needed="images to logits")
        check_sequence("Inference", "scales", scales, "one or more factors, such as (0.75, 1.0, 1.25)")
        if not len(scales):
            raise ConfigError("Inference: scales are empty.", given=repr(scales), needed="one or more factors, such as (1.0,)")
        for scale in scales:
            # The upper bound catches scales in percent.
            check_number("Inference", "one of scales", scale, low=0, high=16, open_low=True)
        if not isinstance(flip, bool):
            raise ConfigError("Inference: flip is not a boolean.", given=describe(flip), needed="True or False")
        check_number("Inference", "divisor", divisor, low=1, integer=True)
        if batch_size is not None:
            check_number("Inference", "batch_size", batch_size, low=1, integer=True)
        self.model, self.scales, self.flip = model, tuple(scales), flip
        self.window, self.stride = _check_window(window, stride, divisor)
        self.divisor, self.batch_size = divisor, batch_size
        self.register_buffer("class_bias", _check_bias(class_bias))

    def settings(self) -> dict[str, Any]:
        """Return all arguments that are not the default, as plain values for JSON."""
        plain: dict[str, Any] = {
            "scales": list(self.scales) if self.scales != (1.0,) else None,
            "flip": self.flip or None,
            "window": list(self.window) if self.window else None,
            "stride": list(self.stride) if self.stride and self.window and self.stride != _default_stride(self.window) else None,
            "divisor": self.divisor if self.divisor != 1 else None,
            "batch_size": self.batch_size,
            "class_bias": self.class_bias.tolist() if self.class_bias is not None else None,
        }
        return {name: value for name, value in plain.items() if value is not None}

    def save(self, folder: str | Path) -> Path:
        """Write the settings to ``inference.json`` beside a saved model. A feataug model card in the folder then shows how to predict.

        Args:
            folder: The model's folder, or any other. A later training or ``save_pretrained`` into it removes the file, since the
                settings were fitted to the old weights.

        Returns:
            The path of the file.

        Raises:
            CheckpointError: the file cannot be written.
        """
        path = write_settings(folder, self.settings())
        if callable(renew := getattr(self.model, "renew_card", None)):
            renew(folder)
        return path

    @classmethod
    def load(cls, model: Callable[[Tensor], Any], folder: str | Path, *, num_classes: int | None = None) -> Self:
        """Make an ``Inference`` of ``model`` with the settings of ``inference.json``.

        Args:
            model: The model that the settings were saved for.
            folder: The folder of the file, or a hub id such as ``"user/name"``.
            num_classes: The number of classes, to check the class bias. Without it the first prediction checks.

        Raises:
            CheckpointError: the file is missing, damaged, for other classes, or holds invalid settings.
        """
        settings = read_settings(folder, num_classes)
        try:
            return cls(model, **settings)
        except FeatAugError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            refuse(Path(folder) / FILE, " ".join(lines[:2]), "settings that go together")

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Predict a batch.

        Args:
            images: ``(B, C, H, W)`` float. The model gets crops with the same dtype, device and memory format.

        Returns:
            ``(B, K, H, W)`` logarithms of mean probabilities, without gradient: float32, or float64 if the logits are.

        Raises:
            DtypeError, ShapeError: these are no images, or the model returns no logits of two or more classes.
        """
        check_images("Inference", images, self.model)
        rows, columns = images.shape[-2:]
        total: Tensor | None = None
        with eval_mode(self.model) if isinstance(self.model, nn.Module) else nullcontext():
            for scale in self.scales:
                scaled = _resized(images, (max(1, round(scale * rows)), max(1, round(scale * columns))))
                found = self._slide(scaled)
                if self.flip:
                    # Added before anything else: the sum of the two is then the same to the last bit in either order.
                    found = found.add_(self._slide(scaled.flip(-1)).flip(-1))
                found = resize_logits(found, (rows, columns))
                total = found if total is None else total.add_(found)
        assert total is not None
        mean = total.div_(len(self.scales) * (1 + self.flip))
        # The logarithm must be finite: resizing would otherwise multiply zero by infinity.
        found = mean.clamp_(min=torch.finfo(mean.dtype).tiny).log_().contiguous()
        return found if self.class_bias is None else self._add_bias(found, self.class_bias)

    def _add_bias(self, found: Tensor, bias: Tensor) -> Tensor:
        """Add a number for each class, and normalise to logarithms of probabilities again."""
        if found.shape[1] != len(bias):
            raise ShapeError(
                "Inference: class_bias does not fit the model's classes.",
                given=f"{len(bias)} numbers for logits of {found.shape[1]} classes",
                needed="a number for each class, as fit_class_bias gives them for this model",
            )
        return (found + bias.to(found)[:, None, None]).log_softmax(1)

    def _slide(self, images: Tensor) -> Tensor:
        """Average the probabilities over all windows that contain a pixel, ``(B, K, H, W)``."""
        size = rows, columns = images.shape[-2], images.shape[-1]
        height, width = self.window or (-(-side // self.divisor) * self.divisor for side in size)
        missing = max(height - rows, 0), max(width - columns, 0)
        above, before = missing[0] // 2, missing[1] // 2
        images = F.pad(images, (before, missing[1] - before, above, missing[0] - above))
        stride = self.stride or (height, width)
        tops = window_starts(images.shape[-2], height, stride[0])
        lefts = window_starts(images.shape[-1], width, stride[1])
        crops = [(n, top, left) for top in tops for left in lefts for n in range(len(images))]
        step = self.batch_size or len(images)
        total: Tensor | None = None
        for first in range(0, len(crops), step):
            part = crops[first : first + step]
            batch = torch.cat([images[n : n + 1, :, top : top + height, left : left + width] for n, top, left in part])
            found = self._probabilities(batch)
            if total is None:
                total = found.new_zeros(len(images), found.shape[1], *images.shape[-2:])
            for (n, top, left), one in zip(part, found, strict=True):
                total[n, :, top : top + height, left : left + width] += one
        assert total is not None
        total /= _window_counts(tops, height, total)[:, None] * _window_counts(lefts, width, total)
        return total[..., above : above + rows, before : before + columns]

    def _probabilities(self, images: Tensor) -> Tensor:
        logits = split_outputs(self.model(images))[0]
        shaped = is_plain(logits) and logits.is_floating_point() and logits.ndim == 4 and 0 not in logits.shape
        if not shaped or len(logits) != len(images):
            needed = f"({len(images)}, K, h, w) float"
            raise ShapeError("Inference: the model's output is no logits.", given=describe(logits), needed=needed)
        if logits.shape[1] == 1:
            raise ShapeError(
                "Inference: the model's output has a single class, whose probability is always 1.",
                given=describe(logits),
                needed="logits of two classes or more, for a softmax",
                advice="If the logits are meant for a sigmoid, prepend zeros as the logits of the background:\n"
                    "Inference(nn.Sequential(model, nn.ZeroPad3d((0, 0, 0, 0, 1, 0))))",
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return resize_logits(logits, images.shape[-2:]).softmax(1)


def _check_window(window: Any, stride: Any, divisor: int) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return window and stride as two sizes, or ``None`` for both."""
    if window is None:
        if stride is not None:
            raise ConfigError(
                "Inference: stride without a window.", given=f"stride={stride!r}", needed="window, or neither of them"
            )
        return None, None
    height, width = check_size("Inference", "window", window)
    if divisor != 1:
        raise ConfigError(
            "Inference: divisor and window contradict each other.",
            given=f"window={(height, width)}, divisor={divisor}",
            needed="one of them: with a window, the model always gets the window's size",
        )
    if stride is None:
        return (height, width), _default_stride((height, width))
    down, right = check_size("Inference", "stride", stride)
    if down > height or right > width:
        raise ConfigError(
            "Inference: stride leaves gaps between the windows.",
            given=f"stride={(down, right)}, window={(height, width)}",
            needed="rows and columns of at most the window's",
        )
    return (height, width), (down, right)


def _default_stride(window: tuple[int, int]) -> tuple[int, int]:
    return -(-2 * window[0] // 3), -(-2 * window[1] // 3)


def _check_bias(given: Any) -> Tensor | None:
    if given is None:
        return None
    try:
        bias = torch.as_tensor(given, dtype=torch.float32).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        bias = torch.zeros(0)
    if bias.ndim != 1 or len(bias) < 2 or not bool(bias.isfinite().all()):
        raise ConfigError(
            "Inference: class_bias does not have a number for each class.", given=describe(given), needed="(K,) finite numbers"
        )
    return bias


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    # In float32: torch cannot smooth half precision on a CPU.
    full = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.interpolate(full, size, mode="bilinear", align_corners=False, antialias=True).to(images.dtype)


def _window_counts(starts: Sequence[int], window: int, like: Tensor) -> Tensor:
    """Count the windows that contain each position along a side, in the dtype and on the device of ``like``."""
    count = like.new_zeros(starts[-1] + window)
    for start in starts:
        count[start : start + window] += 1
    return count
