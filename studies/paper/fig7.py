"""Fig. 7: the synthetic share of a batch.

    python -m studies.paper.fig7 --data DIR --dataset camvid [--ratios 0.1 0.3 0.5] [--quick]
"""

import argparse
from collections.abc import Sequence
from typing import Any

from studies.lib.variants import Variants, prepare_study, print_comparison


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.3, 0.5])


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("fig7", __doc__, add_options=add_options, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    return {f"ratio {ratio:g}": study.variant(ratio=ratio) for ratio in study.args.ratios}


def run(study: Variants) -> None:
    print_comparison(study, study.compare(arms(study)))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
