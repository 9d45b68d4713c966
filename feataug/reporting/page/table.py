"""Tables of the page, and numbers as it shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DASH = "–"


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        caption: What it shows.
        head: The titles of the columns.
        rows: The cells.
        text_columns: How many columns at the left hold words. The others hold numbers, and are aligned to the right.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


def number_text(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number as text; a dash for ``None`` and for what is not finite.

    Example:
        >>> number_text(1.005, 1), number_text(None), number_text(0.5, 1, sign=True)
        ('1.0', '–', '+0.5')
    """
    if value is None or not math.isfinite(value):
        return DASH
    if abs(value) >= 1e7:
        return f"{value:{'+' if sign else ''}.3g}"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def interval_text(gap: dict[str, Any]) -> str:
    """The interval of a difference in brackets; empty if it has none."""
    return "" if gap["low"] is None else f" [{number_text(gap['low'], sign=True)}, {number_text(gap['high'], sign=True)}]"


def gap_text(gap: dict[str, Any]) -> str:
    """A difference with its interval."""
    text = number_text(gap["mean"], sign=True)
    return text if text == DASH else text + interval_text(gap)
