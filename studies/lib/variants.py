"""The study behind most of the paper's tables and figures: feataug with one setting changed, as further arms of one comparison.

Control and feataug are trained once for all studies of an output folder. Finished arms are not run again, whichever study asked for them;
an interrupted arm goes on from its last checkpoint, and the result is written after every seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, Finetuner, MaskMixture, evaluate, split
from feataug.data import train_transforms
from feataug.evaluation import differences
from feataug.io.atomic import write_json
from feataug.io.results import by_class
from feataug.reporting.tables import comparison_table
from feataug.training.checkpoint import checkpoints, load_checkpoint
from feataug.training.device import keep_freed_memory
from studies.lib.comparison import Comparison
from studies.lib.setups import arguments, parse

# Six scales and the mirror image, as in PSPNet's code.
MULTI_SCALE = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}


class Variants(Comparison):
    """A comparison whose further arms are feataug with other settings."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.began = time.monotonic()
        super().__init__(args)

    def variant(self, **changes: Any) -> Any:
        """An arm for ``feataug.compare``: feataug with some settings changed.

        Args:
            changes: ``masks`` (the name of a source, see ``Comparison.masks``, or a function from the study to a source), ``generator`` (a
                generator, or a folder below the output), ``at`` (another cut), ``filter``, ``power``, and settings of ``FeatureMixer``.
        """
        settings = self.feataug | changes

        def arm(model: nn.Module, loader: Any, config: Any, folder: Path | None) -> nn.Module:
            mixing = {k: v for k, v in settings.items() if k not in ("masks", "generator", "at", "filter", "power")}
            masks, generator = settings["masks"], settings.get("generator", "generator-model")
            cut = split(model, settings.get("at", self.at))
            mixer = FeatureMixer(
                FeatureGenerator.from_pretrained(self.output / generator) if isinstance(generator, str) else generator,
                self.masks(masks) if isinstance(masks, str) else masks(self),
                cut=cut,
                pixel_filter=self.pixel_filter(settings["filter"]) if settings["filter"] and "at" not in changes else None,
                class_weights=self.class_weights(settings["power"]) if settings["power"] else None,
                seed=config.seed,
                aux_weight=config.aux_weight,
                **mixing,
            )
            text = f"{folder.name if folder else 'variant'} {config.seed}"
            Finetuner(model, config, mixer=mixer, cut=cut, output=folder, device=self.args.device, progress=text).fit(loader)
            return model

        return arm

    def crops(self, masks: Any) -> DatasetMasks:
        """Masks of another source, cropped as the training masks are."""
        return DatasetMasks(masks, transforms=train_transforms(self.size, scale=self.scale))

    def mixed_with(self, masks: Any) -> Any:
        """A value for ``variant(masks=...)``: three of feataug's masks to one of ``masks`` (Sec. 4.5)."""
        return lambda study: MaskMixture([study.masks(study.feataug["masks"]), masks], [3, 1])

    def compare(self, arms: Mapping[str, Any]) -> dict[str, Any]:
        """Control, feataug and ``arms`` on every seed; the result is written after each."""
        result: dict[str, Any] = {}
        for count in range(1, len(self.args.seeds) + 1):
            result = self.compare_arms(self.args.seeds[:count], arms)
            self.write({"comparison": result})
        return result

    def write(self, figures: Mapping[str, Any]) -> None:
        """Write the figures so far, with the settings that they depend on."""
        settings = {
            "data": self.args.dataset, "images": len(self.train), "eval_split": self.args.eval_split, "quick": self.args.quick,
            "size": self.size, "half": self.args.half, "batch": self.batch, "model": self.name, "at": self.at, "feataug": self.feataug,
            "further": self.further.to_dict(), "generator": [config.to_dict() for config in self.generator_configs], "fraction": self.args.fraction,
            "device": self.args.device, "torch": torch.__version__, "seeds": self.args.seeds,
        }  # fmt: skip
        write_json(self.args.result, {"settings": settings, "seconds": round(time.monotonic() - self.began, 1), **figures})

    def load_arm(self, name: str, seed: int) -> nn.Module:
        """A trained arm as ``compare`` measured it: its last checkpoint, with BatchNorm statistics of real images."""
        folder = self.output / "arms" / f"seed-{seed}" / name
        model = self.load_base()
        model.load_state_dict(load_checkpoint(checkpoints(folder)[0])[1]["state"]["model"])
        Finetuner(model, self.further, device=self.args.device, progress=False).update_bn(self.loader(seed))
        return model.eval()

    def several_scales(self, names: Sequence[str]) -> dict[str, Any]:
        """Arms measured at six scales and mirrored, by windows and after their class bias, with differences from the control."""
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        settings = self.generator_settings() | {"further": self.further.to_dict(), "feataug": self.feataug, **MULTI_SCALE}
        for seed in self.args.seeds:
            for name in names:

                def run(name: str = name, seed: int = seed) -> dict[str, Any]:
                    # The bias of one scale: fitting one at six scales would take thirty times as long.
                    bias = json.loads((self.output / "arms" / f"seed-{seed}" / f"{name}.json").read_text())["figures"]["class_bias"]
                    predict = self.inference(self.load_arm(name, seed), class_bias=bias, **MULTI_SCALE).to(self.device)
                    return by_class(evaluate(predict, self.val_loader, len(self.classes), device=self.device), self.classes)

                runs[name].append(self.stage(f"several-scales/seed-{seed}/{name}", run, settings))
        gaps = {name: differences(runs["control"], runs[name]) for name in names if name != "control"}
        return {"runs": runs, "differences": gaps, "settings": MULTI_SCALE}


def prepare_study(
    name: str,
    description: str | None,
    *,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> Variants:
    """Parse the options, and train the base model and the generator where that has not been done.

    Args:
        name: The study's name; its result file is named after it.
        description: The text of ``--help``.
        add_options: Adds the study's own options to the parser.
        argv: Options in place of the command line.
    """
    parser = arguments(description)
    if add_options is not None:
        add_options(parser)
    args = parse(parser, name, argv)
    if args.quick and args.seeds == parser.get_default("seeds"):
        args.seeds = [0]
    keep_freed_memory()
    study = Variants(args)
    study.run_base()
    study.run_generator()
    return study


def print_comparison(study: Variants, result: Mapping[str, Any]) -> None:
    """Print the comparison as a table, and the path of the result."""
    print(comparison_table(result))
    print(f"written: {study.args.result} ({time.monotonic() - study.began:.0f} s)")
