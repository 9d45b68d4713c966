"""Table 2: another data set, at a single scale and at several scales with mirror images.

    python -m studies.paper.table2 --data DIR --dataset idd [--quick]

The paper's second data set is ADE20K (``--dataset ade20k``). IDD-Lite and CamVid answer the same question: does a gain at a single scale
remain at several?
"""

from collections.abc import Sequence
from typing import Any

from feataug.core.measures import TITLES
from feataug.evaluation.paired_differences import interval
from feataug.reporting.tables import MEASURES
from studies.lib.variants import Variants, prepare_study, print_comparison


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("table2", __doc__, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    return {}


def run(study: Variants) -> None:
    result = study.compare({})
    print_comparison(study, result)
    scales = study.several_scales(["control", "feataug"])
    study.write({"comparison": result, "several_scales": scales})
    gap = scales["differences"]["feataug"]
    print("at several scales, feataug minus control: " + ", ".join(f"{TITLES[m]} {interval(gap[m])}" for m in MEASURES))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
