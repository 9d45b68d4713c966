"""Which settings of feataug are worth a full comparison? Decoder alone, on cached features of the frozen encoder.

    python studies/screen.py --data DIR --dataset camvid --arms control mined balanced composed [--seeds 0 1]

Needs the base and the generator that ``studies/compare.py --until generator`` leaves. A step costs a tenth of a full one; what wins here is a
lead, no result. Figures go to ``studies/results/screen-camvid.json`` after every run.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from compare import Comparison, arguments, parse
from torch import Tensor, nn

from feataug import FeatureGenerator, FeatureMixer
from feataug.evaluation import differences
from feataug.losses import segmentation_loss
from feataug.metrics import SegmentationMetrics
from feataug.recording import eval_mode
from feataug.report import by_class, table, write_json
from feataug.training.run import endless, keep_freed_memory


class Cached:
    """Features of the frozen encoder and their masks, batch by batch, in half precision and bytes."""

    def __init__(self, cut: Any, batches: Any) -> None:
        self.items: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad(), eval_mode(cut.model):
            for images, masks in batches:
                (features,) = cut.encode(images.contiguous(memory_format=torch.channels_last))
                self.items.append((features.half(), masks.byte()))

    def __iter__(self) -> Any:
        return ((features.float(), masks.long()) for features, masks in self.items)


def measure(cut: Any, cached: Cached, num_classes: int) -> dict[str, Any]:
    """The decoder's figures."""
    metrics = SegmentationMetrics(num_classes)
    with torch.no_grad(), eval_mode(cut.model):
        for features, masks in cached:
            metrics.update(cut.decode([features], masks.shape[-2:]), masks)
    return metrics.compute()


def update_bn(cut: Any, cached: list[tuple[Tensor, Tensor]]) -> None:
    """Running statistics of the decoder's BatchNorms on real features, anew."""
    norms = [m for m in cut.model.modules() if isinstance(m, nn.BatchNorm2d)]
    encoder = {id(p) for p in cut.encoder_parameters()}
    norms = [m for m in norms if id(m.weight) not in encoder]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    cut.model.train()
    with torch.no_grad():
        for features, masks in cached:
            cut.decode([features.float()], masks.shape[-2:])


class Screen(Comparison):
    """The decoder trained alone, once for each arm."""

    def train_decoder(self, cut: Any, real: Cached, seed: int, mixer: FeatureMixer | None) -> None:
        """The steps of ``further``, decoder alone."""
        config = self.further
        parameters = list(cut.decoder_parameters())
        optimizer = torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        cut.model.train()
        for step, (features, masks) in enumerate(real):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 - step / config.num_steps) ** config.power
            torch.manual_seed(seed * 1_000_003 + step)
            size = masks.shape[-2:]
            if mixer is None:
                loss = segmentation_loss(cut.decode([features], size), masks)
            else:
                batch = mixer([features], masks)
                loss = mixer.loss(cut.decode(batch.features, size), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def run_arm(self, name: str, seed: int, real: Cached, val: Cached) -> dict[str, Any]:
        """Figures of one arm."""
        cut = self.cut()
        cut.model.to(memory_format=torch.channels_last)
        mixer = None
        if name != "control":
            settings = self.mixer_settings(name)
            mixer = FeatureMixer(settings.pop("generator"), settings.pop("masks"), cut=cut, seed=seed, **settings).train()
        self.train_decoder(cut, real, seed, mixer)
        update_bn(cut, real.items[: len(self.train) // self.batch])
        return by_class(measure(cut, val, len(self.classes)), self.classes)

    def mixer_settings(self, name: str) -> dict[str, Any]:
        """``masks[,key=value...]``: a source of ``Comparison.masks`` and settings of the mixer; ``filter=1.25``, ``generator=FOLDER``."""
        source, *options = name.split(",")
        settings: dict[str, Any] = {"masks": self.masks(source)}
        folder = "generator-model"
        for option in options:
            key, value = option.split("=")
            if key == "generator":
                folder = value
            elif key == "filter":
                settings["pixel_filter"] = self.filter(float(value))
            else:
                settings[key] = float(value) if value != "sum" else value
        return settings | {"generator": FeatureGenerator.from_pretrained(self.output / folder)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--arms", nargs="+", required=True)
    args = parse(parser, "screen")
    keep_freed_memory()
    study = Screen(args)
    val = Cached(study.cut(), study.val_loader)
    figures: dict[str, dict[str, Any]] = json.loads(Path(args.result).read_text())["runs"] if args.result.exists() else {}
    for seed in args.seeds:
        real = None
        for name in dict.fromkeys(["control", *args.arms]):
            runs = figures.setdefault(name, {})
            if str(seed) in runs:
                continue
            real = real or Cached(study.cut(), islice(endless(study.loader(seed)), study.further.num_steps))
            runs[str(seed)] = study.run_arm(name, seed, real, val)
            gaps = {}
            for other in figures:
                common = [s for s in figures["control"] if s in figures[other]]
                if other != "control" and common:
                    gaps[other] = differences([figures["control"][s] for s in common], [figures[other][s] for s in common])
            write_json(args.result, {"runs": figures, "differences": gaps})
            print(name, seed, {k: round(v, 2) for k, v in runs[str(seed)].items() if k != "per_class"}, flush=True)
    for name, gap in gaps.items():
        print(f"{name:<50}", {m: round(gap[m]["mean"], 2) for m in ("pixel_acc", "class_acc", "miou", "fw_iou")})
    print(table({name: runs[str(args.seeds[0])] for name, runs in figures.items() if str(args.seeds[0]) in runs}))


if __name__ == "__main__":
    main()
