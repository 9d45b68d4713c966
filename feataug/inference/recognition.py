"""The recognition score: does a decoder trained on real features recognise synthetic ones?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import (
    check_batch,
    check_features,
    check_loader,
    check_number,
)
from feataug.core.devices import device_of
from feataug.core.label_checks import refuse_one_class
from feataug.core.modes import eval_mode
from feataug.core.windows import tiles
from feataug.inference.context_check import CropSize, size_of
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
    """How well the frozen decoder recognises synthetic features, and how much they vary.

    Images that are larger than the crops that the model was trained on are looked at in windows of the crops' size, so that neither the
    real features nor the synthetic ones are judged in a context that the model does not know.

    Args:
        cut: A cut of the trained model.
        generator: A ``FeatureGenerator`` for it.
        loader: Yields ``(images, masks)``: the masks to generate from, and the images whose features to compare with.
        ignore_index: Label of void.
        seed: Of the noise.
        device: Where images and masks are sent; where the model is by default.
        window: Rows and columns of these windows: ``"noted"`` for the size that ``Finetuner`` noted on ``cut.model``, ``None`` for whole
            images. Windows lie side by side, and the generator gets the mask of each. The last one of a row or column is moved inwards; what
            it has in common with the one before counts once in the measures, and twice in ``diversity``.

    Returns:
        ``real`` and ``synthetic``: the four measures (``scores``) of the decoder on features of the images and on features
        generated from the masks; ``ratio``: synthetic over real mIoU; ``diversity``: ``E|G(y, z1) - G(y, z2)| / E|f - G(y, z1)|`` in
        standardised units: 1 where samples differ among themselves as much as real features differ from them, 0 where ``z``
        is ignored. NaN where the loader held nothing.

    Raises:
        ConfigError: a number is out of range, or ``ignore_index`` is a class.
        DataError: of several classes, the masks hold one and void only.
        ShapeError, DtypeError, LabelError: a batch is no pair of images and masks, or ``window`` no size.

    Source:
        Sec. 4.4, the paper's PSPNet-score. Ours: the diversity ratio, and the windows.
    """
    check_number("recognition", "seed", seed, low=0, integer=True)
    tile = size_of("recognition", cut.model, window, "window")
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
                z = generator.draw_z(2 * len(given), rng)
                first, second = zip(*(x.chunk(2) for x in generator(given, z, samples=2)), strict=True)
                real.update(split_outputs(cut.decode(features, size))[0], counted)
                synthetic.update(split_outputs(cut.decode(first, size))[0], counted)
                # Void of ours is none of the masks'.
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
