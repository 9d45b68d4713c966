"""Every block of code on the pages runs: as a doctest, by a test of its own page, or here."""

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import feataug
from feataug.cli.main import COMMANDS
from feataug.cli.parser import parse
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
# Pages whose blocks are run as they stand by tests of their own.
ELSEWHERE = {"README.md": "project/test_readme.py", "cut.md": "cutting/test_recipes.py", "loops.md": "project/test_loops.py"}
SIZE = (32, 48)


def blocks(page, *languages):
    return [text for language, text in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL) if language in languages]


def fragments():
    """Blocks of Python that are no doctest, and that nothing else runs."""
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        if page.name not in ELSEWHERE
        for number, block in enumerate(blocks(page, "python", "py"))
        if ">>> " not in block
    ]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


# What the pages use of albumentations, which is not installed for the tests.
USED = ("Compose", "PadIfNeeded", "RandomCrop", "HorizontalFlip", "Normalize")


class Named:
    """Takes any settings, and named arguments as albumentations does."""

    def __init__(self, *settings, **named):
        pass

    def __call__(self, **data):
        return data


@pytest.fixture
def user(tmp_path, monkeypatch, tiny_net):
    """What the pages take for given: data sets in their folders, a model that is cut, a generator."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    picture, labels = np.full((*SIZE, 3), 90), np.full(SIZE, 7)
    save(Path("cityscapes/leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png"), picture)
    save(Path("cityscapes/gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png"), labels)
    save(Path("cityscapes/leftImg8bit/train_extra/ulm/ulm_000000_000020_leftImg8bit.png"), picture)
    save(Path("Synscapes/img/class/1.png"), labels)
    save(Path("Synscapes/img/rgb-2k/1.png"), picture)
    save(Path("frames/1.png"), picture)
    for number, (images, masks) in enumerate([("images", "masks"), ("VOC2012/JPEGImages", "VOC2012/SegmentationClass")]):
        for name in ("0001", "0007"):
            save(Path(images, f"{name}.{('png', 'jpg')[number]}"), picture)
            save(Path(masks, f"{name}.png"), labels)
    save(Path("VOC2012/JPEGImages/0002.jpg"), picture)  # not in the list, and without a mask
    Path("VOC2012/ImageSets/Segmentation").mkdir(parents=True)
    Path("VOC2012/ImageSets/Segmentation/train.txt").write_text("0007\n0001\n")
    for folder, image, mask in (("jpg_and_png", "a.jpg", "a.png"), ("by_name", "b.png", "b_mask.png"), ("png_and_tif", "a.png", "a.tif")):
        save(Path(folder, image), picture)
        save(Path(folder, mask), labels)
    monkeypatch.setitem(sys.modules, "albumentations", SimpleNamespace(**dict.fromkeys(USED, Named)))
    classes = 11
    model = tiny_net(classes)
    crop = train_transforms(SIZE)
    train_set = Scenes(4, SIZE, transforms=crop)
    cut = feataug.split(model, at="body")
    return {
        "feataug": feataug,
        "classes": [str(number) for number in range(classes)],
        "torch": torch,
        "model": model,
        "cut": cut,
        "crop": crop,
        "train_set": train_set,
        "masks": feataug.DatasetMasks(train_set),
        "generator": feataug.FeatureGenerator(classes, cut.spec, width=4, depth=1),
        "loader": seeded_loader(Scenes(4, SIZE, transforms=eval_transforms()), 4),
    }


def test_there_are_fragments_and_pages_of_their_own():
    assert len(fragments()) >= 5
    assert all((ROOT / "tests" / path).exists() for path in ELSEWHERE.values())


@pytest.mark.parametrize("block", fragments())
def test_a_fragment_runs_as_it_stands(block, user):
    small = block.replace("(512, 1024)", str(SIZE))  # the same at a size that takes no time
    before = set(user)
    exec(small, user)
    for name in set(user) - before:
        if isinstance(user[name], feataug.MaskMixture):
            assert user[name].draw(4, torch.Generator().manual_seed(0)).shape == (4, *SIZE)


def lines_of_shell():
    """``feataug ...`` and ``python FILE ...``, each line of each page."""
    found = []
    for page in PAGES:
        text = [line for block in blocks(page, "sh", "bash", "console") for line in block.splitlines()]
        text += re.findall(r"`((?:feataug|python) [^`\n]+)`", page.read_text())
        found += [(page.name, line) for line in text]
    return found


def test_every_command_on_the_pages_parses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried = 0
    for page, line in lines_of_shell():
        words = shlex.split(re.split(r" > | *# ", line)[0])
        if words[:1] in (["torchrun"], ["accelerate"]):
            assert "feataug.cli.main" in words, (page, line)
            words = ["feataug", *words[words.index("feataug.cli.main") + 1 :]]
        if words[:1] != ["feataug"] or len(words) < 3 or page == "commands.md":
            continue  # that page has a test of its own, with its file of options
        if any(word.isupper() or "..." in word for word in words[1:]) and "DIR" not in words:
            assert words[1] in COMMANDS or words[1].isupper(), (page, line)
            continue  # a form to fill in
        args, _ = parse(words[1:])
        assert args.command in COMMANDS, (page, line)
        tried += 1
    assert tried >= 12


def scripts(line):
    """The scripts that a command runs, by file name or as modules of the repository: ``python -m studies.own.compare``."""
    for script, module in re.findall(r"python (?:(?!-)([\w/.]+\.py)|-m ((?:studies|docs|benchmarks|tests)[\w.]+))", line):
        yield script or f"{module.replace('.', '/')}.py"


def test_every_script_on_the_pages_exists():
    found = {"files": 0, "modules": 0}
    for page, line in lines_of_shell():
        for script in scripts(line):
            if Path(script).stem.isupper():
                continue  # a form to fill in
            assert (ROOT / script).exists(), (page, line)
            options = set(re.findall(r"(?<= )--[\w-]+", line.partition("#")[0])) - {"--help"}
            source = (ROOT / script).read_text()
            if script.startswith("studies/"):
                source += (ROOT / "studies" / "lib" / "setups.py").read_text()
            if script.startswith(("tests/", "studies/", "docs/", "examples/")):
                assert not {option for option in options if f'"{option}"' not in source}, (page, line)
            found["modules" if "python -m" in line else "files"] += 1
    assert found["files"] >= 1
    assert found["modules"] >= 10
    assert list(scripts("python -m studies.own.compare --data DIR; python examples/build.py NAME")) == [
        "studies/own/compare.py",
        "examples/build.py",
    ]
