"""Which files belong to a data set: hidden and linked folders, suffixes, twins, and what errors say was passed over."""

import os

import pytest

from feataug.data import Cityscapes, Images, MaskedImages, MaskFolder
from feataug.errors import ConfigError, MissingDataError
from tests.support.image_files import error_of, image, mask, pairs, read, stems

IMAGE_KINDS = "*.png, *.jpg, *.jpeg, *.tif, *.tiff, *.bmp, *.webp"


@pytest.mark.parametrize("place", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "x/.git"])
def test_what_systems_leave_is_passed_over(tmp_path, place):
    pairs(tmp_path, "a", "x/b")
    pairs(tmp_path, f"{place}/a", "._a")
    (tmp_path / "i/Thumbs.db").write_bytes(b"")
    data = read(tmp_path)
    assert [stems(data), len(MaskFolder(tmp_path / "m", "abc")), len(Images(tmp_path / "i"))] == [["a", "b"], 2, 2]


def test_a_data_set_below_a_hidden_folder(tmp_path):
    pairs(tmp_path / ".cache", "a")
    assert stems(read(tmp_path / ".cache")) == ["a"]


def test_linked_folders_and_files_are_followed(tmp_path):
    store = tmp_path / "store"
    pairs(store, "b/x", "b/y", "c/z")
    pairs(tmp_path, "a/x")
    for kind in "im":
        os.symlink(store / kind / "b", tmp_path / kind / "b")
    os.symlink(store / "i/c/z.jpg", tmp_path / "i/a/z.jpg")
    os.symlink(store / "m/c/z.png", tmp_path / "m/a/z.png")
    assert [file.relative_to(tmp_path / "i").as_posix() for file in read(tmp_path).image_files] == [
        "a/x.jpg", "a/z.jpg", "b/x.jpg", "b/y.jpg",
    ]  # fmt: skip


def test_links_in_a_circle_end_and_count_nothing_twice(tmp_path):
    pairs(tmp_path, "a/x", "b/y")
    for kind in "im":
        os.symlink(tmp_path / kind, tmp_path / kind / "a/up")
        os.symlink(tmp_path / kind / "b", tmp_path / kind / "a/beside")
        os.symlink(tmp_path / kind / "a", tmp_path / kind / "b/beside")
    assert stems(read(tmp_path)) == ["x", "y"]


def test_a_link_that_leads_nowhere(tmp_path):
    pairs(tmp_path, "a")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "i/b.jpg")
    assert error_of(lambda: read(tmp_path), MissingDataError) == (
        f"MaskedImages: a file is a broken link.\n  given:   {tmp_path / 'i/b.jpg'} -> {tmp_path / 'gone.jpg'}\n"
        "  needed:  the file"
    )


def test_cityscapes_whose_cities_are_links(tmp_path):
    for part, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        file = tmp_path / "store" / part / f"ulm_000000_000019_{ending}.png"
        (image if part == "leftImg8bit" else mask)(file)
        (tmp_path / part / "train").mkdir(parents=True)
        os.symlink(file.parent, tmp_path / part / "train/ulm")
    assert len(Cityscapes(tmp_path)) == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG", ".jpeg", ".tif", ".TIFF", ".bmp", ".webp"])
def test_suffixes_of_images(tmp_path, suffix):
    pairs(tmp_path, "a", "b.left", suffix=suffix)
    assert stems(read(tmp_path)) == ["a", "b.left"]


@pytest.mark.parametrize("suffix", [".PNG", ".tif", ".Tiff", ".bmp"])
def test_suffixes_of_masks(tmp_path, suffix):
    image(tmp_path / "i/a.jpg")
    mask(tmp_path / f"m/a{suffix}")
    assert read(tmp_path).mask(0).unique().tolist() == [1]


def test_two_files_of_one_name(tmp_path):
    pairs(tmp_path, "a", "b")
    image(tmp_path / "i/b.png")
    text = (
        "MaskedImages: two files have the same name.\n"
        f"  given:   {tmp_path / 'i/b.jpg'} and {tmp_path / 'i/b.png'}\n"
        "  needed:  one file for each name, whatever its suffix\n"
        "Move one of them out of the folder, or choose one kind with suffixes=."
    )
    assert error_of(lambda: read(tmp_path)) == text
    assert [file.suffix for file in read(tmp_path, suffixes=(".jpg", ".png")).image_files] == [".jpg", ".jpg"]
    assert error_of(lambda: Images(tmp_path / "i")) == text.replace("MaskedImages", "Images")
    assert len(Images(tmp_path / "i", suffixes=".JPG")) == 2
    mask(tmp_path / "m/b.tif")
    text = f"given:   {tmp_path / 'm/b.png'} and {tmp_path / 'm/b.tif'}\n"
    assert text in error_of(lambda: MaskFolder(tmp_path / "m", "abc"))
    assert text in error_of(lambda: read(tmp_path, suffixes=(".jpg", None)))


def test_pictures_of_masks_beside_them_are_no_masks(tmp_path):
    pairs(tmp_path, "a")
    image(tmp_path / "m/a.jpg")  # a preview: JPEG holds no labels
    assert [file.suffix for file in read(tmp_path).mask_files] == [".png"]


