"""HTML as text that is escaped unless it is HTML already: the one place where a page is put together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = {"br", "img", "meta"}
DASH = "–"


class Html(str):
    """Text that is HTML already."""


def tag(element: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        element: Its name.
        children: Text (escaped), ``Html``, or iterables of either; ``None`` is left out.
        attributes: Values are escaped, and those that are ``None`` left out; ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``.

    Example:
        >>> tag("a", "1 < 2", href='"x"', class_="up")
        '<a href="&quot;x&quot;" class="up">1 &lt; 2</a>'
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items() if value is not None
    )
    start = f"<{element}{shown}>"
    return Html(start if element in _VOID else f"{start}{joined(*children)}</{element}>")


def joined(*children: Any) -> Html:
    """Children one after the other."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, Iterable) and not isinstance(child, str):
            parts.append(joined(*child))
        elif child is not None:
            parts.append(escape(str(child)))
    return Html("".join(parts))


def shown(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number as text; a dash for none.

    Example:
        >>> shown(1.005, 1), shown(None), shown(0.5, 1, sign=True)
        ('1.0', '–', '+0.5')
    """
    if value is None or not math.isfinite(value):
        return DASH
    if abs(value) >= 1e7:
        return f"{value:{'+' if sign else ''}.3g}"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]], caption: Any = None, text: int = 1) -> Html:
    """A table that scrolls in a box of its own; all but the first ``text`` columns are numbers."""

    def row(cells: Iterable[Any]) -> Html:
        items = list(cells)
        first = tag("th", items[0], scope="row")
        return tag(
            "tr", first, [tag("td", cell, class_="n" if number >= text else None) for number, cell in enumerate(items[1:], 1)]
        )

    titles = [tag("th", cell, scope="col", class_="n" if number >= text else None) for number, cell in enumerate(head)]
    body = tag("tbody", [row(cells) for cells in rows])
    inner = tag("table", tag("caption", caption) if caption else None, tag("thead", tag("tr", titles)), body)
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")
