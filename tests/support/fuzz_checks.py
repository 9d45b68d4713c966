"""A small cut model, and slow oracles for calls of the public API: what ``fuzz_targets`` checks results with."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import feataug
from feataug.data import seeded_loader
from tests.support.spoiling import CHANNELS, CLASSES, SIZE, masks


class Net(nn.Module):
    """Stride 4, logits at the images' size."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, CHANNELS, 3, 2, 1))
        self.head = nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:], mode="bilinear")


torch.manual_seed(0)
NET = Net().eval()
CUT = feataug.split(NET, at="encoder", example=torch.zeros(1, 3, *SIZE))
GENERATORS = {
    "flow": feataug.FeatureGenerator(CLASSES, CUT.spec, width=8, depth=1).eval(),
    "bicyclegan": feataug.FeatureGenerator(CLASSES, CUT.spec, "bicyclegan", mask_widths=(4,), width=4, depth=0, latent_dim=3).eval(),
}
GENERATOR = GENERATORS["flow"]


@dataclass
class Target:
    """A call, good arguments for it, the oracle, and words of which an error about an argument holds one."""

    call: Callable[..., Any]
    good: Callable[[random.Random], dict[str, Any]]
    oracle: Callable[..., None]
    words: dict[str, tuple[str, ...]]


def ours(found: Any, expected: Any, tolerance: float = 1e-3) -> None:
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance, equal_nan=True, check_dtype=False, check_stride=False
    )


def valid_masks(found: Tensor, size: tuple[int, int] | None = None) -> None:
    assert found.dtype == torch.int64
    assert found.ndim == 3
    assert size is None or tuple(found.shape[1:]) == size