def test_images_and_masks_in_one_folder_by_suffix(tmp_path):
    for name in "ab":
        image(tmp_path / f"{name}.jpg")
        mask(tmp_path / f"{name}.png")
    data = MaskedImages(tmp_path, tmp_path, "abc")
    assert [(i.name, m.name) for i, m in zip(data.image_files, data.mask_files, strict=True)] == [("a.jpg", "a.png"), ("b.jpg", "b.png")]
    mask(tmp_path / "b.tif")
    for name in "ab":
        (tmp_path / f"{name}.jpg").unlink()
    mask(tmp_path / "a.tif")
    assert error_of(lambda: MaskedImages(tmp_path, tmp_path, "abc")) == (
        f"MaskedImages: the folder holds no images.\n  given:   {tmp_path}, where these were skipped: 4 of other kinds (2 .png, 2 .tif)\n"
        "  needed:  files named *.jpg, *.jpeg\n"
        'Images and masks in one folder are distinguished by endings= of their names, or by suffixes=, such as (".png", ".tif").'
    )
    assert len(MaskedImages(tmp_path, tmp_path, "abc", suffixes=(".png", ".tif"))) == 2


@pytest.mark.parametrize("endings", [("", "_mask"), ("_img", "_mask"), ("_img", "")])
def test_images_and_masks_in_one_folder_by_ending(tmp_path, endings):
    for name in ("a", "b/c"):
        image(tmp_path / f"{name}{endings[0]}.png")
        mask(tmp_path / f"{name}{endings[1]}.png")
    data = MaskedImages(tmp_path, tmp_path, "abc", endings=endings)
    assert stems(data) == [f"a{endings[0]}", f"c{endings[0]}"]
    assert [file.stem for file in data.mask_files] == [f"a{endings[1]}", f"c{endings[1]}"]


@pytest.mark.parametrize("place", [("", "masks"), ("images", "")])
def test_one_folder_within_the_other(tmp_path, place):
    image(tmp_path / place[0] / "a.jpg")
    mask(tmp_path / place[1] / "a.png")
    assert stems(MaskedImages(tmp_path / place[0], tmp_path / place[1], "abc")) == ["a"]


@pytest.mark.parametrize(
    ("images", "masks", "advice"),
    [
        (("a.jpg", "b.jpg"), ("a_mask.png", "b_mask.png"), "The names seem to end differently: endings=('', '_mask')."),
        (("a_img.jpg", "b_img.jpg"), ("a_gt.png", "b_gt.png"), "The names seem to end differently: endings=('_img', '_gt')."),
        (("img1.jpg", "img2.jpg"), ("img3.png", "img4.png"), "Add the masks, or move these images out of the folder."),
        (("A.jpg",), ("a.png",), "Masks of these names differ in upper and lower case: rename them."),
        (
            ("x/a.jpg",),
            ("a.png",),
            "Masks of these names are in other subfolders: images and masks must have the same subfolders.",
        ),
        (
            ("a.png",),
            ("a.jpg",),
            "Masks of these names are there as JPEG, which changes labels: write them as PNG from the original labels.",
        ),
        (
            ("a.jpg", "b.jpg"),
            ("a.png",),
            "Add the masks, or list the images that have one: names= takes a list, or a file such as VOC's train.txt.",
        ),
    ],
)
def test_advice_for_images_without_masks(tmp_path, images, masks, advice):
    for name in images:
        image(tmp_path / "i" / name)
    for name in masks:
        mask(tmp_path / "m" / name)
    text = error_of(lambda: read(tmp_path), MissingDataError)
    assert text.split("\n")[-1] == advice
    if "endings" in advice:
        assert len(read(tmp_path, endings=eval(advice.partition("=")[2].rstrip(".")))) == len(images)


def test_errors_say_what_was_passed_over(tmp_path):
    pairs(tmp_path, "a_x", ".hidden")
    (tmp_path / "m/notes.txt").write_text("")
    (tmp_path / "m/list").write_text("")
    (tmp_path / "m/a_y.png").write_bytes((tmp_path / "m/a_x.png").read_bytes())
    assert error_of(lambda: MaskFolder(tmp_path / "m", "abc", ending="_z")) == (
        f"MaskFolder: the folder holds no masks.\n  given:   {tmp_path / 'm'}, where these were skipped: 2 with another ending, such as "
        "a_x.png; 2 of other kinds (1 without suffix, 1 .txt); 1 hidden\n"
        "  needed:  files named *_z.png, *_z.tif, *_z.tiff, *_z.bmp, *_z.webp\nOther files are there: is the ending right ('_z')?"
    )
    image(tmp_path / "j/a.jpg")
    assert error_of(lambda: MaskFolder(tmp_path / "j", "abc")).endswith(
        "\nJPEG changes labels, so masks in it cannot be used: write them as PNG from the original labels."
    )


@pytest.mark.parametrize(
    ("there", "advice"),
    [("Images", "Did you mean {}/Images?"), ("imgs", "Did you mean {}/imgs?"), ("pictures", "{} holds the folders masks, pictures.")],
)
def test_a_folder_that_is_spelled_otherwise(tmp_path, there, advice):
    for name in (there, "masks"):
        (tmp_path / name).mkdir()
    assert error_of(lambda: MaskedImages(tmp_path / "images", tmp_path / "masks", "abc"), MissingDataError) == (
        f"MaskedImages: a folder is missing.\n  given:   {tmp_path / 'images'}\n  needed:  a folder of images and one of masks\n"
        + advice.format(tmp_path)
    )


def test_what_is_no_suffix(tmp_path):
    pairs(tmp_path, "a")
    for suffixes, given in ((("jpg", ".png"), "'jpg'"), (([], ".png"), "[]")):
        text = f"MaskedImages: suffixes must start with a dot.\n  given:   {given}\n  needed:  texts that start with a dot, such as \".png\""
        assert error_of(lambda suffixes=suffixes: read(tmp_path, suffixes=suffixes), ConfigError) == text
