"""``docs/performance.md`` from ``benchmarks/results/*.json``: ``python -m docs.drawing.performance [--check]``."""

from __future__ import annotations

import json
from pathlib import Path

from docs.drawing.page import wrap, write_or_check

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

CLAIMS = {
    "label_conv_forward": (
        "convolution of a label map, 150 classes, 512 x 512, 96 maps: forward",
        "one-hot and `conv2d`, times faster",
    ),
    "label_conv_train": ("the same, forward and backward", "times faster"),
    "label_conv_memory": ("the same, peak memory besides the results", "share of the other"),
    "mask_encoder_classes": ("mask encoder at 150 classes, forward and backward", "the same at 19 classes, share of its time"),
    "mixed_step_time": ("mixed step, 11 real and 5 synthetic", "plain step of 16, share of its time"),
    "mixed_step_memory": ("the same, peak memory", "share of the other"),
    "sampling": ("features of 12 masks, a flow, two steps", "the encoder on as many images (lite0), share of its time"),
    "sampling_branch": ("a mixed step's 5 synthetic samples, all", "the encoder on its 11 real images, share of its time"),
    "sampling_branch_bank": ("the same with a bank of 256", "the encoder on its 11 real images, share of its time"),
    "sampling_branch_bank_tenth": ("the same with `fresh=0.1`, new in every tenth step", "the encoder on its 11 real images, share of its time"),
    "generating": ("mixed step that generates all synthetic features", "one whose features are stored, share of its time"),
    "generating_bank": ("mixed step with a bank, new samples in every fourth step", "one whose features are stored, share of its time"),
    "generator_step": ("generator's training step", "the same objective written plainly, times faster"),
    "flow_step": ("a flow's training step", "the same in fp32, launched kernel by kernel, times faster"),
    "distillation_step": ("a flow's training step, distillation", "one that learns velocities, share of its time"),
    "overlap": ("mixed step that generates while the encoder runs", "one that does not, share of its time"),
    "kernels_generator_step": ("kernels of a generator's training step", "those of the BicycleGAN objective written plainly, share of them"),
    "kernels_mixed_step": ("kernels of a mixed step", "those of a plain step, share of them"),
    "fused_adam": ("Adam over generator and critics in one kernel", "weight by weight, times faster"),
    "compiled_generator": ("generator under `torch.compile`, forward and backward", "without it, times faster"),
    "waiting_for_data": ("generator's training fed from", "the same steps on a stored batch, share of its time"),
    "split_forwards": ("`split` of a large model", "a forward pass, times its time"),
    "advice_forwards": ("an error of `split` with complete cuts as advice", "a forward pass, times its time"),
    "trace_memory": ("peak memory of a process that splits a large model", "one that makes a forward pass, share of its peak"),
    "import": ("`import feataug`", "`import torch`, share of its time"),
    "import_names": ("the same, with `split`, `FeatureGenerator`, `FeatureMixer`, `HardNegativeSampler`", "share of its time"),
}


ADVICE = """## When it is slow

- **Training waits for images**: `seeded_loader(..., num_workers=2)` on two CPU cores (the lines above), 8 beside a GPU; `--workers` on the
  command line. Batches are the same with any number.
- **The encoder is most of a generator's step** (a large backbone, cut late): encode once, `bank = feataug.FeatureBank.write(folder, cut, loader,
  40_000)`, then `trainer.fit(feataug.data.seeded_loader(bank, 16))`. Crops are drawn when the bank is written, so that it should hold several of
  each image; bf16 by default, checksummed, resumable.
- **Generating costs a step too much** (a large generator, a small decoder, or a pixel filter, which is a forward of its own):
  `FeatureMixer(..., bank=256, fresh=0.25)` keeps 256 synthetic samples and generates new ones in every fourth step. On a GPU `overlap=True`
  generates while the encoder runs: the results are equal on an H100 (a test). Not yet benchmarked.
- **Mining costs forwards**: `HardNegativeSampler(masks, learn=True)` takes the losses that training computes anyway.
- **A GPU waits for the CPU**: small networks are computed faster than their kernels are launched. `GeneratorTrainer(..., cuda_graph=True)`
  replays a flow's loss and its gradient from CUDA graphs. Counted above, not yet timed on a GPU; `python -m benchmarks.gpu_day --results FOLDER`
  measures all that a GPU has to say, in nine minutes.
- **Critics' masks** (BicycleGAN): `GeneratorConfig.bicyclegan(critic_masks="shares")`, the default, encodes them at the features' resolution.
- **bf16**: `GeneratorConfig(mixed_precision="bf16")`, `FinetuneConfig(mixed_precision="bf16")`; on CPUs that multiply bf16 natively as well."""


def size(value: float, claim: str) -> str:
    """Seconds or bytes as text."""
    if claim.startswith("kernels"):
        return f"{value:,.0f}"
    if claim.endswith("memory"):
        return f"{value / 2**20:,.0f} MiB"
    return f"{1e3 * value:,.1f} ms" if value < 1 else f"{value:.2f} s"


