"""What torch offers for the generator's training step: Adam in one kernel, which we take, and ``torch.compile``, which users may.

python -m benchmarks.adam_and_compile [--device cuda]
"""

from __future__ import annotations

import time

import torch

from benchmarks.common import name_of, parser, race, write
from feataug import FeatureGenerator, FeatureSpec, LevelSpec
from feataug.generation.critics import Discriminator, LatentEncoder

CLASSES, SIZE, BATCH = 19, (224, 288), 8


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.manual_seed(0)
    spec = FeatureSpec((LevelSpec("encoder.blocks.4", 112, 16),))
    generator = FeatureGenerator(CLASSES, spec, "bicyclegan").to(args.device, memory_format=torch.channels_last)
    parts = [generator, Discriminator(CLASSES, spec), Discriminator(CLASSES, spec), LatentEncoder(spec, 8)]
    where = {"device": name_of(args.device), "shape": [BATCH, CLASSES, *SIZE]}
    lines = []

    steps = []
    for fused in (True, False):
        weights = [p.detach().clone().to(args.device).requires_grad_() for part in parts for p in part.parameters()]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        steps.append(torch.optim.Adam(weights, fused=fused).step)
    found = race(*steps, seconds=args.seconds, device=args.device, faster=True, rounds=9)
    lines.append({"claim": "fused_adam", **found, "bound": "used where it is faster", **where})

    masks = torch.randint(CLASSES, (BATCH, *SIZE), device=args.device)
    z = torch.randn(BATCH, generator.latent_dim, device=args.device)
    generator.train()
    compiled = torch.compile(generator)

    def step(made: torch.nn.Module) -> None:
        (features,) = made(masks, z, standardized=True)
        features.square().mean().backward()

    began = time.perf_counter()
    step(compiled)
    seconds = time.perf_counter() - began
    found = race(lambda: step(compiled), lambda: step(generator), seconds=args.seconds, device=args.device, faster=True)
    lines.append({"claim": "compiled_generator", **found, "bound": f"{seconds:.0f} s to compile", **where})
    write("adam_and_compile", args.device, lines)


if __name__ == "__main__":
    main()
