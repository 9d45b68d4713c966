"""Write drawn pages, or compare them with the committed ones; wrap their prose."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[1]
WIDTH = 100


def wrap(text: str) -> str:
    """Wrap paragraphs and list items at 100 columns. Headings, tables, comments and code stay as they are."""
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    return "".join(part if part.startswith("```") else "\n".join(_wrapped(part)) for part in parts)


def _wrapped(text: str) -> list[str]:
    lines: list[str] = []
    for block in re.split(r"(\n{2,})", text):
        if re.match(r"\s*(\n|#|\||<!--|$)", block):
            lines.append(block)
            continue
        items = re.split(r"(?m)^(?=- )", block)
        lines.append("\n".join(_filled(item) for item in items if item))
    return "".join(lines).split("\n")


def _filled(item: str) -> str:
    """One paragraph or list item. Spaces in code (of up to 98 characters) and in addresses do not break."""
    glued = re.sub(r"`[^`]{,98}`|\]\([^)]*\)", lambda match: match[0].replace("\n", " ").replace(" ", "\0"), item.strip("\n"))
    indent = "  " if item.startswith("- ") else ""
    filled = textwrap.fill(" ".join(glued.split()), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return ("\n" if item.startswith("\n") else "") + filled.replace("\0", " ") + ("\n" if item.endswith("\n\n") else "")


def write_or_check(pages: Mapping[str, str], script: str) -> None:
    """Write each page below ``docs/``; with ``--check`` on the command line, exit with an error if one differs from its file."""
    for name, text in pages.items():
        file = DOCS / name
        if "--check" not in sys.argv:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            sys.exit(f"docs/{name} is not what the result files give: run python -m docs.drawing.{script}")
