"""Few labelled images, many masks without images: how much of what the real images would gain do synthetic features gain?

    python -m studies.own.room --data DIR --dataset camvid|idd --half --fraction 0.1 [--further-steps 400] [--arms ...] [--seeds 0 1 2 3 4]

The base model and the generator see a fraction of the labelled images. Of the rest only the masks are known. Arms: ``control`` (trained
further on the few images), ``feataug`` (mixed with features of all masks), ``ceiling`` (mixed with real features of the rest, which no other
arm sees), other features of studies/lib/feature_arms.py, which know the same masks, and baselines of studies/lib/baselines.py, which know the few
images alone. Figures go to ``studies/results/room-DATASET.json`` after every seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, ClassVar

from feataug.data import train_transforms
from feataug.reporting.tables import comparison_table
from feataug.training.device import keep_freed_memory
from studies.lib.setups import arguments, parse
from studies.own.compare import ARMS, Compared, mixing

# Those that the other arms leave nothing to learn about are left out: they would take an hour.
DEFAULT = [name for name in ARMS if name not in ("images", "feature noise", "class-uniform")]


class Room(Compared):
    """A comparison in which masks are plenty and images are few."""

    # No filter: the base model of few images does not know what to reject.
    feataug: ClassVar[dict[str, Any]] = {"masks": "random", "power": 0.0, "filter": 0.0, "ratio": 0.5}

    def masked(self) -> Any:
        """All training images' masks, also of those without a labelled image."""
        return self.read("train", train_transforms(self.size, scale=self.scale))


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``argv``."""
    parser = arguments(__doc__)
    parser.add_argument("--arms", nargs="*", choices=tuple(ARMS), default=DEFAULT, help="arms besides control, feataug and ceiling")
    mixing(parser)
    parser.set_defaults(fraction=0.1, ceiling=True, further_steps=400)
    args = parse(parser, "room", argv)
    if args.fraction >= 1:
        parser.error("--fraction below 1 is needed: the ceiling's images are those that are left out")
    return args


def main() -> None:
    keep_freed_memory()
    study = Room(options())
    study.run_base()
    study.run_generator()
    print(comparison_table(study.run_arms()))


if __name__ == "__main__":
    main()
