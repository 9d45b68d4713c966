"""What synthetic features cost beside the encoder's: ``python -m benchmarks.sampling``.

PSPNet on lite0, cut at stride 16, masks and images of 112 x 144 and of 224 x 288. ``sampling``: a batch of samples against the encoder's pass over as
many images. ``sampling_branch``: all that a mixed step does for its 5 synthetic samples against the encoder's pass over its 11 real images;
``sampling_branch_bank``: the same with a bank, with new samples in every fourth step on average; ``sampling_branch_bank_tenth``: in every tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import name_of, parser, race, write
from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, split
from feataug.models import PSPNet
from feataug.training.device import keep_freed_memory

CLASSES, BATCH, REAL, SYNTHETIC = 11, 12, 11, 5
SIZES = ((112, 144), (224, 288))
BANKS: dict[str, dict[str, Any]] = {"": {}, "_bank": {"bank": 256}, "_bank_tenth": {"bank": 256, "fresh": 0.1}}


@torch.no_grad()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="one size, and no more rounds than a check needs")
    args = options.parse_args()
    keep_freed_memory()
    lines = []
    for size in SIZES[:1] if args.quick else SIZES:
        torch.manual_seed(0)
        model = PSPNet("tf_efficientnet_lite0", CLASSES, output_stride=16, width=128).eval()
        cut = split(model.to(args.device, memory_format=torch.channels_last), "encoder.blocks.4")
        generator = FeatureGenerator(CLASSES, cut.spec).eval().to(args.device, memory_format=torch.channels_last)
        drawn = torch.randint(CLASSES, (64, size[0] // 16, size[1] // 16)).repeat_interleave(16, 1).repeat_interleave(16, 2)
        # The way masks come from a loader: repeating leaves them transposed in memory.
        drawn = drawn.contiguous()
        masks = drawn[:BATCH].to(args.device)
        images = torch.randn(BATCH, 3, *size, device=args.device).contiguous(memory_format=torch.channels_last)
        real = cut.encode(images[:REAL])
        mixers = {
            f"sampling_branch{name}": FeatureMixer(generator, DatasetMasks(drawn), SYNTHETIC / (REAL + SYNTHETIC), **bank).train()
            for name, bank in BANKS.items()
        }
        sides: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
            "sampling": (lambda g=generator, m=masks: g(m), lambda c=cut, x=images: c.encode(x), "at most 0.5")
        }
        for name, mixer in mixers.items():
            bound = "at most 0.05" if mixer.bank is not None else "-"
            sides[name] = (lambda mix=mixer, f=real, m=masks: mix(f, m[:REAL]), lambda c=cut, x=images: c.encode(x[:REAL]), bound)
        for name, (ours, other, bound) in sides.items():
            # A bank makes new samples in some steps only.
            repeats = 20 if "bank" in name else 1
            rounds = {"warm_up": 1, "rounds": 1} if args.quick else {"warm_up": 60 // repeats + 1, "rounds": 9}
            found = race(ours, other, seconds=args.seconds, device=args.device, repeats=repeats, **rounds)
            about = {"bound": bound, "device": name_of(args.device), "shape": [BATCH, *size], "model": f"{size[0]} x {size[1]}"}
            lines.append({"claim": name} | found | about)
    write("sampling", args.device, lines)


if __name__ == "__main__":
    main()
