"""The mask encoder at 150 classes against itself at 19: ``python -m benchmarks.mask_encoder``.

Forward and backward, default widths, stride 16, four masks of 512 x 512.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.common import name_of, parser, race, write
from feataug import FeatureGenerator, FeatureSpec, LevelSpec
from feataug.training.device import keep_freed_memory

BATCH, SIZE = 4, 512


def main() -> None:
    args = parser(__doc__).parse_args()
    keep_freed_memory()
    sides = []
    for classes in (150, 19):
        torch.manual_seed(0)
        encoder = FeatureGenerator(classes, FeatureSpec((LevelSpec("cut", 112, 16),)), "bicyclegan").mask_encoder.to(args.device)
        coarse = torch.randint(classes, (BATCH, 1, SIZE // 16, SIZE // 16)).float()
        masks = F.interpolate(coarse, (SIZE, SIZE), mode="nearest")[:, 0].long().to(args.device)

        def step(encoder: torch.nn.Module = encoder, masks: torch.Tensor = masks) -> None:
            encoder(masks).square().mean().backward()

        sides.append(step)
    found = race(sides[0], sides[1], seconds=args.seconds, device=args.device)
    about = {"bound": "at most 1.1", "device": name_of(args.device), "shape": [BATCH, SIZE, SIZE]}
    write("mask_encoder", args.device, [{"claim": "mask_encoder_classes"} | found | about])


if __name__ == "__main__":
    main()
