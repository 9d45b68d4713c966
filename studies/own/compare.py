"""Does feataug help, and more than other methods do? A base model, a generator, then every arm on paired seeds.

    python -m studies.own.compare --data DIR --dataset camvid|idd|cityscapes|ade20k|folder [--eval-split val|test] [--fraction 0.25]
        [--arms control feataug ohem ...] [--ceiling] [--seeds 0 1 2 3 4] [--device cpu] [--output runs/compare-camvid] [--quick]
        [--further-steps 100] [--ratio 0.3] [--masks random|balanced|composed|both|mined] [--filter 1.25]

The arms are those of studies/lib/baselines.py, without synthetic features, and of studies/lib/feature_arms.py, with those of other generators.
``--dataset folder`` takes ``DIR/{train,val}/{images,masks}`` and ``DIR/classes.txt``, one name per line. Finished stages are not run
again, and an interrupted one goes on from its last checkpoint. The figures go to ``studies/results/compare-camvid.json``
(``--result``) after every seed; ``docs/results.md`` is drawn from it by ``python -m docs.drawing.results``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from feataug.io.atomic import write_json
from feataug.reporting.tables import comparison_table
from feataug.training.device import keep_freed_memory
from studies.lib.baselines import BASELINES
from studies.lib.comparison import Comparison
from studies.lib.feature_arms import FEATURE_ARMS
from studies.lib.setups import arguments, parse

ARMS = BASELINES | FEATURE_ARMS
MASKS = ("random", "balanced", "composed", "both", "mined")


class Compared(Comparison):
    """A comparison with its mixing and its length from the command line."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        given = {"masks": args.masks, "ratio": args.ratio, "filter": args.filter}
        self.feataug = self.feataug | {key: value for key, value in given.items() if value is not None}  # type: ignore[misc]
        if args.further_steps and not args.quick:
            self.further = replace(self.further, num_steps=args.further_steps)

    def baselines(self) -> dict[str, Any]:
        return {name: ARMS[name](self) for name in self.args.arms if name not in ("control", "feataug")}


def mixing(parser: argparse.ArgumentParser) -> None:
    """Options of the arms with synthetic features, and of the length of all arms."""
    parser.add_argument("--further-steps", type=int, help="steps of every arm, if other than in the other studies")
    parser.add_argument("--ratio", type=float, help="synthetic share of a batch")
    parser.add_argument("--masks", choices=MASKS, help="where synthetic samples have their masks from")
    parser.add_argument("--filter", type=float, help="factor of the pixel filter; 0 for none")


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``argv``."""
    parser = arguments(__doc__)
    parser.add_argument("--arms", nargs="+", choices=("control", "feataug", *ARMS), default=["control", "feataug", *ARMS])
    mixing(parser)
    parser.add_argument(
        "--ceiling", action="store_true", help="with --fraction below 1: an arm with real features of the labelled images that are left out"
    )
    parser.add_argument("--until", choices=("base", "generator", "arms"), default="arms", help="the last stage to run")
    args = parse(parser, "compare", argv)
    if args.ceiling and args.fraction >= 1:
        parser.error("--ceiling needs labelled images that are left out: --fraction below 1")
    return args


def run(study: Compared) -> None:
    """Every stage up to ``--until``."""
    args = study.args
    print(study.run_base()["miou"])
    if args.until != "base":
        print(study.run_generator()[args.eval_split]["ratio"])
        if not args.result.exists():
            write_json(args.result, study.with_context({"base": study.run_base(), "settings": {}}))
    if args.until == "arms":
        print(comparison_table(study.run_arms()))


def main() -> None:
    keep_freed_memory()
    run(Compared(options()))


if __name__ == "__main__":
    main()
