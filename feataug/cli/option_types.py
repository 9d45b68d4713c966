"""The types of options, with the same checks for the command line and for a configuration file."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """The type of an option that takes a number; argparse calls it with a text, a configuration file gives a number.

    Args:
        low, high: The bounds.
        integer: The number must be an integer.
        open_low, open_high: The bound itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    integer: bool = False
    open_low: bool = False
    open_high: bool = False

    def __call__(self, value: str | float) -> float:
        """Return the number; raise ``ArgumentTypeError`` if it is not one, or out of range."""
        try:
            # int() would accept 0.5 and true from a file.
            if isinstance(value, bool) or (self.integer and isinstance(value, float)):
                raise ValueError
            number = int(value) if self.integer else float(value)
            # torch counts with 64 bits.
            is_valid = math.isfinite(number) and abs(number) < 2**63
        except (ValueError, TypeError, OverflowError):
            is_valid = False
        if is_valid:
            is_valid = number > self.low if self.open_low else number >= self.low
            is_valid = is_valid and (number < self.high if self.open_high else number <= self.high)
        if not is_valid:
            raise argparse.ArgumentTypeError(f"{value!r} is not {self}")
        return number

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "a number"
        if math.isfinite(self.high):
            return f"{kind} in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"
        if math.isfinite(self.low):
            return f"{kind} above {self.low:g}" if self.open_low else f"{kind} of at least {self.low:g}"
        return kind


ANY = Number(integer=True)
NOT_NEGATIVE = Number(low=0, integer=True)
POSITIVE = Number(low=1, integer=True)
SHARE = Number(low=0, high=1)
_PLAIN: dict[Any, Number] = {int: ANY, float: Number()}


def size(text: Any) -> tuple[int, int]:
    """Parse rows and columns such as ``512x1024``; raise ``ArgumentTypeError`` for any other text."""
    try:
        rows, columns = (int(part) for part in text.lower().split("x"))
    except (ValueError, AttributeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512x1024") from None
    if min(rows, columns) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: rows and columns must be at least 1")
    return rows, columns


def needed(action: argparse.Action) -> str:
    """What an option takes, in words for an error message."""
    if action.nargs == 0:
        return "true or false"
    if action.choices is not None:
        item = " or ".join(f"{choice!r}" for choice in action.choices)
    elif isinstance(kind := _PLAIN.get(action.type, action.type), Number):
        item = str(kind)
    else:
        item = 'a text such as "512x1024"' if action.type is size else "a text"
    if action.nargs == "+":
        return f"a list; each item is {item}"
    return f"a list of {action.nargs}; each item is {item}" if isinstance(action.nargs, int) else item


def convert(action: argparse.Action, value: Any) -> Any:
    """Convert a file's value to what the option gives; raise ``ValueError`` if it does not fit."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError
        return value
    if action.nargs == "+" or isinstance(action.nargs, int):
        items = value if isinstance(value, list) else [value]
        if not items or (isinstance(action.nargs, int) and len(items) != action.nargs):
            raise ValueError
        return [_item(action, item) for item in items]
    return _item(action, value)


def _item(action: argparse.Action, value: Any) -> Any:
    kind = _PLAIN.get(action.type, action.type)
    if not isinstance(kind, Number) and not isinstance(value, str):
        raise ValueError
    # A number in quotes is a text, not a number.
    if isinstance(kind, Number) and isinstance(value, str):
        raise ValueError
    try:
        item = kind(value) if callable(kind) else value
    except argparse.ArgumentTypeError:
        raise ValueError from None
    if action.choices is not None and item not in action.choices:
        raise ValueError
    return item
