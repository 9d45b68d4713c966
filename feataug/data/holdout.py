"""Divide a folder that has no splits into images to train on and images to evaluate on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from feataug.core.checks import check_number
from feataug.errors import DataError


def hold_out(names: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Divide names by a digest of each: every command, on every machine, finds the same division, whatever the order of the files.

    Args:
        names: Different texts, such as the image files below their folder.
        share: The share of the second part, between 0 and 1; it gets at least one name, and so does the first.

    Returns:
        Names to train on and names to evaluate on, each in the order given.

    Raises:
        ConfigError: ``share`` is not between 0 and 1.
        DataError: there are fewer than two names.

    Source:
        Ours. A name's digest stays when files are added, so that few change sides.
    """
    check_number("hold_out", "share", share, low=0, high=1, open_low=True, open_high=True)
    if len(names) < 2:
        raise DataError("hold_out: too few images to divide.", given=f"{len(names)}", needed="at least 2")
    by_digest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    held = set(by_digest[: min(max(round(share * len(names)), 1), len(names) - 1)])
    return [name for name in names if name not in held], [name for name in names if name in held]
