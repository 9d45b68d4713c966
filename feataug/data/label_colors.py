"""Colours in label files: tables from colours to classes, and checks that palettes agree."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feataug.data.decoding import Labels
from feataug.errors import ConfigError, DataError

Color = tuple[int, ...]
_NEEDED = "a colour (red, green, blue), 0 .. 255, for each class: a sequence in the order of the classes, or {class: colour, or several}"


class ColorTable:
    """Maps the colours of colour-coded masks to classes.

    Args:
        who: The reader, for errors.
        colors: A colour for each class, in their order; or a dictionary from classes (numbers or names) to one colour or several,
            with ``ignore_index`` for void. A colour has three channels, or four with alpha; a colour of three matches opaque pixels
            only.
        classes: Names of the classes.
        void: Colour of void, if it is a colour.
        ignore_index: Label of void in the resulting masks.

    Raises:
        ConfigError: ``colors`` is not such a table, two classes share a colour, or a class has none.
    """

    def __init__(self, who: str, colors: Any, classes: Sequence[str], void: Any, ignore_index: int) -> None:
        self.who, self.num_classes = who, len(classes)
        table: dict[Color, int] = {}
        self.first: dict[int, Color] = {}
        pairs = [*_entries(who, colors, classes, ignore_index)]
        if isinstance(void, (tuple, list)):
            pairs.append((ignore_index, _color(who, void)))
        for label, color in pairs:
            if table.setdefault(color, label) != label:
                raise ConfigError(
                    f"{who}: two classes have the same colour.",
                    given=f"{shown(color)} for {table[color]} and {label}",
                    needed="one class for each colour",
                )
            self.first.setdefault(label, color)
        lost = [f"{number} ({name})" for number, name in enumerate(classes) if number not in self.first]
        if lost:
            raise ConfigError(f"{who}: classes have no colour.", given=", ".join(lost[:8]), needed=_NEEDED)
        codes = np.array([_code(color) for color in table], np.int64)
        order = np.argsort(codes)
        self.codes, self.labels = codes[order], np.array(list(table.values()), np.int64)[order]
        self.shown = ", ".join(shown(color) for color in list(table)[:8]) + (", ..." if len(table) > 8 else "")

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The first colour of each class."""
        colors = [self.first[label] for label in range(self.num_classes)]
        return tuple((color[0], color[1], color[2]) for color in colors)

    def classes_of(self, found: Labels, file: Path) -> np.ndarray:
        """Class of every pixel, int64 ``(H, W)``.

        Raises:
            DataError: a pixel has a colour that is not in the table, or the file has no colours.
        """
        codes = _codes(self.who, found, file)
        index = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        wrong = self.codes[index] != codes
        if wrong.any():
            others, counts = np.unique(codes[wrong], return_counts=True)
            most = np.argsort(-counts, kind="stable")[:5]
            several = ", ".join(f"{shown(_uncode(int(others[k])))} at {counts[k]} pixels" for k in most)
            raise DataError(
                f"{self.who}: a mask holds colours that are no class.",
                given=f"{several}{', ...' if len(others) > 5 else ''} in {file}",
                needed=f"{self.shown}",
                advice="Many colours near those of classes come from JPEG or from resizing with interpolation: such masks cannot be used."
                    if len(others) > 16
                    else None,
            )
        return self.labels[index]


class Palettes:
    """Checks that the palettes of a data set agree: annotation tools write one per file, and an index may change its colour."""

    def __init__(self) -> None:
        self.colors: dict[int, tuple[Color, Path]] = {}
        self.first: np.ndarray | None = None

    def check(self, who: str, found: Labels, file: Path) -> None:
        """Compare the colours of the indices that a file uses with those of earlier files.

        Raises:
            DataError: an index has another colour, or a colour another index.
        """
        if found.palette is None:
            return
        palette = found.palette
        if self.first is None:
            self.first = palette
        index_of = {color: index for index, (color, _) in self.colors.items()}
        for index in np.flatnonzero(np.bincount(found.pixels.ravel(), minlength=1)).tolist():
            if index >= len(palette):
                continue
            color = tuple(palette[index].tolist())
            before = self.colors.get(index)
            if before is not None and before[0] != color:
                raise self._differ(who, f"index {index} is {shown(before[0])} in {before[1]}, {shown(color)} in {file}")
            as_first = index < len(self.first) and tuple(self.first[index].tolist()) == color
            if before is None and not as_first and color in index_of:
                other = index_of[color]
                where = self.colors[other][1]
                raise self._differ(who, f"{shown(color)} is index {other} in {where}, index {index} in {file}")
            self.colors.setdefault(index, (color, file))

    @staticmethod
    def _differ(who: str, given: str) -> DataError:
        return DataError(
            f"{who}: the palettes of two masks differ, so that one index means two classes.",
            given=given,
            needed="one palette for all masks",
            advice="If the colours are right, pass colors=, which reads them in place of the indices.",
        )


