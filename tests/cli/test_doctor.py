"""``feataug doctor``: what it counts, what it complains about, and its page."""

import json

import numpy as np
import pytest
from PIL import Image

from feataug.cli.main import main
from tests.support.image_files import image, mask

SIZE = (6, 8)


def pair(root, split, name, labels):
    """An image, and a mask whose rows have the given labels."""
    image(root / split / "images" / f"{name}.png")
    (root / split / "masks").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(np.array(labels, np.uint8)[:, None], SIZE[1], 1)).save(root / split / "masks" / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "set"
    pair(folder, "train", "a", [0, 0, 0, 2, 2, 255])
    pair(folder, "train", "b", [0, 0, 0, 0, 0, 0])
    pair(folder, "val", "c", [0, 1, 1, 1, 2, 2])
    return folder


def doctor(root, capsys, *options, code=0):
    assert main(["doctor", "--data", str(root), "--dataset", "folder", "--output", str(root.parent / "out"), *options]) == code
    return capsys.readouterr().out


CLASSES = ("--classes", "road", "car", "sky")


def test_pixels_samples_and_absent_classes_are_counted(root, capsys):
    text = doctor(root, capsys, *CLASSES)
    assert text.splitlines() == [
        "train: 2 images with masks, all read; rows x columns: 6 x 8 (2)",
        "  road    75.00 % of pixels, in 2 of 2 samples",
        "  car      0.00 % of pixels, in 0 of 2 samples",
        "  sky     16.67 % of pixels, in 1 of 2 samples",
        "  void     8.33 % of pixels, in 1 of 2 samples",
        "  ! Classes without a pixel: car.",
        "val: 1 images with masks, all read; rows x columns: 6 x 8 (1)",
        "  road    16.67 % of pixels, in 1 of 1 samples",
        "  car     50.00 % of pixels, in 1 of 1 samples",
        "  sky     33.33 % of pixels, in 1 of 1 samples",
        "  void     0.00 % of pixels, in 0 of 1 samples",
        f"written: {root.parent / 'out' / 'doctor.html'}",
    ]
    found = json.loads((root.parent / "out" / "result.json").read_text())
    assert found["train"]["pixels"] == {"road": 72, "car": 0, "sky": 16, "void": 8}
    assert found["val"]["samples"] == {"road": 1, "car": 1, "sky": 1, "void": 0}
    assert (found["train"]["images"], found["train"]["read"], found["train"]["sizes"]) == (2, 2, [[6, 8, 2]])


def test_without_names_it_lists_the_labels_that_occur(root, capsys):
    lines = doctor(root, capsys).splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [["label", "0"], ["label", "1"], ["label", "2"], ["void", "8.33"]]
    assert "Name them with --classes, 3 names in the order of the labels." in lines


def test_what_cannot_be_read_is_said_and_the_rest_is_counted(root, capsys):
    pair(root, "train", "d", [7] * 6)
    image(root / "train" / "images" / "e.png")
    Image.new("L", (4, 4)).save(root / "train" / "masks" / "e.png")
    text = doctor(root, capsys, *CLASSES)
    assert "  ! 2 of 4 samples cannot be read." in text
    assert "    MaskedImages: an image and its mask differ in size." in text
    assert "  road    75.00 % of pixels, in 2 of 2 samples" in text
    page = (root.parent / "out" / "doctor.html").read_text()
    assert "2 of 4 samples cannot be read." in page
    assert "differ in size" in page


def test_files_that_are_passed_over_are_named(root, capsys):
    mask(root / "train" / "masks" / "alone.png")
    (root / "train" / "images" / "notes.txt").write_text("x")
    text = doctor(root, capsys, *CLASSES)
    assert f"  passed over in {root / 'train' / 'masks'}: 1 images or masks without a partner or of another split, such as alone.png" in text
    assert f"  passed over in {root / 'train' / 'images'}: 1 of other kinds (1 .txt)" in text
    assert f"passed over in {root / 'val'}" not in text


def test_sizes_that_differ_are_a_warning(root, capsys):
    for folder in ("images", "masks"):
        Image.new("RGB" if folder == "images" else "L", (4, 4)).save(root / "train" / folder / "small.png")
    text = doctor(root, capsys, *CLASSES)
    assert "rows x columns: 6 x 8 (2), 4 x 4 (1)" in text
    assert "  ! Samples differ in size: batches need transforms that make all alike, such as --size." in text


def test_of_many_samples_some_are_read(root, capsys):
    text = doctor(root, capsys, *CLASSES, "--samples", "1")
    assert "train: 2 images with masks, 1 of them read" in text
    assert "  ! Classes without a pixel in the 1 samples that were read: car." in text
    assert "1 of them read" not in doctor(root, capsys, *CLASSES, "--samples", "1", "--all")


def test_one_split_is_enough_and_the_other_is_explained(root, capsys):
    (root / "val").rename(root / "later")
    text = doctor(root, capsys, *CLASSES)
    assert "train: 2 images with masks, all read" in text
    assert "val: feataug: no images and masks of the split 'val' were found." in text
    (root / "train").rename(root / "other")
    assert main(["doctor", "--data", str(root), "--dataset", "folder"]) == 1
    assert "MissingDataError: feataug: no images and masks of the split 'train' were found." in capsys.readouterr().err


def test_the_page_shows_pictures_and_takes_names_as_text(root, capsys):
    doctor(root, capsys, "--classes", "<script>alert(1)</script>", "car", "sky")
    page = (root.parent / "out" / "doctor.html").read_text()
    assert "<script" not in page
    assert page.count("<img") == 6
    assert 'alt="mask, sample 2"' in page


def test_the_scenes_that_the_package_draws(tmp_path, capsys):
    assert main(["doctor", "--dataset", "scenes", "--samples", "4", "--output", str(tmp_path)]) == 0
    assert "train: 256 images with masks, 4 of them read; rows x columns: 96 x 128 (4)" in capsys.readouterr().out
