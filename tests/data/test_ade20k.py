"""The official folders of ADE20K in miniature, and a real sample, where one is at hand."""

import numpy as np
import pytest
from PIL import Image

from feataug.data import ADE20K
from feataug.data.ade20k import CLASSES
from feataug.errors import ConfigError, DataError, MissingDataError
from tests.support import guards

SAMPLE = guards.real("ade20k-sample")


def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file)
    return file


def ade20k(root, split, name, labels):
    save(root / "annotations" / split / f"{name}.png", labels)
    save(root / "images" / split / f"{name}.jpg", np.full((*np.shape(labels), 3), 9))


def test_ade20k_classes_begin_at_one(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    labels = np.arange(151).reshape(1, 151)
    ade20k(root, "training", "ADE_train_00000001", labels)
    ade20k(root, "validation", "ADE_val_00000001", labels[:, :100])
    expected = [255, *range(150)]
    for folder in (root, tmp_path, str(tmp_path)):
        data = ADE20K(folder)
        assert data.mask(0).flatten().tolist() == expected
        assert data[0][0].shape == (3, 1, 151)
    assert ADE20K(root, "val").mask(0).flatten().tolist() == expected[:100]
    assert (data.num_classes, len(set(data.classes)), len(set(data.palette))) == (150, 150, 150)
    assert [data.classes[number - 1] for number in (1, 13, 150)] == ["wall", "person", "flag"]


def test_ade20k_refuses(tmp_path):
    with pytest.raises(ConfigError) as error:
        ADE20K(tmp_path, "training")
    assert str(error.value) == 'ADE20K: no such split.\n  given:   \'training\'\n  needed:  "train" or "val"'
    ade20k(tmp_path, "validation", "a", np.array([[0, 149, 255]]))  # labels that someone reduced by one
    with pytest.raises(DataError) as error:
        ADE20K(tmp_path, "val").mask(0)
    assert str(error.value) == (
        "ADE20K: a mask holds labels that are no class.\n"
        f"  given:   [255] in {tmp_path / 'annotations' / 'validation' / 'a.png'}\n"
        "  needed:  1 .. 150, or 0 for void"
    )


def test_ade20k_names_of_the_file(tmp_path):
    ade20k(tmp_path, "validation", "a", np.array([[1]]))
    lines = [f"{number} \t0.1\t1\t1\tname {number}, other" for number in range(150, 0, -1)]
    file = tmp_path / "objectInfo150.txt"
    file.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines, ""]))
    assert ADE20K(tmp_path, "val").classes == tuple(f"name {number}" for number in range(1, 151))
    for damage in ("\n".join(lines[:100]), "\0" * 99, "", "\n".join(["", *lines[:-1], "1\t"])):
        file.write_text(damage)
        with pytest.raises(DataError) as error:
            ADE20K(tmp_path, "val")
        first, given, *rest = str(error.value).split("\n")
        assert first == "ADE20K: the names of the classes cannot be read."
        assert given.startswith(f"  given:   {file}, ")
        assert rest == [
            "  needed:  classes 1 .. 150, one per line, number first and names last, separated by tabs",
            "Download the file again, or remove it: the names are also part of the package.",
        ]


@guards.needs_real("ade20k-sample")
def test_the_real_ade20k():
    data = ADE20K(SAMPLE, "val")
    assert [tuple(mask.shape) for _, mask in data] == [(512, 683), (364, 500), (300, 400)]
    assert data.classes == CLASSES  # the file gives the names that the package has
    named = {data.classes[number] for number in data.mask(0).unique().tolist() if number != 255}
    assert named == {"wall", "building", "sky", "tree", "road", "grass", "plant"}
    with pytest.raises(MissingDataError, match=r"needed:  a folder that holds images/training and annotations/training$"):
        ADE20K(SAMPLE)
