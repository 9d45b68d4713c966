"""Take the pictures of a run's page that docs/report.md shows: the beginning, at the width of a desk and, dark, at that of a phone.

    python -m docs.drawing.screenshots runs/demo

Needs a Chromium, as tests/reporting/test_browser.py does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from feataug.reporting.page import write_page
from tests.support import browser

DOCS = Path(__file__).parents[1]
# Width and height in pixels, dark or light.
WINDOWS = {"report-1400.png": (1400, 2000, False), "report-400.png": (400, 1600, True)}


def main(folder: Path) -> None:
    program = browser.find()
    if program is None:
        sys.exit(f"no browser: none of {', '.join(browser.NAMES)} was found, and FEATAUG_BROWSER is not set")
    page = write_page(folder)
    with browser.Browser(program) as window:
        for name, (width, height, dark) in WINDOWS.items():
            window.open(page, width, dark, height)
            window.picture(DOCS / name, whole=False)
            print(DOCS / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
