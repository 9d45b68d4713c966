"""What the site shows and the repository keeps elsewhere: README's first steps, the notebooks, and their pictures.

Its pages have links that hold in the repository, because they are read there, too. What lies elsewhere is copied into
``docs/notebooks/``, which is not kept, with its links adapted, as those of the own pages of the site are while Sphinx reads them.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import shutil
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
COPIES = HERE / "notebooks"


# Pages of the site that show a file from elsewhere in the repository.
SHOWN = {"README.md": "start.md", "CHANGELOG.md": "changelog.md", "studies/README.md": "studies.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def copy_all() -> None:
    """Fill ``docs/notebooks/``."""
    shutil.rmtree(COPIES, ignore_errors=True)
    COPIES.mkdir()
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        text = path.read_text()
        (COPIES / path.name).write_text(text.replace("](../docs/", "](../"))
        (COPIES / f"{path.stem}.png").write_bytes(largest_picture(text))
    shutil.copy(ROOT / "examples" / "timm_backbone.py", COPIES)
    for name, page in SHOWN.items():
        folder = posixpath.dirname(name)
        (COPIES / page.replace(".md", ".txt")).write_text(for_the_site((ROOT / name).read_text(), folder))


def for_the_site(text: str, folder: str) -> str:
    """A page's text with its links as the site needs them. A link to what is not on the site becomes its text.

    Args:
        text: Markdown with links that hold in the repository.
        folder: The page's folder in the repository.
    """

    def adapted(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in SHOWN:
            return f"[{words}]({SHOWN[path]}{anchor})"
        if path.startswith("docs/"):
            return f"[{words}]({path.removeprefix('docs/')}{anchor})"
        if path.startswith("examples/") and (COPIES / posixpath.basename(path)).is_file():
            return f"[{words}](notebooks/{posixpath.basename(path)})"
        return words

    return _LINK.sub(adapted, text)


def largest_picture(notebook: str) -> bytes:
    """The largest picture that a notebook's cells leave, as PNG.

    Raises:
        ValueError: there is none.
    """
    outputs = [output for cell in json.loads(notebook)["cells"] for output in cell.get("outputs", ())]
    pictures = [base64.b64decode("".join(output["data"]["image/png"])) for output in outputs if "image/png" in output.get("data", {})]
    if not pictures:
        raise ValueError("a notebook without a picture: the gallery has nothing to show for it")
    return max(pictures, key=_area)


def _area(png: bytes) -> int:
    """Width times height, from the PNG's header."""
    return int.from_bytes(png[16:20], "big") * int.from_bytes(png[20:24], "big")