def rng_of(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_generated(found: Any, preset: str, masks: Tensor, z: Tensor | None, samples: int) -> None:
    rows, columns = masks.shape[-2:]
    assert [tuple(x.shape) for x in found] == [(samples * len(masks), CHANNELS, -(-rows // 4), -(-columns // 4))]
    if z is not None and torch.isfinite(z).all() and z.device.type == "cpu":
        alone = GENERATORS[preset](masks[:1].long().clone(), z[:1].float().clone())
        ours(found[0][:1].float(), alone[0].float(), 2e-2)


def mixed(features: Any, masks: Any, ratio: Any, label_smoothing: Any) -> Any:
    mixer = feataug.FeatureMixer(GENERATOR, feataug.DatasetMasks(POOL), ratio, label_smoothing).train()
    return mixer(features, masks)


POOL = masks(random.Random(0), 4)


def check_mixed(found: Any, features: Any, masks: Tensor, ratio: float, label_smoothing: float) -> None:
    level = features[0] if isinstance(features, (tuple, list)) else features
    ours(found.features[0][: len(level)], level)
    assert torch.equal(found.masks[: len(masks)], masks.long())
    assert found.num_real == len(masks)
    exact = len(masks) * ratio / (1 - ratio)
    assert math.floor(exact) <= found.num_synthetic <= math.ceil(exact)
    assert all(any(torch.equal(mask, other) for other in POOL) for mask in found.masks[len(masks) :])


def slow_loss(logits: Tensor, masks: Tensor, num_real: int | None, label_smoothing: float) -> float:
    """Pixel by pixel, in double precision."""
    logits = F.interpolate(logits.double(), masks.shape[-2:], mode="bilinear", align_corners=False)
    total, count = 0.0, 0
    for sample in range(len(masks)):
        smooth = label_smoothing if num_real is not None and sample >= num_real else 0.0
        for row in range(masks.shape[1]):
            for column in range(masks.shape[2]):
                label = int(masks[sample, row, column])
                if label != 255:
                    p = logits[sample, :, row, column].log_softmax(0)
                    q = torch.full_like(p, smooth / len(p))
                    q[label] += 1 - smooth
                    total, count = total - float((p * q).sum()), count + 1
    return total / max(count, 1)


def check_loss(found: Tensor, out: Any, masks: Tensor, num_real: int | None, label_smoothing: float) -> None:
    logits = out[0] if isinstance(out, tuple) else out
    if isinstance(out, tuple) and len(out) > 1:
        return
    ours(float(found.detach()), slow_loss(logits.detach(), masks, num_real, label_smoothing), 2e-2)


def metric(predictions: Any, masks: Any, num_classes: Any) -> Any:
    metrics = feataug.SegmentationMetrics(num_classes)
    metrics.update(predictions, masks)
    return metrics.compute()


def check_metric(found: Any, predictions: Any, masks: Tensor, num_classes: int) -> None:
    if predictions.ndim == 4:
        if not torch.isfinite(predictions).all():
            return
        predictions = F.interpolate(predictions, masks.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
    valid = masks != 255
    hits = float((predictions == masks)[valid].double().mean()) if bool(valid.any()) else math.nan
    ours(found["pixel_acc"], 100 * hits)


def check_config(found: Any, data: dict[str, Any]) -> None:
    for name, value in data.items():
        # The objective chooses what is None.
        chosen = name in ("lr", "beta1") and value is None
        assert chosen or getattr(found, name) == value or (name == "trackers" and tuple(value) == found.trackers), name
    for name in ("lr", "num_steps", "num_images"):
        assert math.isfinite(getattr(found, name, 0))
        assert getattr(found, name, 1) >= 0


def drawn(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda n, **arguments: make(**arguments).draw(n, rng_of())


def check_drawn(found: Tensor, n: int, **_: Any) -> None:
    valid_masks(found)
    assert len(found) == n


def check_from(found: Tensor, n: int, dataset: Any, **_: Any) -> None:
    check_drawn(found, n)
    stored = [torch.as_tensor(mask).long() for mask in dataset]
    assert all(any(torch.equal(mask, other) for other in stored) for mask in found)


def decoded(features: Any, image_size: Any) -> Any:
    with torch.no_grad():
        return CUT.decode(features, image_size)


def check_decoded(found: Tensor, features: Any, image_size: Any) -> None:
    level = features[0] if isinstance(features, (tuple, list)) else features
    expected = F.interpolate(NET.head(level.detach().clone()), tuple(image_size), mode="bilinear")
    ours(found, expected.detach())


def encoded(images: Any) -> Any:
    with torch.no_grad():
        return CUT.encode(images)


def check_encoded(found: Any, images: Tensor) -> None:
    ours(found[0], NET.encoder(images.detach().clone()).detach())


def check_split(found: Any, at: Any) -> None:
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        ours(found.decode(found.encode(images), SIZE), found.model(images))


def loaded(dataset: Any, batch_size: Any, seed: Any, on_bad_sample: Any) -> Any:
    return list(seeded_loader(dataset, batch_size, seed=seed, on_bad_sample=on_bad_sample))


def check_loaded(found: Any, dataset: Any, batch_size: int, seed: int, on_bad_sample: str) -> None:
    # Nested lists become lists of tensors: the trainers say what they think of them.
    assert all(len(images) == min(batch_size, len(dataset)) for images, _ in found if isinstance(images, Tensor))


def deficits(images: Any, masks: Any, num_classes: Any, power: Any, limit: Any) -> Any:
    return feataug.deficit_weights(NET, [(images, masks)], num_classes, power, limit=limit)


def check_deficits(found: Tensor, num_classes: int, **_: Any) -> None:
    assert found.shape == (num_classes,)
    assert bool(torch.isfinite(found).all())


def labelled(images: Any, threshold: Any) -> Any:
    return feataug.pseudo_masks(NET, [images], threshold=threshold)


def check_labelled(found: Any, images: Any, threshold: float) -> None:
    images = images[0] if isinstance(images, tuple) else images
    assert [tuple(mask.shape) for mask in found] == [tuple(images.shape[-2:])] * len(images)


def filtered(features: Any, masks: Any, factor: Any, class_loss: Any) -> Any:
    return feataug.PixelFilter(CUT, class_loss, factor=factor)(features, masks)


def check_filtered(found: Tensor, masks: Tensor, **_: Any) -> None:
    valid_masks(found)
    assert bool(((found == masks) | (found == 255)).all())


def composed(dataset: Any, classes: Any, objects: Any, min_pixels: Any, max_share: Any, shift: Any) -> Any:
    source = feataug.LayoutComposer(
        dataset, dataset, classes, objects=objects, min_pixels=min_pixels, max_share=max_share, shift=shift
    )
    return source.draw(2, rng_of())


def standard(features: Any) -> Any:
    return GENERATOR.standardize(features)


def inferred(images: Any, **settings: Any) -> Any:
    return feataug.Inference(NET, **settings)(images)


def check_inferred(found: Tensor, images: Tensor, **settings: Any) -> None:
    if bool(torch.isfinite(images).all()):
        ours(found.exp().sum(1), torch.ones(len(images), *images.shape[-2:]))
        ours(found[-1:], feataug.Inference(NET, **settings | {"batch_size": 1})(images[-1:].detach().clone()), 1e-2)


MASK = ("mask",)
FEATURES = ("feature", "level")


def _level(features: Any) -> Tensor:
    level: Tensor = features[0] if isinstance(features, (tuple, list)) else features
    return level