def shown(color: Sequence[int]) -> str:
    """A colour as text, without an alpha of 255."""
    parts = list(color[:3]) if len(color) == 4 and color[3] == 255 else list(color)
    return "(" + ", ".join(map(str, parts)) + ")"


def _entries(who: str, colors: Any, classes: Sequence[str], ignore_index: int) -> list[tuple[int, Color]]:
    """Label and colour of each entry of the user's table."""
    if isinstance(colors, Mapping):
        items = [(_label(who, key, classes, ignore_index), value) for key, value in colors.items()]
    elif isinstance(colors, (str, bytes)) or not hasattr(colors, "__len__"):
        raise _no_table(who, colors)
    elif len(colors) != len(classes):
        given = f"{len(colors)} colours, {len(classes)} classes"
        raise ConfigError(f"{who}: colors is not a table of colours.", given=given, needed=_NEEDED)
    else:
        items = list(enumerate(colors))
    found: list[tuple[int, Color]] = []
    for label, value in items:
        try:
            several = list(value)
        except TypeError:
            raise _no_table(who, value) from None
        nested = bool(several) and all(hasattr(item, "__len__") and not isinstance(item, str) for item in several)
        found += [(label, _color(who, color)) for color in (several if nested else [several])]
    return found


def _label(who: str, key: Any, classes: Sequence[str], ignore_index: int) -> int:
    if isinstance(key, str) and key in classes:
        return list(classes).index(key)
    try:
        label = operator.index(key)
    except TypeError:
        label = None
    if label is None or not (0 <= label < len(classes) or label == ignore_index):
        needed = f"a class, 0 .. {len(classes) - 1} or its name, or {ignore_index} for void"
        raise ConfigError(f"{who}: colors are for an unknown class.", given=repr(key), needed=needed)
    return label


def _color(who: str, value: Any) -> Color:
    try:
        parts = [operator.index(part) for part in value]
    except TypeError:
        raise _no_table(who, value) from None
    if len(parts) not in (3, 4) or not all(0 <= part <= 255 for part in parts):
        raise _no_table(who, value)
    return (*parts, 255) if len(parts) == 3 else tuple(parts)


def _no_table(who: str, given: Any) -> ConfigError:
    return ConfigError(f"{who}: colors is not a table of colours.", given=repr(given)[:100], needed=_NEEDED)


def _code(color: Color) -> int:
    return (color[0] << 24) | (color[1] << 16) | (color[2] << 8) | color[3]


def _uncode(code: int) -> Color:
    return (code >> 24, code >> 16 & 255, code >> 8 & 255, code & 255)


def _codes(who: str, found: Labels, file: Path) -> np.ndarray:
    """The colour of each pixel as one number."""
    pixels = found.pixels
    if found.palette is not None:
        if int(pixels.max(initial=0)) >= len(found.palette):
            raise DataError(f"{who}: a mask has indices beyond its palette.", given=str(file), needed="a colour for each index")
        pixels = found.palette[pixels]
    elif found.kind == "1":
        pixels = pixels * np.uint8(255)
    if found.kind not in ("1", "L", "P", "LA", "RGB", "RGBA"):
        raise DataError(
            f"{who}: a mask has no colours of 8 bits.", given=f"{file}, mode {found.kind!r}", needed="RGB, RGBA, grey or a palette"
        )
    wide = pixels.astype(np.int64)
    if wide.ndim == 2:
        wide = wide[..., None]
    alpha = wide[..., -1] if wide.shape[2] in (2, 4) else 255
    red, green, blue = (wide[..., 0],) * 3 if wide.shape[2] < 3 else (wide[..., 0], wide[..., 1], wide[..., 2])
    codes: np.ndarray = (red << 24) | (green << 16) | (blue << 8) | alpha
    return codes
