"""What the paper's tables and figures have in common: feataug with one thing changed, as further arms of one comparison.

Each study is a table of variants; control and feataug are trained once for all of them. Arms that are done are not run again, whichever
study asked for them, one that was stopped goes on from its last checkpoint, and the result is written after every seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
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
from studies.lib.setups import arguments, parse
from studies.own.compare import Comparison

# Six scales and the mirror image, as PSPNet's code has them.
MULTI_SCALE = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}


class Variants(Comparison):
    """A comparison whose further arms are feataug with other settings."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.began = time.monotonic()
        super().__init__(args)

    def variant(self, **changes: Any) -> Any:
        """An arm for ``feataug.compare``: feataug as it is, but for ``changes``.

        Args:
            changes: ``masks`` (a source's name, see ``Comparison.masks``, or a source), ``generator`` (a generator, or a folder below
                the output), ``at`` (another cut), ``filter``, ``power``, and settings of ``FeatureMixer``.
        """
        settings = self.feataug | changes

        def arm(model: nn.Module, loader: Any, config: Any, folder: Path | None) -> nn.Module:
            rest = {k: v for k, v in settings.items() if k not in ("masks", "generator", "at", "filter", "power")}
            masks, generator = settings["masks"], settings.get("generator", "generator-model")
            cut = split(model, settings.get("at", self.at))
            mixer = FeatureMixer(
                FeatureGenerator.from_pretrained(self.output / generator) if isinstance(generator, str) else generator,
                self.masks(masks) if isinstance(masks, str) else masks(self),
                cut=cut,
                pixel_filter=self.filter(settings["filter"]) if settings["filter"] and "at" not in changes else None,
                class_weights=self.class_weights(settings["power"]) if settings["power"] else None,
                seed=config.seed,
                aux_weight=config.aux_weight,
                **rest,
            )
            text = f"{folder.name if folder else 'variant'} {config.seed}"
            Finetuner(model, config, mixer=mixer, cut=cut, output=folder, device=self.args.device, progress=text).fit(loader)
            return model

        return arm

    def crops(self, masks: Any) -> DatasetMasks:
        """Masks from elsewhere, cropped as the training set's are."""
        return DatasetMasks(masks, transforms=train_transforms(self.size, scale=self.scale))

    def with_others(self, masks: Any) -> Any:
        """A source for ``variant``: three of feataug's masks to one of ``masks`` (Sec. 4.5)."""
        return lambda study: MaskMixture([study.masks(study.feataug["masks"]), masks], [3, 1])

    def compare(self, arms: Mapping[str, Any]) -> dict[str, Any]:
        """Control, feataug and ``arms`` on every seed; the result is written after each."""
        result: dict[str, Any] = {}
        for count in range(1, len(self.args.seeds) + 1):
            result = self.compared(self.args.seeds[:count], arms)
            self.write({"comparison": result})
        return result

    def write(self, figures: Mapping[str, Any]) -> None:
        """The study's figures so far, with the settings that they depend on."""
        settings = {
            "data": self.args.dataset, "images": len(self.train), "eval_split": self.args.eval_split, "quick": self.args.quick,
            "size": self.size, "half": self.args.half, "batch": self.batch, "model": self.name, "at": self.at, "feataug": self.feataug,
            "further": self.further.to_dict(), "generator": [config.to_dict() for config in self.generator_configs], "fraction": self.args.fraction,
            "device": self.args.device, "torch": torch.__version__, "seeds": self.args.seeds,
        }  # fmt: skip
        write_json(self.args.result, {"settings": settings, "seconds": round(time.monotonic() - self.began, 1), **figures})

    def arm(self, name: str, seed: int) -> nn.Module:
        """A trained arm as it was measured: its last checkpoint, BatchNorm's statistics on real images anew."""
        folder = self.output / "arms" / f"seed-{seed}" / name
        model = self.trained()
        model.load_state_dict(load_checkpoint(checkpoints(folder)[0])[1]["state"]["model"])
        Finetuner(model, self.further, device=self.args.device, progress=False).update_bn(self.loader(seed))
        return model.eval()

    def several_scales(self, names: Sequence[str]) -> dict[str, Any]:
        """Arms measured at six scales and mirrored, by windows and after their class bias: each run's figures, and differences from the control."""
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for seed in self.args.seeds:
            for name in names:

                def run(name: str = name, seed: int = seed) -> dict[str, Any]:
                    # The bias of one scale: fitting one at six would take thirty times as long.
                    bias = json.loads((self.output / "arms" / f"seed-{seed}" / f"{name}.json").read_text())["figures"]["class_bias"]
                    predict = self.predicted(self.arm(name, seed), class_bias=bias, **MULTI_SCALE).to(self.device)
                    return by_class(evaluate(predict, self.val_loader, len(self.classes), device=self.device), self.classes)

                runs[name].append(self.stage(f"several-scales/seed-{seed}/{name}", run))
        gaps = {name: differences(runs["control"], runs[name]) for name in names if name != "control"}
        return {"runs": runs, "differences": gaps, "settings": MULTI_SCALE}


def prepared(
    name: str,
    description: str | None,
    *,
    quick_seeds: Sequence[int] = (0,),
    extra: Any = None,
    argv: Sequence[str] | None = None,
) -> Variants:
    """The study of that name, its base and its generator trained if they are not yet there.

    Args:
        name: Of the study; the result is named after it.
        description: For ``--help``.
        quick_seeds: With ``--quick``.
        extra: Adds options of its own to the parser.
        argv: Instead of the command line.
    """
    parser = arguments(description)
    if extra is not None:
        extra(parser)
    args = parse(parser, name, argv)
    if args.quick and args.seeds == parser.get_default("seeds"):
        args.seeds = list(quick_seeds)
    keep_freed_memory()
    study = Variants(args)
    study.stage("base", study.base)
    study.stage("generator", study.generator)
    return study


def told(study: Variants, result: Mapping[str, Any]) -> None:
    """The comparison as a table, and where it is."""
    print(comparison_table(result))
    print(f"written: {study.args.result} ({time.monotonic() - study.began:.0f} s)")
