"""Which settings of feataug are worth a full comparison? Decoder alone, on cached features of the frozen encoder.

    python -m studies.own.screen --data DIR --dataset camvid --arms mined both,power=1,filter=1.25 control,power=1 [--seeds 0 1]

An arm is ``masks[,key=value...]``: a source of ``Comparison.masks`` (``control`` for none), settings of ``FeatureMixer``, and
``filter`` (factor), ``generator`` (folder), ``power`` (of ``deficit_weights``), ``lr``, ``steps`` and ``bn``: ``joint``, ``split`` (real and
synthetic samples are normalised separately) or ``frozen`` (running statistics stay). An arm's control has the same ``lr``, ``steps`` and
frozen statistics.

Needs the base model and the generator that ``studies.own.compare --until generator`` leaves. A step costs a tenth of a full one. A gain here is
a reason to try a setting, not a result. Figures go to ``studies/results/screen-camvid.json`` after every run.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from feataug import FeatureGenerator, FeatureMixer
from feataug.core.modes import eval_mode
from feataug.evaluation import differences
from feataug.io.atomic import write_json
from feataug.io.results import by_class
from feataug.losses import segmentation_loss
from feataug.metrics import SegmentationMetrics
from feataug.training.batches import endless
from feataug.training.device import keep_freed_memory
from studies.lib.comparison import Comparison
from studies.lib.setups import arguments, parse
from studies.lib.stage_settings import read_result

MEASURES = ("pixel_acc", "class_acc", "miou", "fw_iou")


class EncodedBatches:
    """Features of the frozen encoder and their masks, one pair per batch, stored in half precision and bytes."""

    def __init__(self, cut: Any, batches: Any) -> None:
        self.items: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad(), eval_mode(cut.model):
            for images, masks in batches:
                (features,) = cut.encode(images.contiguous(memory_format=torch.channels_last))
                self.items.append((features.half(), masks.byte()))

    def __iter__(self) -> Any:
        return ((features.float(), masks.long()) for features, masks in self.items)


def measure(cut: Any, batches: EncodedBatches, num_classes: int) -> dict[str, Any]:
    """The decoder's figures."""
    metrics = SegmentationMetrics(num_classes)
    with torch.no_grad(), eval_mode(cut.model):
        for features, masks in batches:
            metrics.update(cut.decode([features], masks.shape[-2:]), masks)
    return metrics.compute()


def update_bn(cut: Any, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Measure the running statistics of the decoder's BatchNorms again, on real features."""
    norms = [m for m in cut.model.modules() if isinstance(m, nn.BatchNorm2d)]
    encoder = {id(p) for p in cut.encoder_parameters()}
    norms = [m for m in norms if id(m.weight) not in encoder]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    cut.model.train()
    with torch.no_grad():
        for features, masks in batches:
            cut.decode([features.float()], masks.shape[-2:])


class Screen(Comparison):
    """The decoder trained alone, once for each arm."""

    def train_decoder(
        self,
        cut: Any,
        real: list[Any],
        seed: int,
        lr: float,
        mixer: FeatureMixer | None,
        weights: Tensor | None,
        bn: str,
    ) -> None:
        """Train the decoder alone, one step on each batch of ``real``."""
        config = self.further
        parameters = list(cut.decoder_parameters())
        optimizer = torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
        cut.model.train(bn != "frozen")
        for step, (features, masks) in enumerate(real):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / len(real)) ** config.power
            torch.manual_seed(seed * 1_000_003 + step)
            size = masks.shape[-2:]
            if mixer is None:
                out = cut.decode([features.float()], size)
                loss = segmentation_loss(out, masks.long(), class_weights=weights)
            else:
                batch = mixer([features.float()], masks.long())
                (both,) = batch.features
                parts = [both[: len(features)], both[len(features) :]] if bn == "split" else [both]
                out = torch.cat([cut.decode([part], size) for part in parts])
                loss = mixer.loss(out, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def run_arm(self, name: str, seed: int, real: RealBatches, val: EncodedBatches) -> dict[str, Any]:
        """Train one arm and measure it."""
        source, options = parse_arm(name)
        steps, lr, bn, power = (options.pop(key, default) for key, default in self.training_defaults().items())
        weights = self.class_weights(power) if power else None
        cut = self.cut()
        cut.model.to(memory_format=torch.channels_last)
        mixer = None
        if source != "control":
            generator = FeatureGenerator.from_pretrained(self.output / options.pop("generator", "generator-model"))
            if "filter" in options:
                options["pixel_filter"] = self.pixel_filter(options.pop("filter"))
            mixer = FeatureMixer(generator, self.masks(source), cut=cut, seed=seed, class_weights=weights, **options).train()
        self.train_decoder(cut, real.first(int(steps)), seed, lr, mixer, weights, bn)
        if bn != "frozen":
            update_bn(cut, real.first(len(self.train) // self.batch))
        return by_class(measure(cut, val, len(self.classes)), self.classes)

    def training_defaults(self) -> dict[str, Any]:
        """Settings of the training that an arm may change."""
        return {"steps": self.further.num_steps, "lr": self.further.lr, "bn": "joint", "power": 0.0}


class RealBatches:
    """One seed's batches, encoded when they are first used."""

    def __init__(self, cut: Any, loader: Any) -> None:
        self.cut, self.loader, self.items = cut, endless(loader), []

    def first(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Features and masks of the first ``count`` batches."""
        if count > len(self.items):
            self.items += EncodedBatches(self.cut, islice(self.loader, count - len(self.items))).items
        return self.items[:count]


def parse_arm(name: str) -> tuple[str, dict[str, Any]]:
    """An arm's mask source and options; values that are numbers become numbers."""
    source, *options = name.split(",")
    pairs = dict(option.split("=") for option in options)
    return source, {key: value if key in ("generator", "bn") or value == "sum" else float(value) for key, value in pairs.items()}


def control_of(name: str) -> str:
    """The control that an arm is compared with."""
    _, *options = name.split(",")
    return ",".join(["control", *(o for o in options if o.startswith(("steps=", "lr=")) or o == "bn=frozen")])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--arms", nargs="+", required=True)
    args = parse(parser, "screen")
    keep_freed_memory()
    study = Screen(args)
    val = EncodedBatches(study.cut(), study.val_loader)
    settings = study.generator_settings() | {"further": study.further.to_dict()}
    figures: dict[str, dict[str, Any]] = (read_result(args.result, settings) or {"runs": {}})["runs"]
    for seed in args.seeds:
        real = RealBatches(study.cut(), study.loader(seed))
        for name in dict.fromkeys(name for arm in args.arms for name in (control_of(arm), arm)):
            runs = figures.setdefault(name, {})
            if str(seed) in runs:
                continue
            runs[str(seed)] = study.run_arm(name, seed, real, val)
            gaps = {}
            for other in figures:
                control = figures.get(control_of(other), {})
                common = [s for s in control if s in figures[other]]
                if other != control_of(other) and common:
                    gaps[other] = differences([control[s] for s in common], [figures[other][s] for s in common])
            write_json(args.result, {"runs": figures, "differences": gaps, "settings": settings})
            print(name, seed, {k: round(v, 2) for k, v in runs[str(seed)].items() if isinstance(v, (int, float))}, flush=True)
            if name in gaps:
                print("   minus control", {m: round(gaps[name][m]["mean"], 2) for m in MEASURES}, "seeds", len(runs), flush=True)


if __name__ == "__main__":
    main()
