"""The recognition score: does a decoder trained on real features recognise synthetic ones?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_batch, check_features, check_loader, check_number
from feataug.core.devices import device_of
from feataug.core.label_checks import refuse_one_class
from feataug.core.latents import draw_latents, latents_on
from feataug.core.modes import eval_mode
from feataug.core.windows import tiles
from feataug.inference.context_check import CropSize, resolve_crop_size
from feataug.losses import reconstruction, split_outputs
from feataug.metrics import SegmentationMetrics


@torch.no_grad()
def recognition(
    cut: Any,
    generator: Any,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    ignore_index: int = 255,
    seed: int = 0,
    device: torch.device | str | None = None,
    window: CropSize = "noted",
) -> dict[str, Any]:
    """Measure how well the frozen decoder recognises synthetic features, and how much these vary.

    Images larger than the model's training crops are cut into windows of the crops' size. The decoder then sees real and synthetic
    features only in a context that it knows.

    Args:
        cut: A cut of the trained model.
        generator: A ``FeatureGenerator`` for this cut.
        loader: Yields ``(images, masks)``: the masks to generate from, and the images whose features are compared.
        ignore_index: The label of void.
        seed: Seeds the noise.
        device: The device for images and masks; the model's by default.
        window: Rows and columns of the windows. ``"noted"`` is the size that ``Finetuner`` noted on ``cut.model``; ``None`` uses whole
            images. Windows lie side by side, and the generator gets the mask of each. The last window of a row or column is moved
            inwards; its overlap with the previous one counts once in the measures and twice in ``diversity``.

    Returns:
        ``real`` and ``synthetic``: the four measures (``scores``) of the decoder on features of the images and on features
        generated from the masks. ``ratio``: synthetic over real mIoU. ``diversity``: ``E|G(y, z1) - G(y, z2)| / E|f - G(y, z1)|`` in
        standardised units; 1 if samples differ as much from each other as from real features, 0 if ``z`` is ignored, NaN if the
        loader is empty.

    Raises:
        ConfigError: a number is out of range, or ``ignore_index`` is a class.
        DataError: the masks hold only one of several classes and void.
        ShapeError, DtypeError, LabelError: a batch is no pair of images and masks, or ``window`` is no size.

    Source:
        Sec. 4.4, the paper's PSPNet-score. Ours: the diversity ratio, and the windows.
    """
    check_number("recognition", "seed", seed, low=0, integer=True)
    tile = resolve_crop_size("recognition", cut.model, window, "window")
    device = device_of(cut.model) if device is None else device
    real, synthetic = (SegmentationMetrics(generator.num_classes, ignore_index).to(device) for _ in range(2))
    rng = torch.Generator().manual_seed(seed)
    within = across = 0.0
    with eval_mode(cut.model), eval_mode(generator):
        for batch in check_loader("recognition", loader):
            images, masks = check_batch("recognition", batch, cut.model)
            images, masks = images.to(device, memory_format=torch.channels_last), masks.to(device)
            for part, given, counted in tiles(images, masks, tile, ignore_index):
                size = (int(given.shape[-2]), int(given.shape[-1]))
                features = check_features("recognition", cut.encode(part), generator.spec, size)
                z = latents_on(device, draw_latents(generator, given, rng, samples=2))
                first, second = zip(*(x.chunk(2) for x in generator(given, z, samples=2)), strict=True)
                real.update(split_outputs(cut.decode(features, size))[0], counted)
                synthetic.update(split_outputs(cut.decode(first, size))[0], counted)
                # The void that hides the overlap of windows is not void of the masks.
                real.void -= (counted == ignore_index).sum() - (given == ignore_index).sum()
                a, b, f = (generator.standardize(x) for x in (first, second, features))
                within += float(reconstruction(a, b)) * len(given)
                across += float(reconstruction(a, f)) * len(given)
    results = {"real": real.compute(), "synthetic": synthetic.compute()}
    refuse_one_class("recognition", *real.labels, ignore_index)
    return results | {
        "ratio": results["synthetic"]["miou"] / max(results["real"]["miou"], 1e-9),
        "diversity": within / across if across else math.nan,
    }
