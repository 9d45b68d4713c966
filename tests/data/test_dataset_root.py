"""Wrong roots: each reader says what the folder holds, what it needs, and where that is if it is near."""

import pytest

from feataug.data import ADE20K, CamVid, Cityscapes, IDDLite, Synscapes
from feataug.errors import MissingDataError


def cityscapes(root):
    for part in ("leftImg8bit", "gtFine"):
        (root / part / "train" / "ulm").mkdir(parents=True)


HOLDS = "leftImg8bit/train and gtFine/train"


def test_wrong_roots_say_what_they_hold_and_where_the_data_lie(tmp_path):
    root = tmp_path / "data" / "cityscapes"
    cityscapes(root)
    expected = f"Cityscapes: folders are missing.\n  given:   {{}}\n  needed:  a folder that holds {HOLDS}"
    near = f"\nThe data are in {root}: pass that folder."
    cases = (
        (tmp_path / "data", "holds cityscapes", near),
        (root / "leftImg8bit", "holds train", near),
        (root / "gtFine" / "train", "holds ulm", near),
        (root / "nowhere", "is not a readable folder", near),
        (tmp_path, "holds data", ""),
    )
    for folder, holds, advice in cases:
        with pytest.raises(MissingDataError) as error:
            Cityscapes(folder)
        assert str(error.value) == expected.format(f"{folder}, which {holds}") + advice
    with pytest.raises(MissingDataError) as error:
        Cityscapes(root, "val")
    assert str(error.value) == (
        f"Cityscapes: folders are missing.\n  given:   {root}, which holds gtFine, leftImg8bit\n"
        "  needed:  a folder that holds leftImg8bit/val and gtFine/val"
    )


def test_archives_that_were_unpacked_into_two_folders(tmp_path):
    cityscapes(tmp_path)
    for name in ("leftImg8bit", "gtFine"):
        (tmp_path / f"{name}_trainvaltest").mkdir()
        (tmp_path / name).rename(tmp_path / f"{name}_trainvaltest" / name)
    for number in range(8):
        (tmp_path / f"x{number}.txt").write_text("")
    with pytest.raises(MissingDataError) as error:
        Cityscapes(tmp_path)
    assert str(error.value) == (
        "Cityscapes: folders are missing.\n"
        f"  given:   {tmp_path}, which holds gtFine_trainvaltest, leftImg8bit_trainvaltest, x0.txt, x1.txt, x2.txt, x3.txt, x4.txt, x5.txt "
        "and 2 more\n"
        f"  needed:  a folder that holds {HOLDS}\n"
        f"leftImg8bit/train is in {tmp_path / 'leftImg8bit_trainvaltest'}, gtFine/train is in {tmp_path / 'gtFine_trainvaltest'}: "
        "move them into one folder."
    )


@pytest.mark.parametrize(
    ("reader", "parts"),
    [
        (CamVid, "train and trainannot"), (IDDLite, HOLDS), (ADE20K, "images/training and annotations/training"),
        (Synscapes, "img/class"),
    ],
)  # fmt: skip
def test_every_reader_says_so(tmp_path, reader, parts):
    for part in parts.split(" and "):
        (tmp_path / "set" / part).mkdir(parents=True)
    with pytest.raises(MissingDataError) as error:
        reader(tmp_path)
    many = "folders are" if " and " in parts else "a folder is"
    assert str(error.value) == (
        f"{reader.__name__}: {many} missing.\n  given:   {tmp_path}, which holds set\n  needed:  a folder that holds {parts}\n"
        f"The data are in {tmp_path / 'set'}: pass that folder."
    )
