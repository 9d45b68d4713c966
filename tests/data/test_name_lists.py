"""Lists of names: which images belong to a data set, as PASCAL VOC and CamVid write them, and what is no such list."""

import pytest

from feataug.data import Images, MaskFolder
from feataug.errors import ConfigError, MissingDataError
from tests.support.image_files import error_of, image, mask, pairs, read, stems

VOC = ["2007_000032", "2007_000039"]


@pytest.mark.parametrize(
    "names",
    [
        VOC,
        [f"{name}.jpg" for name in VOC],
        [f"JPEGImages/{name}.jpg" for name in VOC],
        [f"/data/VOC2012/JPEGImages/{name}.jpg /data/VOC2012/SegmentationClass/{name}.png" for name in VOC],
        [f"{name},{name}.png" for name in VOC],
        ["# a remark", "", *VOC],
    ],
)
def test_lists_of_names_as_files_and_as_lists(tmp_path, names):
    pairs(tmp_path, *VOC)
    for number in range(3):  # without a mask
        image(tmp_path / f"i/2008_{number}.jpg")
    file = tmp_path / "train.txt"
    file.write_text("\r\n".join(names[::-1]) + "\n")
    for given in (file, str(file)):
        assert stems(read(tmp_path, names=given)) == VOC[::-1]
    listed = [name for name in names if name and name[0] != "#"]
    assert stems(read(tmp_path, names=listed)) == VOC
    if " " not in listed[0] and "," not in listed[0]:
        assert len(MaskFolder(tmp_path / "m", "abc", names=listed[:1])) == 1
        assert len(Images(tmp_path / "i", names=file)) == 2


def test_lists_of_names_with_folders_endings_and_spaces(tmp_path):
    for city in ("ulm", "bonn"):
        image(tmp_path / f"i/{city}/a 1_left.png")
        mask(tmp_path / f"m/{city}/a 1_ids.png")
    endings = ("_left", "_ids")
    for name in ("ulm/a 1", "ulm/a 1_left.png", "x/ulm/a 1_ids.png", "ulm\\a 1"):
        assert [file.parent.name for file in read(tmp_path, endings=endings, names=[name]).image_files] == ["ulm"]
    given = ", ".join(str(tmp_path / f"i/{city}/a 1_left.png") for city in ("bonn", "ulm"))
    assert error_of(lambda: read(tmp_path, endings=endings, names=["a 1"])) == (
        f"MaskedImages: a name in the list matches several files.\n  given:   'a 1': {given}\n  needed:  the folders before the name, too"
    )


def test_names_that_are_not_there_and_what_is_no_list(tmp_path):
    pairs(tmp_path, "a", "b")
    assert error_of(lambda: read(tmp_path, names=["a", "c", "d"]), MissingDataError) == (
        "MaskedImages: 2 of 3 names of the list have no file.\n  given:   c, d\n"
        f"  needed:  images of these names in {tmp_path / 'i'}, which holds 2, such as a.jpg"
    )
    assert error_of(lambda: read(tmp_path, names=["a", "i/a.jpg"])) == (
        f"MaskedImages: the list names a file twice.\n  given:   {tmp_path / 'i/a.jpg'}\n  needed:  each name once"
    )
    assert error_of(lambda: read(tmp_path, names=["a -1"])) == (
        "MaskedImages: a line of the list holds more than names.\n  given:   'a -1'\n  needed:  a name, or an image and its mask\n"
        "Lists with a number after the name, as those in ImageSets/Main, say which images show a class: ImageSets/Segmentation has those "
        "with masks."
    )
    assert error_of(lambda: read(tmp_path, names=["a b"])) == (
        f"MaskedImages: the list and the folders disagree on a mask.\n  given:   b for {tmp_path / 'i/a.jpg'}\n"
        f"  needed:  {tmp_path / 'm/a.png'}\nImages and masks are paired by name; endings= says what their stems end in."
    )
    assert error_of(lambda: read(tmp_path, names="a"), MissingDataError) == (
        "MaskedImages: the list of names is missing.\n  given:   a\n  needed:  a text file with one name a line, or a list of names\n"
        'A single name is given as a list: names=["0001"].'
    )
    needed = "names as texts, or a text file with one name a line"
    for names, given in ((7, "7"), ([], "a list without a name"), ([1], "1 in a list"), (["a", " "], "' ' in a list")):
        text = f"MaskedImages: names is not a list of names.\n  given:   {given}\n  needed:  {needed}"
        assert error_of(lambda names=names: read(tmp_path, names=names), ConfigError) == text


def test_a_listed_image_without_a_mask(tmp_path):
    pairs(tmp_path, "a")
    image(tmp_path / "i/b.jpg")
    assert stems(read(tmp_path, names=["a"])) == ["a"]
    assert error_of(lambda: read(tmp_path, names=["b", "a"]), MissingDataError) == (
        "MaskedImages: 1 of 2 images have no mask.\n  given:   b.jpg; masks: 1, such as a.png\n"
        f"  needed:  a file of the same name in {tmp_path / 'm'}\nAdd the masks, or move these images out of the folder."
    )
