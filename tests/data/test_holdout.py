"""``--holdout``: a folder without splits is divided in the same way by every command, and nothing that has splits is."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from feataug.cli.folder_dataset import folder_data
from feataug.cli.main import main
from feataug.cli.parser import parse
from feataug.data.holdout import hold_out
from feataug.data.split_layouts import find_layout, find_undivided
from feataug.errors import ConfigError, DataError, MissingDataError


def write(root, images="images", masks="masks", count=10):
    for folder in (images, masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"frame {number}"  # a blank: lists of names may hold two names in a line
        Image.new("RGB", (8, 6)).save(root / images / f"{name}.jpg")
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) % 3).save(root / masks / f"{name}.png")


def options(root, *more):
    words = ["--encoder", "x", "--data", str(root), "--dataset", "folder", "--classes", "road", "sky", "car"]
    return parse(["finetune", *words, *more])[0]


def stems(data):
    return [file.stem for file in data.image_files]


@given(st.sets(st.text(min_size=1), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_every_name_is_in_one_part(names, share):
    names = sorted(names)
    train, val = hold_out(names, share)
    assert sorted(train + val) == names
    assert train
    assert len(val) == min(max(round(share * len(names)), 1), len(names) - 1)
    shuffled = random.Random(0).sample(names, len(names))
    assert [set(part) for part in hold_out(shuffled, share)] == [set(train), set(val)]


def test_few_names_change_sides_when_one_is_added():
    names = [f"{number:04}" for number in range(200)]
    before, after = set(hold_out(names, 0.2)[1]), set(hold_out([*names, "another"], 0.2)[1])
    assert len(before ^ after) <= 2


def test_it_refuses_what_cannot_be_divided():
    with pytest.raises(DataError) as error:
        hold_out(["a"], 0.5)
    assert str(error.value) == "hold_out: too few images to divide.\n  given:   1\n  needed:  at least 2"
    for share in (0, 1, float("nan"), True, "0.2"):
        with pytest.raises(ConfigError, match="hold_out: share is out of range"):
            hold_out(["a", "b"], share)


@pytest.mark.parametrize("folders", [("images", "masks"), ("JPEGImages", "SegmentationClass"), ("pictures/all", "truth/all")])
def test_a_folder_without_splits(tmp_path, folders):
    write(tmp_path, *folders)
    more = [] if folders[0] != "pictures/all" else ["--folders", *folders]
    args = options(tmp_path, "--holdout", "0.3", *more)
    train, val = (folder_data(args, split, None) for split in ("train", "val"))
    assert (len(train), len(val)) == (7, 3)
    assert sorted(stems(train) + stems(val)) == [f"frame {number}" for number in range(10)]
    assert [file.stem for file in val.mask_files] == stems(val)
    # Another command, from the same folder.
    assert stems(folder_data(options(tmp_path, "--holdout", "0.3", *more), "val", None)) == stems(val)


def test_images_and_masks_in_one_folder(tmp_path):
    write(tmp_path, "all", "all")
    args = options(tmp_path, "--holdout", "0.2", "--folders", "all", "all")
    assert [len(folder_data(args, split, None)) for split in ("train", "val")] == [8, 2]


@pytest.mark.parametrize(
    ("more", "split", "given", "needed"),
    [
        ([], "test", "the split test", "train and val, the splits that it makes"),
        (["--names", "a.txt"], "train", "--holdout and --names", "one of them: both divide the images"),
        (["--eval-names", "a.txt"], "val", "--holdout and --eval-names", "one of them: both divide the images"),
    ],
)
def test_options_that_contradict_it(tmp_path, more, split, given, needed):
    write(tmp_path)
    with pytest.raises(ConfigError) as error:
        folder_data(options(tmp_path, "--holdout", "0.2", *more), split, None)
    assert str(error.value) == f"feataug: --holdout does not fit.\n  given:   '{given}'\n  needed:  {needed}"


def test_folders_with_splits_are_not_divided_again(tmp_path):
    write(tmp_path, "images/train", "masks/train")
    with pytest.raises(ConfigError) as error:
        find_undivided(tmp_path)
    assert str(error.value) == (
        f"feataug: the folders are divided already.\n  given:   --holdout, and images/train and masks/train in {tmp_path}\n"
        "  needed:  no --holdout; or with --folders the folders to divide"
    )


def test_no_folders_and_several(tmp_path):
    with pytest.raises(MissingDataError) as missing:
        find_undivided(tmp_path)
    assert str(missing.value) == (
        f"feataug: no folders of images and masks were found.\n  given:   {tmp_path}, which is empty\n  needed:  images and masks\n"
        "Name other folders with --folders IMAGES MASKS, such as --folders pictures truth."
    )
    write(tmp_path)
    write(tmp_path, masks="labels")
    with pytest.raises(ConfigError) as several:
        find_undivided(tmp_path)
    assert str(several.value) == (
        "feataug: several folders may hold the images or the masks.\n"
        f"  given:   in {tmp_path}: images and labels; images and masks\n  needed:  one of them\n"
        "Choose with --folders IMAGES MASKS, such as --folders images masks."
    )


def test_the_error_of_a_folder_without_splits_names_the_option(tmp_path):
    write(tmp_path)
    with pytest.raises(MissingDataError) as error:
        find_layout(tmp_path, "train")
    assert str(error.value).splitlines()[-1] == (
        "images and masks are not divided: --holdout 0.2 evaluates on a fifth of the images and trains on the others, or write the names of "
        "each split into a list."
    )


def test_only_a_folder_is_divided(tmp_path, capsys):
    assert main(["doctor", "--data", str(tmp_path), "--holdout", "0.2"]) == 1
    assert capsys.readouterr().err == (
        "ConfigError: feataug: --holdout does not fit.\n  given:   --dataset camvid, which has splits\n  needed:  --dataset folder\n"
    )


def test_the_doctor_looks_at_both_parts(tmp_path, capsys):
    write(tmp_path)
    assert main(["doctor", "--data", str(tmp_path), "--dataset", "folder", "--holdout", "0.2", "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "train: 8 images with masks" in text
    assert "val: 2 images with masks" in text
