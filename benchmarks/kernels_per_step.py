"""How many kernels a training step launches, counted on any machine: ``python -m benchmarks.kernels_per_step``.

On small networks a GPU waits for the CPU that launches its kernels, so that their number is the time of a step. ``kernels_generator_step``: one step
of a generator with the default settings of its objective, the encoder's pass included (lite0, cut at stride 16); against the BicycleGAN objective
written plainly. ``kernels_mixed_step``: a mixed step, without the plan that the CPU draws, against a plain step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.common import frozen_lite0, parser, write
from benchmarks.kernel_count import kernels
from benchmarks.mixed_step import REAL, SYNTHETIC, steps
from benchmarks.plain_objective import PlainObjective
from feataug import FeatureGenerator, GeneratorConfig
from feataug.training.bicyclegan import BicycleGANObjective
from feataug.training.device import make_accelerator
from feataug.training.flow_matching import FlowObjective

CLASSES, BATCH, SIZE = 19, 8, (224, 288)
OBJECTIVES: dict[str, tuple[Any, GeneratorConfig]] = {
    "flow": (FlowObjective, GeneratorConfig()),
    "flow, distillation": (FlowObjective, GeneratorConfig()),
    "BicycleGAN": (BicycleGANObjective, GeneratorConfig.bicyclegan()),
    "BicycleGAN, the paper's critics": (BicycleGANObjective, GeneratorConfig.bicyclegan(critic_masks="aspp")),
}


def generator_step(kind: Any, config: GeneratorConfig, *, distillation: bool = False) -> int:
    """Kernels of one step of an objective, or of a flow's second part."""
    torch.manual_seed(0)
    cut = frozen_lite0(CLASSES)
    objective = kind(FeatureGenerator(CLASSES, cut.spec, config.objective), cut, config)
    objective.prepare(torch.device("cpu") if kind is PlainObjective else make_accelerator("cpu", "no"))
    seen = objective.first_part if distillation else 0
    if distillation:
        objective.next_part(seen, objective.generator)
    images, masks = torch.randn(BATCH, 3, *SIZE), torch.randint(CLASSES, (BATCH, *SIZE))
    return kernels(partial(objective.step, images, masks, seen))


def mixed_steps() -> dict[str, int]:
    """Kernels of a plain step, and of mixed ones whose samples are new or drawn from a bank."""
    sides = steps("lite0", "cpu", (64, 96))
    sides["fill"]()
    plans = {name: kernels(sides[f"{name}, plan"]) for name in ("mixed", "there")}
    found = {name: kernels(sides[name]) - plans.get(name, 0) for name in ("plain", *plans)}
    return found


def main() -> None:
    parser(__doc__).parse_args()
    def line(claim: str, model: str, ours: int, other: int, bound: str, shape: list[int]) -> dict[str, Any]:
        figures = {"ours": ours, "other": other, "ratio": round(ours / other, 3), "bound": bound}
        return {"claim": claim} | figures | {"model": model, "device": "any device", "shape": shape}

    plain = {masks: generator_step(PlainObjective, GeneratorConfig.bicyclegan(critic_masks=masks)) for masks in ("shares", "aspp")}
    lines = []
    for name, (kind, config) in OBJECTIVES.items():
        ours = generator_step(kind, config, distillation=name.endswith("distillation"))
        other = plain["aspp" if name.endswith("critics") else "shares"]
        bound = {"flow": "at most 450", "flow, distillation": "at most 900", "BicycleGAN": "at most 900"}.get(name, "for comparison")
        lines.append(line("kernels_generator_step", name, ours, other, bound, [BATCH, CLASSES, *SIZE]))
    mixed = mixed_steps()
    for name, side, bound in (("samples from a bank", "there", "at most 30 more"), ("new samples", "mixed", "for comparison")):
        lines.append(line("kernels_mixed_step", name, mixed[side], mixed["plain"], bound, [REAL, SYNTHETIC]))
    write("kernels_per_step", "any", lines)


if __name__ == "__main__":
    main()
