"""The built site in a real browser: landing page, a notebook's page, the reference; and the links that it is built from."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.support import browser

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build"
PROGRAM = browser.find()
in_a_browser = [
    pytest.mark.skipif(PROGRAM is None or sys.platform == "win32", reason=f"no browser: none of {', '.join(browser.NAMES)}"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built: make docs"),
    pytest.mark.xdist_group("browser"),
]


def sources():
    spec = importlib.util.spec_from_file_location("site_sources", ROOT / "docs" / "site_sources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def window():
    with browser.Browser(PROGRAM) as opened:
        yield opened


@pytest.mark.parametrize("page", [pytest.param(name, marks=in_a_browser) for name in ("index", "start", "notebooks/01_quick_start", "api")])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_is_whole_at_every_width(page, width, dark, window, tmp_path):
    window.open(SITE / f"{page}.html", width, dark)
    assert window.value("document.scrollingElement.scrollWidth") == width
    assert window.value("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    assert window.value("document.querySelectorAll('h1').length") >= 1
    background = window.value("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background)[:3])) < 80) == dark
    assert window.complaints == []
    assert window.requests == []
    window.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.parametrize("_", [pytest.param(0, marks=in_a_browser)])
def test_the_landing_page_has_four_doors_and_a_picture_for_each_notebook(_, window):
    window.open(SITE / "index.html", 1400)
    doors = window.value("[...document.querySelectorAll('.sd-card-title')].slice(0, 4).map(e => e.textContent.trim())")
    assert doors == ["Try", "Plug in", "Understand", "Reproduce"]
    shown = window.value("[...document.querySelectorAll('.gallery img')].map(e => e.src.split('/').pop())")
    assert shown == [f"{path.stem}.png" for path in sorted((ROOT / "examples").glob("*.ipynb"))]


def test_links_are_those_of_the_site():
    adapted = sources().for_the_site
    text = "[a](docs/masks.md#b) [c](CHANGELOG.md) [d](studies/results) [e](https://x.org) ![f](docs/teaser.png) [g](#h)"
    expected = "[a](masks.md#b) [c](changelog.md) d [e](https://x.org) ![f](docs/teaser.png) [g](#h)"
    assert adapted(text, "") == expected
    assert adapted("[a](../docs/cut.md) [b](results/x.json)", "studies") == "[a](cut.md) b"
    assert adapted("[a](../studies/README.md) [b](cut.md)", "docs") == "[a](studies.md) [b](cut.md)"


def test_a_notebook_without_a_picture_is_an_error():
    with pytest.raises(ValueError, match=r"^a notebook without a picture"):
        sources().largest_picture('{"cells": [{"outputs": [{"data": {"text/plain": "1"}}]}]}')
