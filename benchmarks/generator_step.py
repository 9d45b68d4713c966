"""The generator's training step against the same objective written plainly: ``python -m benchmarks.generator_step``.

The other side (``plain_objective.py``) has the same networks with one-hot masks, a forward for each use, contiguous tensors and fp32; both run the
default weights of ``GeneratorConfig`` with the paper's critics (``--critics shares`` for the default ones) on the lite0 PSPNet's cut.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.common import frozen_lite0, name_of, parser, race, write
from benchmarks.plain_objective import PlainObjective
from feataug import FeatureGenerator, GeneratorConfig
from feataug.training.bicyclegan import BicycleGANObjective
from feataug.training.device import keep_freed_memory, make_accelerator

CLASSES, BATCH, SIZE = 19, 8, (224, 288)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--critics", choices=("aspp", "shares"), default="aspp")
    args = options.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, *SIZE)
    masks = torch.randint(CLASSES, (BATCH, SIZE[0] // 16, SIZE[1] // 16)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    config = GeneratorConfig.bicyclegan(critic_masks=args.critics, mixed_precision="bf16" if args.device == "cuda" else "no")
    sides = []
    for kind in (BicycleGANObjective, PlainObjective):
        torch.manual_seed(0)
        cut = frozen_lite0(CLASSES)
        objective = kind(FeatureGenerator(CLASSES, cut.spec, "bicyclegan"), cut, config)
        objective.prepare(make_accelerator(args.device, config.mixed_precision) if kind is BicycleGANObjective else torch.device(args.device))
        sides.append(partial(objective.step, images, masks, 0))
    found = race(sides[0], sides[1], seconds=3 * args.seconds, device=args.device, faster=True)
    bound = f"at least {4 if args.device == 'cuda' else 3}"
    about = {"bound": bound, "critics": args.critics, "device": name_of(args.device), "shape": [BATCH, CLASSES, *SIZE]}
    write("generator_step", args.device, [{"claim": "generator_step"} | found | about])


if __name__ == "__main__":
    main()
