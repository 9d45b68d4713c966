"""A flow generator's training step, and what makes it faster on a GPU: ``python -m benchmarks.flow_step [--device cuda] [--profile FILE]``.

The default generator for the lite0 PSPNet's cut at stride 16, 16 crops of 224 x 288, the encoder's pass included. On a GPU the plain step in fp32
is raced by bf16, by a compiled loss, and by CUDA graphs (``GeneratorTrainer(cuda_graph=True)``), whose losses are compared with the plain ones;
``overlap`` is a mixed step with and without it. On a CPU only bf16. ``distillation_step`` is a step of the second part beside one of the first,
both in the same precision. ``--profile`` writes torch.profiler's table of each side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import frozen_lite0, name_of, parser, race, write
from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, GeneratorConfig, split
from feataug.models import PSPNet
from feataug.training.device import keep_freed_memory, make_accelerator
from feataug.training.flow_matching import FlowObjective

CLASSES, BATCH, SIZE, IMAGES = 19, 16, (224, 288), 10**6
# The captured step computes what the plain one does, in another order.
TOLERANCE = 1e-3


def objective(device: str, precision: str, *, cuda_graph: bool = False, compiled: bool = False) -> FlowObjective:
    """A flow's objective, always with the same first weights."""
    for state in (AcceleratorState, PartialState, GradientState):
        # One process measures several precisions.
        state._reset_state()
    torch.manual_seed(0)
    cut = frozen_lite0(CLASSES)
    cut.model.to(device, memory_format=torch.channels_last)
    config = GeneratorConfig(mixed_precision=precision, num_images=IMAGES)
    found = FlowObjective(FeatureGenerator(CLASSES, cut.spec), cut, config, cuda_graph=cuda_graph)
    found.prepare(make_accelerator(device, precision))
    if compiled:
        found.loss = torch.compile(found.loss)
    return found


def overlapping(device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A mixed step that generates while the encoder runs, and one that does not."""
    torch.manual_seed(0)
    model = PSPNet("tf_efficientnet_lite0", CLASSES, output_stride=16).to(device, memory_format=torch.channels_last)
    cut = split(model, "encoder.blocks.4")
    generator = FeatureGenerator(CLASSES, cut.spec).to(device, memory_format=torch.channels_last)
    masks = torch.randint(CLASSES, (BATCH, *SIZE))
    images, labels = torch.randn(11, 3, *SIZE, device=device), masks[:11].to(device)

    def step(mixer: FeatureMixer) -> None:
        with mixer.on(cut, labels) as batch:
            out = model(images)
        mixer.loss(out, batch).backward()

    first, second = (
        partial(step, FeatureMixer(generator, DatasetMasks(masks), 5 / 16, cut=cut, overlap=overlap).train()) for overlap in (True, False)
    )
    return first, second


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--profile", type=Path, help="a file for the profiler's tables")
    args = options.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    images, masks = torch.randn(BATCH, 3, *SIZE), torch.randint(CLASSES, (BATCH, SIZE[0] // 16, SIZE[1] // 16))
    masks = masks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    ways: dict[str, dict[str, Any]] = {"bf16": {"precision": "bf16"}}
    if args.device == "cuda":
        ways = {"bf16, CUDA graphs": {"precision": "bf16", "cuda_graph": True}} | ways
        ways |= {"fp32, CUDA graphs": {"precision": "no", "cuda_graph": True}, "bf16, compiled": {"precision": "bf16", "compiled": True}}
    about = {"device": name_of(args.device), "shape": [BATCH, CLASSES, *SIZE]}
    lines: list[dict[str, Any]] = []

    def step(made: FlowObjective) -> dict[str, torch.Tensor]:
        return made.step(images, masks, made.first_part if made.parts else 0)

    def profiled(name: str, ours: FlowObjective) -> None:
        if args.profile:
            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if args.device == "cuda" else [])
            with profile(activities=activities) as seen:
                step(ours)
            table = seen.key_averages().table(sort_by=f"self_{args.device}_time_total", row_limit=20)
            with args.profile.open("a") as file:
                file.write(f"{name}\n{table}\n")

    for name, way in ways.items():
        plain = objective(args.device, "no")
        ours = objective(args.device, **way)
        # Before the race, while both have the same weights: the same noise, and so the same loss.
        losses = [float(step(made)["flow"]) for made in (ours, plain)]
        found = race(partial(step, ours), partial(step, plain), seconds=args.seconds, device=args.device, faster=True, warm_up=3)
        bound = "at least 4" if name == "bf16, CUDA graphs" else "for comparison"
        gap = abs(losses[0] - losses[1]) / losses[1]
        lines.append({"claim": "flow_step"} | found | {"bound": bound, "model": name, "loss_gap": round(gap, 6)} | about)
        # What is measured is kept, whatever becomes of the rest.
        write("flow_step", args.device, lines)
        if way["precision"] == "no" and gap > TOLERANCE:
            raise SystemExit(f"{name}: the loss is {losses[0]}, without {losses[1]}")
        profiled(name, ours)
    precision = "bf16" if args.device == "cuda" else "no"
    for captured in (False, True) if args.device == "cuda" else (False,):
        plain, ours = (objective(args.device, precision, cuda_graph=captured and which) for which in (False, True))
        ours.next_part(ours.first_part, ours.generator)
        found = race(partial(step, ours), partial(step, plain), seconds=args.seconds, device=args.device, warm_up=3)
        name = precision.replace("no", "fp32") + (", CUDA graphs" if captured else "")
        lines.append({"claim": "distillation_step"} | found | {"bound": "for comparison", "model": name} | about)
        write("flow_step", args.device, lines)
        profiled(f"distillation, {name}", ours)
    if args.device == "cuda":
        found = race(*overlapping(args.device), seconds=args.seconds, device=args.device, warm_up=3)
        lines.append({"claim": "overlap"} | found | {"bound": "at most 1"} | about)
        write("flow_step", args.device, lines)


if __name__ == "__main__":
    main()
