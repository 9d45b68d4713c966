"""Does feataug help, and more than other methods do? A base model, a generator, then every arm on paired seeds.

    python -m studies.own.compare --data DIR --dataset camvid|idd|cityscapes|ade20k|folder [--eval-split val|test] [--fraction 0.25]
        [--arms control feataug ohem ...] [--ceiling] [--seeds 0 1 2 3 4] [--device cpu] [--output runs/compare-camvid] [--quick]

``--dataset folder`` takes ``DIR/{train,val}/{images,masks}`` and ``DIR/classes.txt``, one name per line. Finished stages are not run
again, and an interrupted one goes on from its last checkpoint. The figures go to ``studies/results/compare-camvid.json``
(``--result``) after every seed; ``docs/results.md`` is drawn from it by ``python -m docs.drawing.results``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from feataug.io.atomic import write_json
from feataug.reporting.tables import comparison_table
from feataug.training.device import keep_freed_memory
from studies.lib.baselines import BASELINES
from studies.lib.comparison import Comparison
from studies.lib.setups import arguments, parse


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``argv``."""
    parser = arguments(__doc__)
    parser.add_argument("--arms", nargs="+", choices=("control", "feataug", *BASELINES), default=["control", "feataug", *BASELINES])
    parser.add_argument(
        "--ceiling", action="store_true", help="with --fraction below 1: an arm with real features of the labelled images that are left out"
    )
    parser.add_argument("--until", choices=("base", "generator", "arms"), default="arms", help="the last stage to run")
    args = parse(parser, "compare", argv)
    if args.ceiling and args.fraction >= 1:
        parser.error("--ceiling needs labelled images that are left out: --fraction below 1")
    return args


def run(study: Comparison) -> None:
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
    run(Comparison(options()))


if __name__ == "__main__":
    main()
