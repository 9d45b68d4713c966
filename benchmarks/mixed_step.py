"""A mixed training step, 11 real and 5 synthetic samples, against a plain step with 16 real ones: ``python -m benchmarks.mixed_step``.

Synthetic samples skip the encoder; the generator is what they cost. ``limit`` is what the ratio would be if they cost nothing but the decoder:
1 - 5/16 of the encoder's share of a plain step, which is measured, too. Memory is what a process grows by at its peak. What generating costs
is a mixed step against one whose synthetic features are there: all of them new, or a quarter new and the rest drawn from a bank.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.common import grown_by, name_of, parser, peak_bytes, race, write
from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, split
from feataug.losses import segmentation_loss
from feataug.models import PSPNet
from feataug.training.device import keep_freed_memory

REAL, SYNTHETIC, CLASSES = 11, 5, 19
MODELS: dict[str, dict[str, Any]] = {
    "lite0": {
        "encoder": "tf_efficientnet_lite0",
        "output_stride": 16,
        "at": "encoder.blocks.4",
        "cpu": (192, 256),
        "cuda": (512, 512),
    },
    "resnet50": {"encoder": "resnet50", "output_stride": 8, "at": "encoder.layer3.2:pre_act", "cpu": (96, 96), "cuda": (512, 512)},
}


def steps(name: str, device: str, size: tuple[int, int] | None = None) -> dict[str, Callable[[], Any]]:
    """One training step of each side, the decoder's part of a plain one, and the plans that mixed ones draw on the CPU."""
    torch.manual_seed(0)
    about = MODELS[name]
    size = size or about[device]
    model = (
        PSPNet(about["encoder"], CLASSES, output_stride=about["output_stride"])
        .to(device, memory_format=torch.channels_last)
        .train()
    )
    cut = split(model, about["at"], example=torch.zeros(1, 3, *size, device=device))
    generator = FeatureGenerator(CLASSES, cut.spec).to(device, memory_format=torch.channels_last)
    drawn = torch.randint(CLASSES, (32, size[0] // 16, size[1] // 16)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    banks = {"mixed": {}, "bank": {"bank": 32}, "there": {"bank": 32, "fresh": 0.0}}
    mixers = {
        side: FeatureMixer(generator, DatasetMasks(drawn), SYNTHETIC / (REAL + SYNTHETIC), cut=cut, **bank).train()
        for side, bank in banks.items()
    }
    images = torch.randn(REAL + SYNTHETIC, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    masks = drawn[: REAL + SYNTHETIC].to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with torch.no_grad():
        features = [level.detach() for level in cut.encode(images)]

    def learn(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def plain() -> None:
        learn(segmentation_loss(model(images), masks))

    def mixed(side: str) -> None:
        mixer = mixers[side]
        with mixer.on(cut, masks[:REAL]) as batch:
            out = model(images[:REAL])
        assert len(batch.masks) == REAL + SYNTHETIC
        learn(mixer.loss(out, batch))

    def decoder() -> None:
        learn(segmentation_loss(cut.decode([level.requires_grad_() for level in features], size), masks))

    def fill() -> None:
        # Until all samples of the banks are made.
        for side in ("bank", "there"):
            while not all(mixers[side].bank.made):
                mixers[side]([level[:REAL] for level in features], masks[:REAL])

    found = {"plain": plain, "decoder": decoder, "fill": fill}
    found |= {f"{side}, plan": partial(mixer.plan, REAL, size) for side, mixer in mixers.items()}
    return found | {side: partial(mixed, side) for side in mixers}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the time of a mixed step on the first model alone")
    options.add_argument("--side", help="MODEL:SIDE, measure memory of one side, for the script itself")
    args = options.parse_args()
    if args.side:
        name, _, side = args.side.partition(":")
        run = steps(name, args.device)[side]
        print(json.dumps({"bytes": grown_by(run, args.device)}))
        return
    keep_freed_memory()
    lines = []
    for name, about in list(MODELS.items())[: 1 if args.quick else None]:
        sides = steps(name, args.device)
        share = 1 - race(sides["decoder"], sides["plain"], seconds=args.seconds / 2, device=args.device)["ratio"]
        found = race(sides["mixed"], sides["plain"], seconds=args.seconds, device=args.device)
        limit = 1 - SYNTHETIC / (REAL + SYNTHETIC) * share
        place = {
            "model": name, "at": about["at"], "device": name_of(args.device), "shape": [REAL, SYNTHETIC, *about[args.device]],
        }  # fmt: skip
        extra = {"encoder_share": round(share, 3), "limit": round(limit, 3), "over_limit": round(found["ratio"] / limit, 3)}
        lines.append({"claim": "mixed_step_time"} | found | {"bound": "at most 1, and 1.08 limits"} | extra | place)
        if args.quick:
            continue
        ours, other = (peak_bytes("mixed_step", f"{name}:{side}", args.device) for side in ("mixed", "plain"))
        memory = {"ours": ours, "other": other, "ratio": round(ours / other, 3), "bound": "at most 1"}
        lines.append({"claim": "mixed_step_memory"} | memory | place)
        if name == "resnet50" and args.seconds <= 10 and args.device == "cpu":
            continue  # two minutes more, and the quick set is to take ten
        sides["fill"]()
        for claim, side, bound in (("generating", "mixed", "for comparison"), ("generating_bank", "bank", "at most 1.05")):
            # A bank makes new samples in some steps only.
            found = race(sides[side], sides["there"], seconds=args.seconds, device=args.device, repeats=8 if side == "bank" else 1)
            lines.append({"claim": claim} | found | {"bound": bound} | place)
    write("mixed_step", args.device, lines)


if __name__ == "__main__":
    main()
