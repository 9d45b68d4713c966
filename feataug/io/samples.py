"""A few samples of a run, stored in its folder for ``feataug report``: images, masks, features, predictions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from feataug.core.checks import check_batch, check_loader
from feataug.core.devices import device_of
from feataug.core.distributed import is_main
from feataug.core.latents import draw_latents, latents_on
from feataug.core.modes import eval_mode
from feataug.errors import DataError, FeatAugWarning
from feataug.io.atomic import write_tensors
from feataug.losses import resize_logits, split_outputs

SAMPLES = "samples.safetensors"
_FORMAT = 1
# The longest side of a stored picture; larger ones are scaled down.
_LONGEST = 320
_BYTES = 64 * 2**20
_VOID = -1


@dataclass(frozen=True)
class Samples:
    """Pictures of some validation images.

    Attributes:
        images: uint8 ``(n, H, W, 3)``.
        masks: int16 ``(n, H, W)``; -1 is void.
        predictions: By name of the model, int16 ``(n, H, W)``.
        colors: By kind of features (``real``, ``synthetic, z1``), their three principal directions as uint8 ``(n, h, w, 3)``.
        channels: By kind of features, some channels as uint8 ``(n, k, h, w)``, with one scale for each channel.
        about: ``classes``, ``palette``, ``level``, ``shown`` (indices of the channels).
    """

    images: Tensor
    masks: Tensor
    predictions: dict[str, Tensor] = field(default_factory=dict)
    colors: dict[str, Tensor] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def keep_samples(
    path: str | Path,
    loader: Iterable[tuple[Tensor, Tensor]],
    models: Mapping[str, Any] | None = None,
    *,
    cut: Any = None,
    generator: Any = None,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] | None = None,
    units: tuple[Sequence[float], Sequence[float]] | None = None,
    ignore_index: int = 255,
    count: int = 4,
) -> Samples | None:
    """Store the pictures for the page of a run, a few hundred kilobytes. The page then needs neither data nor model.

    Args:
        path: The file, ``samples.safetensors`` in the run's folder. Only the main process writes it.
        loader: Yields ``(images, masks)``. Samples are spread evenly over its data set if it has one; else they are its first.
        models: Models by name, images to logits.
        cut, generator: If given, real and synthetic features and the decoder's predictions from both are stored.
        classes: The class names.
        palette: One RGB colour for each class.
        units: Mean and standard deviation by which the images were normalised. Without them the colours are stretched.
        ignore_index: The label of void.
        count: The number of samples.

    Returns:
        The samples. ``None`` after an error, which only warns so that it does not end a run of hours; ``None`` in other processes.

    Warns:
        FeatAugWarning: the pictures could not be made or written.
    """
    if not is_main():
        return None
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            images, masks = check_batch("keep_samples", _spread_samples(loader, count))
            samples = _make_samples(images, masks, dict(models or {}), cut, generator, units)
            samples.masks[_downscale_labels(masks) == ignore_index] = _VOID
        samples.about.update(classes=[str(name) for name in classes], palette=[list(c) for c in palette] if palette else None)
        _write(Path(path), samples)
    except Exception as error:
        warnings.warn(f"keep_samples: no pictures were kept: {type(error).__name__}: {error}", FeatAugWarning, stacklevel=2)
        return None
    return samples


def read_samples(path: str | Path) -> Samples:
    """Read the file of ``keep_samples``.

    Raises:
        DataError: the file is damaged, too large, or not written by feataug.
    """
    try:
        if Path(path).stat().st_size > _BYTES:
            raise ValueError(f"more than {_BYTES // 2**20} MiB")
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["feataug"])
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise ValueError("another format")
        parts = {kind: _tensors_of(tensors, kind) for kind in _KINDS}
        samples = Samples(tensors["images"], tensors["masks"], about=about, **parts)
        _check(samples)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            "feataug: pictures of a run cannot be read.",
            given=f"{path} ({type(error).__name__}: {error})",
            needed=f"the {SAMPLES} that a command wrote",
            advice="Delete it and run that command again.",
        ) from error
    return samples


_KINDS = ("predictions", "colors", "channels")


def _tensors_of(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}


def _check(samples: Samples) -> None:
    n, height, width = samples.masks.shape
    rules = [(samples.images, torch.uint8, (n, height, width, 3)), (samples.masks, torch.int16, (n, height, width))]
    rules += [(value, torch.int16, (n, height, width)) for value in samples.predictions.values()]
    rules += [(value, torch.uint8, (n, *value.shape[1:3], 3)) for value in samples.colors.values()]
    rules += [(value, torch.uint8, (n, *value.shape[1:4])) for value in samples.channels.values()]
    for value, dtype, shape in rules:
        if value.dtype != dtype or tuple(value.shape) != shape or not value.numel() or max(shape) > 4 * _LONGEST:
            raise ValueError(f"{list(value.shape)} {value.dtype} where {list(shape)} {dtype} was expected")
    if any(value.ndim != 4 for value in samples.channels.values()):
        raise ValueError("the channels are not maps")


def _write(path: Path, samples: Samples) -> None:
    tensors = {"images": samples.images, "masks": samples.masks}
    for kind in _KINDS:
        tensors |= {f"{kind}/{name}": value for name, value in getattr(samples, kind).items()}
    tensors = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    write_tensors(path, tensors, {"feataug": json.dumps({"format": _FORMAT} | samples.about)})


def _make_samples(images: Tensor, masks: Tensor, models: dict[str, Any], cut: Any, generator: Any, units: Any) -> Samples:
    device = device_of(next((m for m in (cut.model if cut else None, *models.values()) if isinstance(m, nn.Module)), None))
    device_images, device_masks = images.to(device), masks.to(device)
    predictions: dict[str, Tensor] = {}
    colors: dict[str, Tensor] = {}
    channels: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    if cut is not None and generator is not None:
        with eval_mode(cut.model), eval_mode(generator):
            real = cut.encode(device_images)
            z = latents_on(device_masks.device, draw_latents(generator, device_masks, torch.Generator().manual_seed(0), samples=2))
            made = generator(device_masks, z, samples=2)
            first = tuple(level.chunk(2)[0] for level in made)
            predictions["real features"] = _labels(cut.decode(real, masks.shape[-2:]), masks)
            predictions["synthetic features"] = _labels(cut.decode(first, masks.shape[-2:]), masks)
        # Show the first level that is a map: tokens are no picture.
        number = next((i for i, level in enumerate(real) if min(level.shape[-2:]) > 1), 0)
        names = ("real", "synthetic, z1", "synthetic, z2")
        step = _factor(*real[number].shape[-2:])
        kinds = {
            name: value[..., ::step, ::step] for name, value in zip(names, (real[number], *made[number].chunk(2)), strict=True)
        }
        colors = {name: _bytes(value) for name, value in zip(kinds, feature_colors(list(kinds.values())), strict=True)}
        shown, channels = _strongest_channels(kinds)
        about = {"level": generator.spec.layers[number], "shown": shown}
    for name, model in models.items():
        with eval_mode(model) if isinstance(model, nn.Module) else nullcontext():
            predictions[name] = _labels(model(device_images), masks)
    return Samples(_pictures(images, units), _downscale_labels(masks), predictions, colors, channels, about)


def _spread_samples(loader: Any, count: int) -> tuple[Tensor, Tensor]:
    """Return a batch of samples spread evenly over the data set, or the first samples."""
    data: Any = getattr(loader, "dataset", None)
    if data is not None and not hasattr(data, "__len__"):
        data = getattr(data, "dataset", None)  # seeded_loader wraps the data set
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        count = min(count, len(data))
        items = [data[round(i * (len(data) - 1) / max(count - 1, 1))] for i in range(count)]
        pairs = all(isinstance(x, (tuple, list)) and len(x) == 2 and all(isinstance(part, Tensor) for part in x) for x in items)
        if pairs and len({(x.shape, y.shape) for x, y in items}) == 1:
            return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])
    images, masks = next(check_loader("samples", loader))
    return images[:count], masks[:count]


def _labels(out: Any, masks: Tensor) -> Tensor:
    return _downscale_labels(resize_logits(split_outputs(out)[0], masks.shape[-2:]).argmax(1).cpu())


def _factor(height: int, width: int) -> int:
    return -(-max(height, width) // _LONGEST)


def _downscale_labels(labels: Tensor) -> Tensor:
    step = _factor(*labels.shape[-2:])
    return labels[:, step // 2 :: step, step // 2 :: step].to(torch.int16)


def _pictures(images: Tensor, units: Any) -> Tensor:
    shown = images.detach().float().cpu()[:, :3]
    if shown.shape[1] < 3:
        shown = shown[:, :1].expand(-1, 3, -1, -1)
    if images.dtype == torch.uint8:
        shown = shown / 255
    elif units is not None:
        mean, std = (torch.tensor(list(x)).view(3, 1, 1) for x in units)
        shown = shown * std + mean
    else:
        flat = shown.flatten(1)[:, :: max(shown[0].numel() // 100_000, 1)]
        low, high = (flat.quantile(q, dim=1).view(-1, 1, 1, 1) for q in (0.01, 0.99))
        shown = (shown - low) / (high - low).clamp(min=1e-6)
    # The size of _downscale_labels.
    step = _factor(*shown.shape[-2:])
    size = [len(range(step // 2, side, step)) for side in shown.shape[-2:]]
    return _bytes(rearrange(F.interpolate(shown.clamp(0, 1), size, mode="area"), "b c h w -> b h w c"))


def _bytes(values: Tensor) -> Tensor:
    return (values.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def _strongest_channels(kinds: Mapping[str, Tensor], count: int = 4) -> tuple[list[int], dict[str, Tensor]]:
    """Return the channels that vary most in real features, on the scale of the real features."""
    real = kinds["real"].detach().float().cpu()
    values = rearrange(real, "b c h w -> c (b h w)")
    numbers = values.std(1).nan_to_num().topk(min(count, real.shape[1])).indices
    low, high = (values[numbers].quantile(q, dim=1).view(-1, 1, 1) for q in (0.02, 0.98))
    shown = {
        name: _bytes((value.detach().float().cpu()[:, numbers] - low) / (high - low).clamp(min=1e-6))
        for name, value in kinds.items()
    }
    return [int(number) for number in numbers], shown


def feature_colors(features: Sequence[Tensor]) -> list[Tensor]:
    """Turn feature maps ``(B, C, h, w)`` of one level into comparable colours ``(B, h, w, 3)`` in 0 .. 1.

    Red, green and blue are the three principal directions of the first maps.
    """
    maps = [rearrange(level.detach().float().cpu(), "b c h w -> b h w c") for level in features]
    pixels = rearrange(maps[0], "b h w c -> (b h w) c")
    pixels = pixels[:: max(len(pixels) // 20_000, 1)]  # enough for three directions
    center = pixels.mean(0)
    directions = torch.linalg.svd(pixels - center, full_matrices=False).Vh[:3]
    directions = F.pad(directions, (0, 0, 0, 3 - len(directions)))  # for features with fewer than three channels
    shown = (pixels - center) @ directions.T
    low, high = shown.quantile(0.02, dim=0), shown.quantile(0.98, dim=0)
    return [(((level - center) @ directions.T - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) for level in maps]
