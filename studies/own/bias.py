"""What class weights and synthetic features gain beyond a class bias: decoder alone, 200 further steps.

    python -m studies.own.bias --data DIR --dataset camvid --half [--seeds 0 1] [--arms control "class weights" feataug] [--device cpu]

Every arm trains the layers after the cut; the encoder and its norms are frozen. Each is measured on validation images, whole and by windows,
before and after a class bias that is fitted on every sixth training image. ``feataug`` has synthetic features in half of its batch and no
class weights. Figures go to ``studies/results/bias-DATASET.json`` after every seed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from feataug import DatasetMasks, FinetuneConfig, split
from feataug.core.measures import TITLES
from feataug.evaluation import differences, mean_figures, train_arm
from feataug.evaluation.comparison.arms import weights_alone
from feataug.io.atomic import write_json
from feataug.training.device import keep_freed_memory
from studies.lib.setups import arguments, parse
from studies.own.protocol import Protocol

ARMS = ("control", "class weights", "feataug")
WAYS = ("whole", "whole, bias", "windows", "windows, bias")
STEPS = FinetuneConfig(num_steps=200, lr=0.01, lr_scale={"encoder": 0.3}, save_every=50)
RATIO = 0.5


class Bias(Protocol):
    """The arms on one base model."""

    def frozen(self) -> nn.Module:
        """The base model, with everything before the cut in eval mode and without gradients."""
        model = self.load_base().train()
        encoder = {id(parameter) for parameter in split(model, self.at).encoder_parameters()}
        for module in model.modules():
            own = list(module.parameters())
            if own and all(id(parameter) in encoder for parameter in own):
                module.requires_grad_(False).eval()
        return model

    def run_arm(self, name: str, seed: int) -> dict[str, Any]:
        """Train one arm and measure it in all ways."""
        steps = 10 if self.args.quick else STEPS.num_steps
        config = FinetuneConfig.from_dict(STEPS.to_dict() | {"seed": seed, "num_steps": steps})
        options: dict[str, Any] = {}
        if name == "feataug":
            options = {"generator": self.load_generator(), "masks": DatasetMasks(self.train), "ratio": RATIO}
            options["pixel_filter"] = self.pixel_filter(self.feataug["filter"])
        if name == "class weights":
            options = {"baseline": weights_alone(self.class_weights(), device=self.args.device)}
        folder = self.output / "bias" / f"seed-{seed}" / name
        model, _ = train_arm(
            self.frozen(), self.at, self.loader(seed), lambda model: {}, config, output=folder,
            device=self.args.device, progress=f"{name} {seed}", update_bn=True, **options,
        )  # fmt: skip
        return self.measure_ways(model)


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each way's means, and the gains of the other arms over the control."""
    means = {arm: {way: mean_figures([run[way] for run in found]) for way in WAYS} for arm, found in runs.items()}
    gaps = {
        arm: {way: differences([run[way] for run in runs["control"]], [run[way] for run in found]) for way in WAYS}
        for arm, found in runs.items()
        if arm != "control"
    }
    return {"means": means, "differences": gaps}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.set_defaults(seeds=[0, 1], steps=None)
    args = parse(parser, "bias", None)
    keep_freed_memory()
    study = Bias(args)
    study.run_base()
    study.run_generator()
    settings = study.generator_settings() | {"further": STEPS.to_dict(), "ratio": RATIO, "feataug": study.feataug}
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in args.arms}
    for seed in args.seeds:
        for arm in args.arms:
            runs[arm].append(study.stage(f"bias/seed-{seed}/{arm}", lambda a=arm, s=seed: study.run_arm(a, s), settings))
            for way in WAYS:
                figures = runs[arm][-1][way]
                print(f"{arm} {seed}, {way:<14}" + "".join(f"{TITLES[m]} {figures[m]:6.2f}  " for m in TITLES), flush=True)
        write_json(
            args.result,
            {
                "runs": runs,
                **summary(runs),
                "settings": {
                    "data": args.dataset, "half": args.half, "eval_split": args.eval_split, "size": study.size, "batch": study.batch,
                    "images": len(study.train), "model": study.name, "at": study.at, "further": STEPS.to_dict(), "ratio": RATIO,
                    "filter": study.feataug["filter"], "power": study.feataug["power"], "seeds": args.seeds[: args.seeds.index(seed) + 1],
                    "generator": [config.to_dict() for config in study.generator_configs], "device": args.device, "torch": torch.__version__,
                },
            },
        )  # fmt: skip
    print(f"written: {args.result}")


if __name__ == "__main__":
    main()
