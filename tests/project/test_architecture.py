"""The map for newcomers shows the import graph as it is, has a paragraph for every folder, and names files that exist."""

import re
import shutil
from pathlib import Path

import pytest

from docs.drawing import architecture

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / architecture.PAGE).read_text()


@pytest.fixture
def copy(tmp_path):
    """What the picture is drawn from, in a folder that a test may change."""
    shutil.copytree(ROOT / "feataug", tmp_path / "feataug", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (Path("pyproject.toml"), architecture.PAGE, architecture.PICTURE):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def test_the_picture_is_up_to_date():
    architecture.main(["--check"])


@pytest.mark.parametrize(
    "line",
    [
        "from feataug.masks import MaskMixture",
        "from feataug import masks",
        "import feataug.masks.sources",
        "def late():\n    import feataug.masks",
    ],
)
def test_a_new_import_makes_the_check_fail(copy, line):
    path = copy / "feataug" / "generation" / "critics.py"
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(SystemExit, match="out of date"):
        architecture.main(["--check"], root=copy)


def test_drawing_again_mends_it(copy):
    (copy / architecture.PICTURE).unlink()
    with pytest.raises(SystemExit, match="out of date"):
        architecture.main(["--check"], root=copy)
    architecture.main([], root=copy)
    architecture.main(["--check"], root=copy)


def test_an_import_upward_is_marked(copy):
    assert '"up"' not in architecture.picture(copy)
    path = copy / "feataug" / "errors.py"
    path.write_text(f"{path.read_text()}\nimport feataug.core\n")
    assert architecture.picture(copy).count('"up"') == 1


def test_every_folder_has_its_paragraph_and_its_layer(copy):
    stack = architecture.layers(ROOT)
    said = {name: int(layer) for name, layer in re.findall(r"### `(\w+)`: .+\n\nLayer (\d+)\. \S", PAGE)}
    assert said == {name: len(stack) - number for number, layer in enumerate(stack) for name in layer}
    inside = {path.stem for path in (ROOT / "feataug").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(said) == inside - architecture.LEFT_OUT - {"__init__", "__main__"}
    page = copy / architecture.PAGE
    page.write_text(page.read_text().replace("### `masks`", "### masks"))
    with pytest.raises(SystemExit, match="has no section for: masks"):
        architecture.picture(copy)


def test_every_file_on_the_page_exists():
    named = re.findall(r"`((?:feataug|docs)/[\w/.]+)`", PAGE)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_is_linked():
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "](docs/architecture.md)" in (ROOT / page).read_text()
    assert re.search(r"(?m)^architecture$", (ROOT / "docs" / "index.md").read_text())
