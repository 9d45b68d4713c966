"""Lines of Markdown are short enough to be read and compared side by side."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "studies").glob("*.md")),
]
WIDTH = 100


def too_long(text: str) -> list[str]:
    """Lines of prose that are too long. Code, tables and comments may be wider, and the address of a link does not count."""
    text = re.sub(r"(?ms)^ *(`{3,}|:{3,}).*?^ *\1`* *$|<!--.*?-->", "", text)
    prose = [line for line in text.splitlines() if not line.lstrip().startswith("|")]
    return [line for line in prose if len(re.sub(r"\]\([^)]*\)", "]", line)) > WIDTH]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_wrapped(page):
    assert too_long(page.read_text()) == []


def test_a_long_line_is_found():
    assert len(PAGES) > 20
    long = "word " * 21
    plain = f"# Title\n\nA line.\n\n| {long} |\n|---|\n\n```sh\n{long}\n```\n<!-- {long} -->\n[a link]({'x' * 101})\n"
    assert too_long(plain) == []
    for planted in (long, f"- {long}", f"# {long}", f"[{long}](page.md)"):
        assert too_long(f"{plain}{planted}\n\n```sh\n{long}\n```\n") == [planted]