def page() -> str:
    """The whole page."""
    lines = [
        "# Performance",
        "",
        "<!-- Drawn by docs/drawing/performance.py from benchmarks/results/*.json; do not edit. -->",
        "",
        "`make bench` runs these on a CPU in some minutes, `python -m benchmarks.NAME --device cuda` on a GPU. Both sides of a line run in turn "
        "in one process (memory: in one process each). Figures are medians; the ratio is the median over rounds. Compare ratios, not times: "
        "these depend on the machine.",
    ]
    found = [line for file in sorted(RESULTS.glob("*.json")) for line in read(file) if line.get("claim") in CLAIMS]
    for device in sorted({line["device"] for line in found}):
        lines += ["", f"## {device}", "", "| ours | against | ours | other | ratio | wanted |", "|---|---|---|---|---|---|"]
        for claim, (ours, other) in CLAIMS.items():
            for line in found:
                if line["claim"] == claim and line["device"] == device:
                    kind = next((f", {line[key]}" for key in ("model", "labels", "critics") if key in line), "")
                    figures = [size(line[side], claim) for side in ("ours", "other")] + [f"{line['ratio']:.3g}", line["bound"]]
                    lines.append(f"| {ours}{kind} | {other} | " + " | ".join(figures) + " |")
        for line in found:
            if "floor" in line and line["device"] == device:
                f = line["floor"]
                lines += [
                    "",
                    f"A label convolution of this size must write {f['output_megabytes']:,.0f} MB; by lookup it adds {f['lookup_gadds']:.2f} billion "
                    f"numbers at most (labels: {line['labels']}), with one-hot codes it multiplies and adds {f['one_hot_gmacs']:.1f} billion.",
                ]
        for line in found:
            if "remark" in line and line["device"] == device:
                lines += ["", f"{CLAIMS[line['claim']][0].capitalize()}: {line['remark']}"]
        steps = [line for line in found if line["claim"] == "mixed_step_time" and line["device"] == device]
        for line in steps:
            lines += [
                "",
                f"{line['model']}, cut at `{line['at']}`: the encoder is {100 * line['encoder_share']:.0f} % of a plain step, so that a mixed one "
                f"would cost {line['limit']:.3f} of it if features were free. It costs {line['over_limit']:.2f} times that.",
            ]
    grown = [line for file in sorted(RESULTS.glob("growth-*.json")) for line in read(file)]
    for device in sorted({line["device"] for line in grown}):
        start = ", ".join(f"{value} {axis}" for axis, value in grown[0]["start"].items())
        lines += [
            "",
            f"## How the generator's forward grows, {device}",
            "",
            f"From {start} (features at stride 16), one thing at a time:",
            "",
        ]
        lines += ["| | | time | multiply-adds, 10^9 | features, MB |", "|---|---|---|---|---|"]
        for line in grown:
            if line["device"] == device:
                figures = f"{1e3 * line['seconds']:,.1f} ms | {line['gmacs']:.2f} | {line['megabytes']:.1f}"
                lines.append(f"| {line['axis']} | {line['value']} | {figures} |")
    for file in sorted(RESULTS.glob("paper_scale-*.json")):
        lines += paper_scale(read(file)[0])
    return wrap("\n".join([*lines, "", ADVICE]) + "\n")


def paper_scale(line: dict) -> list[str]:
    """One training step at the size of the paper."""
    crops, classes, height, width = line["shape"]
    _, channels, *cells = line["features"]
    return [
        "",
        f"## At the paper's size, {line['device']}",
        "",
        f'`python -m benchmarks.paper_scale`: one training step of the generator `preset="paper"` with `GeneratorConfig.paper()`, '
        f"{channels:,} channels of {cells[0]} x {cells[1]} cells, {crops} crops of {height} x {width}, {classes} classes, PSPNet-ResNet50 "
        "at stride 8.",
        "",
        "| | |",
        "|---|---|",
        f"| peak memory of the process, with the model | {line['gigabytes']:.1f} GB |",
        f"| parameters of the generator | {line['parameters']['generator'] / 1e6:.1f} million |",
        f"| multiply-adds: features of one crop by the encoder | {line['encoder_gmacs'] / crops:,.0f} x 10^9 |",
        f"| features of one crop by the generator | {line['generator_gmacs'] / crops:,.0f} x 10^9 |",
        f"| one whole step, with channel statistics and the score at the end | {line['step_gmacs']:,.0f} x 10^9 |",
        f"| its time | {line['seconds']:.0f} s |",
    ]


def read(file: Path) -> list[dict]:
    """A file's lines. Early files hold a single object."""
    found = json.loads(file.read_text())
    return found if isinstance(found, list) else [found]


if __name__ == "__main__":
    write_or_check({"performance.md": page()}, "performance")
