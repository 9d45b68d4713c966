"""Fig. 6: channels of real features and of two generators' features, and the pixels that the decoder recognises.

    python -m studies.paper.fig6 --data DIR --dataset camvid [--channels 3] [--quick]

Needs the generators of ``studies.paper.table3`` (same options). Writes ``OUTPUT/fig6.png``. Its columns are the mask; for each of the channels
that separate classes best, real features, those of encoded masks and those of small masks; and the pixels that are recognised in the first
generator's features alone (cyan) or in the second's alone (red).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from feataug.reporting.plots import color_masks, save_grid
from studies.lib.variants import Variants, prepare_study
from studies.paper.table3 import KINDS

CYAN, RED = (0, 200, 200), (220, 40, 40)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4)


def grey_pictures(values: Tensor, like: Tensor, size: tuple[int, int]) -> Tensor:
    """Channels ``(B, h, w)`` as uint8 pictures ``(B, *size, 3)``, black and white at the 2 % and 98 % quantiles of ``like``."""
    low, high = torch.quantile(like.flatten(), torch.tensor([0.02, 0.98]))
    scaled = ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    whole = torch.nn.functional.interpolate(scaled[:, None], size, mode="nearest")
    return (255 * whole).to(torch.uint8).expand(-1, 3, -1, -1).movedim(1, -1)


def most_separating_channels(features: Tensor, masks: Tensor) -> Tensor:
    """Channels, sorted by the share of their variance that lies between classes."""
    small = torch.nn.functional.interpolate(masks[:, None].float(), features.shape[-2:], mode="nearest")[:, 0].long()
    flat, labels = rearrange(features, "b c h w -> b h w c")[small != 255], small[small != 255]
    between = torch.zeros(features.shape[1])
    for label in labels.unique():
        part = flat[labels == label]
        between += len(part) / len(flat) * (part.mean(0) - flat.mean(0)).square()
    return (between / flat.var(0).clamp(min=1e-12)).argsort(descending=True)


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("fig6", __doc__, add_options=add_options, argv=argv)


def run(study: Variants) -> None:
    every = max(1, len(study.val) // study.args.rows)
    pairs = [study.val[index] for index in range(0, len(study.val), every)][: study.args.rows]
    images, masks = (torch.stack([torch.as_tensor(pair[n]) for pair in pairs]) for n in (0, 1))
    cut, size = study.cut(), (int(masks.shape[-2]), int(masks.shape[-1]))
    cut.model.eval()
    synthetic, recognised = {}, {}
    with torch.no_grad():
        (real,) = cut.encode(images)
        for name, kind in KINDS.items():
            generator = kind.from_pretrained(study.output / f"table3-{name.replace(' ', '-')}-model").eval()
            (synthetic[name],) = generator(masks, generator.draw_z(masks, torch.Generator().manual_seed(0)))
            recognised[name] = (cut.decode((synthetic[name],), size).argmax(1) == masks) & (masks != 255)
    columns = {"mask": color_masks(masks, study.val.palette)}
    for channel in most_separating_channels(real, masks)[: study.args.channels].tolist():
        for name, features in {"real": real, **synthetic}.items():
            columns[f"{name}, {channel}"] = grey_pictures(features[:, channel], real[:, channel], size)
    first, second = (recognised[name] for name in KINDS)
    difference = torch.full((len(masks), *size, 3), 255, dtype=torch.uint8)
    for colour, where in ((CYAN, first & ~second), (RED, second & ~first)):
        difference[where] = torch.tensor(colour, dtype=torch.uint8)
    columns["recognised"] = difference
    path = save_grid(study.output / "fig6.png", columns)
    valid = int((masks != 255).sum())
    shares = {f"{a} only": int((recognised[a] & ~recognised[b]).sum()) / valid for a, b in (tuple(KINDS), tuple(KINDS)[::-1])}
    study.write({"recognised_by": shares, "images": len(masks)})
    print(", ".join(f"recognised in {name}: {share:.1%}" for name, share in shares.items()) + f"; {path}")


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
