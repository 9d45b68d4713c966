import pytest
import torch
from torchvision.io import write_jpeg, write_png

from feataug.data import IDDLite, MaskedImages
from feataug.errors import ConfigError, DataError, MissingDataError
from tests.support import guards

DATA = guards.real("idd-lite")


def write(root, split, drive, name, label):
    image, mask = root / "leftImg8bit" / split / drive, root / "gtFine" / split / drive
    for folder in (image, mask):
        folder.mkdir(parents=True, exist_ok=True)
    write_jpeg(torch.full((3, 6, 8), 20 * label % 255, dtype=torch.uint8), str(image / f"{name}_image.jpg"))
    write_png(torch.full((1, 6, 8), label, dtype=torch.uint8), str(mask / f"{name}_label.png"))


def test_reads_the_official_folders(tmp_path):
    # The same name in two drives: paired by the whole path.
    write(tmp_path, "train", "84", "frame1", 2)
    write(tmp_path, "train", "9", "frame1", 6)
    write(tmp_path, "val", "9", "frame2", 255)
    (tmp_path / "gtFine" / "train" / "9" / "frame1_inst_label.png").write_bytes(b"not asked for")
    data = IDDLite(tmp_path, "train")
    assert len(data) == 2
    assert data.num_classes == len(data.palette) == 7
    assert [int(mask.unique()) for _, mask in data] == [2, 6]
    assert abs(int(data[0][0].float().mean()) - 40) < 4
    assert IDDLite(tmp_path, "val")[0][1].unique().tolist() == [255]


def test_a_label_that_idd_does_not_have_cannot_be_explained_by_the_user(tmp_path):
    write(tmp_path, "train", "9", "frame1", 8)
    with pytest.raises(DataError) as error:
        IDDLite(tmp_path)[0]
    assert str(error.value) == (
        "IDDLite: a mask holds labels that are no class.\n"
        f"  given:   [8] in {tmp_path / 'gtFine' / 'train' / '9' / 'frame1_label.png'}\n"
        "  needed:  0 .. 6, or 255 for void"
    )


def test_names_a_missing_mask(tmp_path):
    write(tmp_path, "train", "9", "frame1", 6)
    (tmp_path / "gtFine" / "train" / "9" / "frame1_label.png").unlink()
    with pytest.raises(MissingDataError) as error:
        IDDLite(tmp_path)
    assert str(error.value) == (
        "IDDLite: 1 of 1 images have no mask.\n  given:   frame1_image.jpg; masks: 0\n"
        f"  needed:  a file of the same name in {tmp_path / 'gtFine' / 'train'}, ending in _label\n"
        "Add the masks, or move these images out of the folder."
    )


def test_refuses_the_test_split(tmp_path):
    with pytest.raises(ConfigError, match="IDDLite: no such split"):
        IDDLite(tmp_path, "test")


def test_endings_pair_cityscapes_names(tmp_path):
    for folder, name in (("a", "ulm_leftImg8bit"), ("b", "ulm_gtFine_labelIds"), ("b", "ulm_gtFine_color")):
        (tmp_path / folder / "ulm").mkdir(parents=True, exist_ok=True)
        write_png(torch.ones(3 if folder == "a" else 1, 4, 4, dtype=torch.uint8), str(tmp_path / folder / "ulm" / f"{name}.png"))
    data = MaskedImages(tmp_path / "a", tmp_path / "b", ("x", "y"), endings=("_leftImg8bit", "_gtFine_labelIds"))
    assert [file.name for file in data.mask_files] == ["ulm_gtFine_labelIds.png"]


@guards.needs_real("idd-lite")
def test_the_real_folders():
    assert [len(IDDLite(DATA, split)) for split in ("train", "val")] == [1403, 204]
    image, mask = IDDLite(DATA, "val")[7]
    assert image.shape == (3, 227, 320)
    assert mask.shape == (227, 320)
