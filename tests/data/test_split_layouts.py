"""The layouts that ``--dataset folder`` finds, its options, and what it says where none or several are there."""

import numpy as np
import pytest
from PIL import Image

from feataug.cli.folder_dataset import folder_data
from feataug.cli.parser import parse
from feataug.data.split_layouts import Layout, find_layout
from feataug.errors import ConfigError, DataError, MissingDataError


def write(root, images, masks, names=("a", "b"), labels=((0, 1), (1, 2))):
    for folder in (images, masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, pair in zip(names, labels, strict=False):
        Image.new("RGB", (8, 6)).save(root / images / f"{name}.jpg")
        Image.fromarray(np.repeat(np.array([pair], np.uint8), 24, 0).reshape(6, 8)).save(root / masks / f"{name}.png")


LAYOUTS = [
    ("train/images", "train/masks"), ("images/train", "masks/train"), ("img_dir/train", "ann_dir/train"), ("train/Images", "train/Labels"),
    ("Images/Training", "Annotations/Training"), ("train/imgs", "train/annotations"), ("images/train", "labels/train"),
    ("TRAIN/image", "TRAIN/mask"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "masks"), LAYOUTS)
def test_usual_layouts(tmp_path, images, masks):
    write(tmp_path, images, masks)
    assert find_layout(tmp_path, "train") == Layout(tmp_path / images, tmp_path / masks)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_the_split_val_by_its_other_names(tmp_path, name):
    write(tmp_path, f"{name}/images", f"{name}/masks")
    write(tmp_path, "train/images", "train/masks")
    assert find_layout(tmp_path, "val") == Layout(tmp_path / name / "images", tmp_path / name / "masks")


def test_the_spelling_that_was_asked_for_wins(tmp_path):
    for name in ("val", "validation"):
        write(tmp_path, f"images/{name}", f"masks/{name}")
    for name in ("val", "validation"):
        assert find_layout(tmp_path, name).images == tmp_path / "images" / name


def test_labels_of_boxes_are_no_masks(tmp_path):
    write(tmp_path, "train/images", "train/masks")
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text("0 0.5 0.5 1 1")
    assert find_layout(tmp_path, "train").masks == tmp_path / "train/masks"


@pytest.mark.parametrize("place", ["ImageSets/Segmentation", "splits", ""])
def test_voc_and_other_lists(tmp_path, place):
    write(tmp_path, "JPEGImages", "SegmentationClass")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    file = tmp_path / place / "train.txt"
    file.write_text("b\n")
    assert find_layout(tmp_path, "train") == Layout(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", file)
    other = tmp_path / "own.txt"
    assert find_layout(tmp_path, "train", other).names == other
    (tmp_path / "splits").mkdir(exist_ok=True)
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "splits/train.txt").write_text("a\n")
    with pytest.raises(ConfigError, match=r"several folders may hold the split 'train'\.\n  given:   in .*splits/train\.txt; train\.txt"):
        find_layout(tmp_path, "train")


def test_several_layouts_and_none(tmp_path):
    write(tmp_path, "train/images", "train/masks")
    write(tmp_path, "train/images", "train/labels")
    with pytest.raises(ConfigError) as error:
        find_layout(tmp_path, "train")
    assert str(error.value) == (
        "feataug: several folders may hold the split 'train'.\n"
        f"  given:   in {tmp_path}: train/images and train/labels; train/images and train/masks\n"
        "  needed:  one of them\n"
        "Choose with --folders IMAGES MASKS, such as --folders {split}/images {split}/masks."
    )
    with pytest.raises(MissingDataError) as missing:
        find_layout(tmp_path, "test")
    assert str(missing.value) == (
        "feataug: no images and masks of the split 'test' were found.\n"
        f"  given:   {tmp_path}, which holds train\n"
        "  needed:  SPLIT/images and SPLIT/masks, images/SPLIT and masks/SPLIT, or img_dir/SPLIT and ann_dir/SPLIT; or images, masks and "
        "test.txt with names\n"
        "Name other folders with --folders IMAGES MASKS, such as --folders pictures/{split} truth/{split}."
    )


def options(root, *more, command="finetune"):
    base = ["--model", "x"] if command == "evaluate" else ["--encoder", "x"]
    return parse([command, *base, "--data", str(root), "--dataset", "folder", "--classes", "road", "sky", "car", *more])[0]


def test_the_options_of_a_folder(tmp_path):
    write(tmp_path, "p/train", "t/train", ("a_rgb", "b_rgb"))
    for name in "ab":
        (tmp_path / f"t/train/{name}_rgb.png").rename(tmp_path / f"t/train/{name}_gt.png")
    given = ["--folders", "p/{split}", "t/{split}", "--endings", "_rgb", "_gt"]
    data = folder_data(options(tmp_path, *given), "train", None)
    assert [file.stem for file in data.image_files] == ["a_rgb", "b_rgb"]
    (tmp_path / "own.txt").write_text("b\n")
    data = folder_data(options(tmp_path, *given, "--names", str(tmp_path / "own.txt"), "--ids", "0=car", "1=0", "2=void"), "train", None)
    assert [file.stem for file in data.image_files] == ["b_rgb"]
    assert data.mask(0).unique().tolist() == [0, 255]
    # The list is that of one split.
    data = folder_data(options(tmp_path, *given, "--eval-names", str(tmp_path / "own.txt"), "--eval-split", "x"), "train", None)
    assert len(data) == 2
    evaluated = options(tmp_path, *given, "--eval-names", str(tmp_path / "own.txt"), "--eval-split", "train", command="evaluate")
    assert len(folder_data(evaluated, "train", None)) == 1


def test_colours_on_the_command_line(tmp_path):
    write(tmp_path, "train/images", "train/masks", ("a",))
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[0], pixels[1] = (9, 8, 7), (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "train/masks/a.png")
    for colors in (["9,8,7", "1,2,3", "0,0,0"], ["sky=1,2,3", "car=0,0,0", "0=9,8,7", "void=5,5,5"]):
        assert folder_data(options(tmp_path, "--colors", *colors), "train", None).mask(0).unique().tolist() == [0, 1, 2]


COLORS = "three numbers 0 .. 255 for each class, in their order: 128,64,128; or with names: road=128,64,128 void=0,0,0"
IDS = "a label and its class, each label once: 0=0, 255=1, 7=road, 0=void"


@pytest.mark.parametrize(
    ("option", "values", "given", "needed"),
    [
        ("--ids", ["0:0"], "'0:0'", IDS),
        ("--ids", ["0=0", "0=1"], "'0=1'", IDS),
        ("--ids", ["0=tree"], "'0=tree'", IDS),
        ("--colors", ["1,2"], "'1,2'", COLORS),
        ("--colors", ["1,2,300"], "'1,2,300'", COLORS),
        ("--colors", ["tree=1,2,3"], "'tree=1,2,3'", COLORS),
        ("--colors", ["road=1,2,3", "4,5,6"], "'some with names and some without'", COLORS),
    ],
)
def test_options_that_do_not_fit(tmp_path, option, values, given, needed):
    write(tmp_path, "train/images", "train/masks")
    with pytest.raises(ConfigError) as error:
        folder_data(options(tmp_path, option, *values), "train", None)
    assert str(error.value) == f"feataug: {option} does not fit.\n  given:   {given}\n  needed:  {needed}"


def test_binary_masks_and_too_many_classes(tmp_path):
    write(tmp_path, "train/images", "train/masks", labels=((0, 255), (0, 255)))
    with pytest.raises(DataError) as error:
        folder_data(options(tmp_path), "train", None)
    assert str(error.value) == (
        "feataug finetune: the masks hold one class and void only.\n"
        '  given:   label 0 ("road") and label 255, which was taken for void, in 2 of 2 masks; no pixel of sky, car\n'
        "  needed:  pixels of two classes or more\n"
        'If 255 stands for "sky", pass ids={0: 0, 255: 1} to MaskedImages (--ids 0=0 255=1).\n'
        "If it is void, say so: ids={0: 0, 1: 1, 2: 2, 255: 255}."
    )
    assert folder_data(options(tmp_path, "--ids", "0=0", "255=1"), "train", None).mask(0).unique().tolist() == [0, 1]
    assert folder_data(options(tmp_path, "--ids", "0=0", "255=void"), "train", None).mask(0).unique().tolist() == [0, 255]
    args = options(tmp_path)
    args.classes = [str(k) for k in range(300)]
    with pytest.raises(ConfigError) as error:
        folder_data(args, "train", None)
    assert str(error.value) == (
        "feataug: the commands use 255 as the label of void, so there can be at most 255 classes.\n  given:   300 classes\n  needed:  at most 255\n"
        "From Python, pass ignore_index=-1 to MaskedImages, train_transforms, FeatureGenerator and FeatureMixer."
    )
