"""Draw docs/figures/architecture.svg, the folders of the package and who imports whom: ``python -m docs.drawing.architecture``.

The layers come from the import contract in pyproject.toml, the dots from the package's import statements, and the folders' captions from the
headings of docs/architecture.md. ``--check`` writes nothing and fails if the picture is out of date.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE, PAGE = Path("docs/figures/architecture.svg"), Path("docs/architecture.md")
# It holds nothing but the version number.
LEFT_OUT = {"_version"}
# Pixels. The picture is as wide as GitHub shows a page on a small laptop.
WIDTH, ROW, COLUMN, HEAD, BOXES, MATRIX = 700, 25, 16, 84, 34, 400

STYLE = """
.page{fill:#fff}.even{fill:#f3f6f9}.odd{fill:#e6edf3}.box{fill:#dceefb;stroke:#2a6f97}.self{fill:#9cc5de}.dot{fill:#b5651d}.up{fill:#d00}
text{fill:#123}.name{font-weight:600}.faint{fill:#556}.line{stroke:#b9c4cf;stroke-width:.6}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.even{fill:#151b23}.odd{fill:#1f2731}.box{fill:#12364d;stroke:#58a6d6}.self{fill:#2f6c91}.dot{fill:#f0a35e}.up{fill:#ff6a69}
text{fill:#e6edf3}.faint{fill:#a9b4c0}.line{stroke:#3a4450}
}"""


def layers(root: Path) -> list[list[str]]:
    """The folders of each import layer, the highest layer first."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    lines = next(contract["layers"] for contract in settings if contract["type"] == "layers")
    found = [[name.strip() for name in line.split("|")] for line in lines]
    return [[name for name in layer if name not in LEFT_OUT] for layer in found]


def imported(tree: ast.AST) -> set[str]:
    """The folders of the package that a module's import statements name, wherever they stand in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("feataug.")}
    return found


def imports(root: Path) -> set[tuple[str, str]]:
    """Pairs of folders of which the first imports the second."""
    folders = {name for layer in layers(root) for name in layer}
    found = set()
    for path in sorted((root / "feataug").rglob("*.py")):
        folder = path.relative_to(root / "feataug").with_suffix("").parts[0]
        if folder in folders:
            found |= {(folder, other) for other in imported(ast.parse(path.read_text())) & folders - {folder}}
    return found


def captions(root: Path) -> dict[str, str]:
    """What each folder is for, from the headings of the page."""
    return dict(re.findall(r"(?m)^### `(\w+)`: (.+)$", (root / PAGE).read_text()))


def picture(root: Path) -> str:
    """The folders as boxes in their layers, and a matrix with a dot where the row's folder imports the column's."""
    stack, arrows, said = layers(root), imports(root), captions(root)
    order = [name for layer in stack for name in layer]
    if missing := [name for name in order if name not in said]:
        sys.exit(f"{PAGE} has no section for: {', '.join(missing)}. Add one with the heading '### `NAME`: what it is for'.")
    height = HEAD + ROW * len(order) + 30

    def middle(column: int) -> float:
        return MATRIX + COLUMN * (column + 0.5)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12" '
        'role="img" aria-labelledby="t d">',
        '<title id="t">The folders of feataug and their imports</title>',
        f'<desc id="d">{len(stack)} layers, the command line on top and errors at the bottom. A dot in a matrix shows that the folder of its '
        "row imports the folder of its column. Every import goes from a higher layer to a lower one.</desc>",
        f"<style>{STYLE}\n</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        f'<text class="faint" x="14" y="{HEAD - 10}">layer</text>',
        f'<text class="faint" x="{MATRIX - 12}" y="{HEAD - 10}" text-anchor="end">imports →</text>',
    ]
    top = HEAD
    for number, layer in enumerate(stack):
        tall = ROW * len(layer)
        shade = "odd" if number % 2 else "even"
        parts.append(f'<rect class="{shade}" y="{top}" width="{WIDTH}" height="{tall}"/>')
        parts.append(f'<text class="faint" x="22" y="{top + tall / 2 + 4:g}" text-anchor="middle">{len(stack) - number}</text>')
        top += tall
    for row, name in enumerate(order):
        y = HEAD + ROW * row
        parts.append(f'<rect class="box" x="{BOXES}" y="{y + 3}" width="88" height="{ROW - 6}" rx="4"/>')
        parts.append(f'<text class="name" x="{BOXES + 44}" y="{y + 17}" text-anchor="middle">{name}</text>')
        parts.append(f'<text x="{BOXES + 98}" y="{y + 17}">{escape(said[name])}</text>')
        x = middle(row)
        parts.append(f'<text class="name" transform="translate({x + 4:g} {HEAD - 6}) rotate(-90)">{name}</text>')
        parts.append(f'<path class="line" d="M{x - COLUMN / 2:g} {HEAD}V{HEAD + ROW * len(order)}"/>')
        parts.append(f'<rect class="self" x="{x - COLUMN / 2:g}" y="{y}" width="{COLUMN}" height="{ROW}"/>')
        for column, other in enumerate(order):
            if (name, other) in arrows:
                # A dot left of the diagonal would be an import upward, which import-linter refuses.
                kind = "dot" if column > row else "up"
                parts.append(f'<circle class="{kind}" cx="{middle(column):g}" cy="{y + ROW / 2:g}" r="4.5"/>')
    parts.append(f'<text class="faint" x="{MATRIX + 8}" y="{HEAD + ROW * len(order) - 34}">empty: nothing</text>')
    parts.append(f'<text class="faint" x="{MATRIX + 8}" y="{HEAD + ROW * len(order) - 19}">imports upward</text>')
    parts.append(
        f'<text class="faint" x="14" y="{height - 10}">A dot: the folder of this row imports the folder of this column. '
        f"{len(arrows)} dots, all to the right of the diagonal.</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the picture is out of date")
    args = parser.parse_args(argv)
    drawn, path = picture(root), root / PICTURE
    if not args.check:
        path.write_text(drawn)
    elif not path.exists() or path.read_text() != drawn:
        sys.exit(f"{PICTURE} is out of date: run python -m docs.drawing.architecture")


if __name__ == "__main__":
    main()
