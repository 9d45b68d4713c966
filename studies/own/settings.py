"""feataug's own settings: where masks come from, how many, how much classes are weighted. Encoder trained, paired seeds.

    python -m studies.own.settings --data DIR --dataset camvid [--quick] [--only "features alone, both, 0.3" ...]

``features alone`` has no class weights: the paper's method by itself, with the filter, on evenly drawn masks (``random``) or on masks
drawn by class with rare objects pasted in (``both``). The arms ``class weights ...`` have no synthetic features: the weights by
themselves, at that power.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from studies.lib import baselines
from studies.lib.variants import Variants, prepare_study, print_comparison

# Masks (see Comparison.masks), synthetic share, power of the class weights, factor of the pixel filter.
SETTINGS: dict[str, dict[str, Any]] = {
    "both, 0.2, power 1.25": {"masks": "both", "ratio": 0.2, "power": 1.25, "filter": 1.25},
    "random, 0.15, power 1": {"masks": "random", "ratio": 0.15, "power": 1.0, "filter": 1.25},
}
ALONE: dict[str, dict[str, Any]] = {
    "features alone, random, 0.3": {"masks": "random", "ratio": 0.3, "power": 0.0, "filter": 1.25},
    "features alone, both, 0.3": {"masks": "both", "ratio": 0.3, "power": 0.0, "filter": 1.25},
}
WEIGHTS = {f"class weights, power {power:g}": power for power in (1.0, 1.25)}


def _add_only(parser: argparse.ArgumentParser) -> None:
    known = list(SETTINGS | ALONE | WEIGHTS)
    parser.add_argument(
        "--only", nargs="+", choices=known, default=known, metavar="ARM", help=f"run some of the arms: {'; '.join(known)}"
    )


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("settings", __doc__, add_options=_add_only, argv=argv)


def settings_of(study: Variants) -> dict[str, dict[str, Any]]:
    """Settings of the chosen arms with synthetic features."""
    return {name: settings for name, settings in (SETTINGS | ALONE).items() if name in study.args.only}


def arms(study: Variants) -> dict[str, Any]:
    features = {name: study.variant(**settings) for name, settings in settings_of(study).items()}
    return features | {name: baselines.class_weights(study, power) for name, power in WEIGHTS.items() if name in study.args.only}


def run(study: Variants) -> None:
    result = study.compare(arms(study))
    study.write({"comparison": result, "arms": settings_of(study)})
    print_comparison(study, result)


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
