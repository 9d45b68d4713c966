"""How the commands' help looks, and the examples in it."""

from __future__ import annotations

import argparse

# Two lines each: one that runs as it stands (the chain from finetune on, without any data), and one on data of your own.
EXAMPLES = {
    "demo": ("feataug demo", "feataug demo --seed 1 --output runs/demo-1"),
    "inspect": (
        "feataug inspect timm/resnet50 --size 512x512",
        "feataug inspect runs/base",
        "feataug inspect mypackage.models:build",
        "feataug inspect ./mymodel.py:build --size 256x512",
    ),
    "stages": (
        "feataug stages --dataset scenes --size 96 128 --model runs/base --generator-images 400",
        "feataug stages --data CamVid --model runs/base --at encoder.layer2 encoder.layer3",
    ),
    "fit-generator": (
        "feataug fit-generator --dataset scenes --size 96 128 --model runs/base --at encoder.layer3.0 --images 2000 --output runs/generator",
        "feataug fit-generator --data CamVid --model runs/base --at encoder.layer3.0 --dry-run",
    ),
    "finetune": (
        "feataug finetune --dataset scenes --size 96 128 --encoder resnet18 --steps 300 --lr 0.05 --output runs/base",
        "feataug finetune --data CamVid --model runs/base --generator runs/generator --output runs/feataug",
    ),
    "fit-bias": (
        "feataug fit-bias --dataset scenes --size 96 128 --model runs/base",
        "feataug fit-bias --data CamVid --model runs/feataug --measure class_acc --output runs/bias",
    ),
    "compare": (
        "feataug compare --dataset scenes --size 96 128 --model runs/base --generator runs/generator --steps 100 --seeds 2",
        "feataug compare --data CamVid --model runs/base --generator runs/generator --seeds 5",
    ),
    "teach": (
        "feataug teach --dataset scenes --size 96 128 --model runs/base --generator runs/generator --steps 100 --seeds 1",
        "feataug teach --data CamVid --model runs/base --generator runs/generator --pretrained",
    ),
    "report": ("feataug report runs/demo", "feataug report runs/compare --output compare.html"),
    "evaluate": (
        "feataug evaluate --dataset scenes --size 96 128 --model runs/base",
        "feataug evaluate --data CamVid --model runs/feataug --scales 0.75 1 1.25 --flip",
        "feataug evaluate --data CamVid --model runs/feataug --plain",
    ),
}


class Look(argparse.HelpFormatter):
    """Wraps what is one paragraph, leaves lists of examples as they are, and shows the defaults that say something."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if not action.option_strings or action.nargs == 0 or default is None or default is argparse.SUPPRESS:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)
        return f"{text} (default: {shown})".replace("%", "%%")


def examples(command: str) -> str | None:
    """The end of a command's help."""
    return "\n  ".join(("examples:", *EXAMPLES[command])) if command in EXAMPLES else None
