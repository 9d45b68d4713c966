"""Fig. 7: the synthetic share of a batch, 0.1 to 0.5.

python studies/fig7.py --data DIR --dataset camvid [--ratios 0.1 0.3 0.5] [--quick]
"""

import argparse

from variants import prepared, told


def extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])


def main() -> None:
    study = prepared("fig7", __doc__, extra=extra)
    told(study, study.compare({f"ratio {ratio:g}": study.variant(ratio=ratio) for ratio in study.args.ratios}))


if __name__ == "__main__":
    main()
