"""feataug's own settings: where masks come from, how many, how much classes are weighted. Encoder trained, paired seeds.

    python studies/settings.py --data DIR --dataset camvid [--quick]

``features alone`` has neither class weights nor the composed masks: what the paper's method does by itself, with the filter. The arms of
``class weights ...`` have no synthetic features: what the weights do by themselves at that power.
"""

from collections.abc import Sequence
from typing import Any

import rivals
from variants import Variants, prepared, told

# Masks (see Comparison.masks), synthetic share, power of the class weights, factor of the pixel filter.
SETTINGS: dict[str, dict[str, Any]] = {
    "both, 0.2, power 1.25": {"masks": "both", "ratio": 0.2, "power": 1.25, "filter": 1.25},
    "random, 0.15, power 1": {"masks": "random", "ratio": 0.15, "power": 1.0, "filter": 1.25},
}
ALONE: dict[str, dict[str, Any]] = {
    "features alone, random, 0.3": {"masks": "random", "ratio": 0.3, "power": 0.0, "filter": 1.25},
    "features alone, both, 0.3": {"masks": "both", "ratio": 0.3, "power": 0.0, "filter": 1.25},
}
POWERS = (1.0, 1.25)


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepared("settings", __doc__, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    found = {name: study.variant(**settings) for name, settings in (SETTINGS | ALONE).items()}
    return found | {f"class weights, power {power:g}": rivals.class_weights(study, power) for power in POWERS}


def run(study: Variants) -> None:
    result = study.compare(arms(study))
    study.write({"comparison": result, "arms": SETTINGS | ALONE})
    told(study, result)


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
