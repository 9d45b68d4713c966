"""The page in a real browser: no complaint, no request, no sideways scrolling, readable colours."""

import sys

import pytest

from feataug.cli.main import main
from feataug.reporting.page import write_page
from tests.support import browser
from tests.support.planted_runs import comparison, write

PROGRAM = browser.find()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None or sys.platform == "win32", reason=f"no browser: none of {', '.join(browser.NAMES)}"),
    pytest.mark.xdist_group("browser"),
]

# Relative luminance and contrast as WCAG defines them, over every element with text of its own.
CONTRAST = """(() => {
  const part = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => part(v / 255)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || e.tagName === 'title') continue;
    const style = getComputedStyle(e), a = light(e instanceof SVGElement ? style.fill : style.color), b = light(back(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 80)];
  }
  return worst;
})()"""


@pytest.fixture(scope="module")
def pages(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    result = comparison([1.0, 2.0, 1.5])
    long = "a_class_with_a_very_long_name_" * 3
    for part in (result["base"], *result["arms"].values(), *result["differences"].values()):
        part["per_class"][long] = part["per_class"].pop("pole")
    result["settings"]["long"] = "x" * 500
    lines = {f"seed-{i}/{arm}": [{"loss": 2.0}, {"loss": 1.0}] for i in range(3) for arm in ("control", "feataug")}
    compared = write(folder / ("run-" * 20), result, lines)
    assert main(["doctor", "--dataset", "scenes", "--samples", "4", "--output", str(folder)]) == 0
    return [write_page(demo, folder / "demo.html"), write_page(compared, folder / "compare.html"), folder / "doctor.html"]


@pytest.fixture(scope="module")
def window():
    with browser.Browser(PROGRAM) as opened:
        yield opened


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_is_readable(number, dark, width, pages, window):
    window.open(pages[number], width, dark)
    wide = window.value("document.scrollingElement.scrollWidth")
    assert wide <= window.value("innerWidth") == width
    ratio, where = window.value(CONTRAST)
    assert ratio >= 4.5, where
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert window.value(broken) == 0
    assert window.value("document.images.length") == (60, 0, 16)[number]
    # Letters of charts as they are shown. The doctor's page has none.
    smallest = "Math.min(...[...document.querySelectorAll('svg.chart')].map(s => 11 * s.getBoundingClientRect().width / 340))"
    assert number == 2 or window.value(smallest) >= 9
    assert window.complaints == []
    assert window.requests == []


def test_the_checks_above_find_what_is_wrong(window, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<p style="color:#ccc;width:3000px">pale</p><script>console.error("x")</script><img src="http://127.0.0.1:9/x.png">'
    )
    before = len(window.complaints), len(window.requests)
    window.open(page, 400)
    assert window.value("document.scrollingElement.scrollWidth") > 400
    assert window.value(CONTRAST)[0] < 4.5
    assert len(window.complaints) > before[0]
    assert len(window.requests) > before[1]
    del window.complaints[:], window.requests[:]
