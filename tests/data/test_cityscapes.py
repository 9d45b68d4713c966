"""The official folders of Cityscapes in miniature, against the official table of labels; and a real sample, where one is at hand."""


import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image

from feataug.data import Cityscapes, MaskFolder
from feataug.data.cityscapes import IDS
from feataug.errors import ConfigError, DataError, MissingDataError
from tests.support import guards

SAMPLE = guards.real("cityscapes-sample")
OFFICIAL = torchvision.datasets.Cityscapes.classes


def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file)
    return file


def train_ids(labels):
    """The official table of torchvision, pixel by pixel; -1 is stored as 255."""
    table = {entry.id % 256: entry.train_id % 256 for entry in OFFICIAL}
    return torch.tensor([[table[int(label)] for label in row] for row in labels])


def all_labels(size=(7, 5)):
    """Every label of Cityscapes, and 255."""
    return np.array([*range(34), 255], np.uint8).reshape(size)


def cityscapes(
    root, split="train", city="ulm", name="ulm_000000_000019", kind="gtFine", labels=None, files=("labelIds",), image=True
):
    labels = all_labels() if labels is None else labels
    if image:
        save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", np.full((*labels.shape, 3), 9))
    for file in files:
        save(root / kind / split / city / f"{name}_{kind}_{file}.png", labels)


def plain(mask):
    return mask.as_subclass(torch.Tensor)


def test_cityscapes_maps_every_label_as_the_official_table_does(tmp_path):
    cityscapes(tmp_path, files=("labelIds", "instanceIds", "color"))
    data = Cityscapes(tmp_path)
    image, mask = data[0]
    assert (image.shape, image.dtype, mask.dtype) == ((3, 7, 5), torch.uint8, torch.int64)
    assert torch.equal(plain(mask), train_ids(all_labels()))
    classes = [entry for entry in OFFICIAL if 0 <= entry.train_id < 255]
    assert data.classes == tuple(entry.name for entry in classes)
    assert data.palette == tuple(entry.color for entry in classes)
    assert (data.num_classes, data.labels) == (19, "ids")


@pytest.mark.parametrize("shift", [1, -1])
def test_a_table_shifted_by_one_is_found(tmp_path, monkeypatch, shift):
    cityscapes(tmp_path)
    monkeypatch.setattr("feataug.data.cityscapes.IDS", tuple(np.roll(IDS, shift).tolist()))
    assert not torch.equal(plain(Cityscapes(tmp_path).mask(0)), train_ids(all_labels()))


def test_cityscapes_labels_without_an_image_are_passed_over_and_cities_sorted(tmp_path):
    cityscapes(tmp_path, city="zurich", name="zurich_000000_000019")
    cityscapes(tmp_path, city="aachen", name="aachen_000000_000019")
    cityscapes(tmp_path, city="aachen", name="aachen_000001_000019", image=False)
    assert [file.parent.name for file in Cityscapes(tmp_path).image_files] == ["aachen", "zurich"]


def test_cityscapes_images_without_labels_are_an_error(tmp_path):
    cityscapes(tmp_path)
    cityscapes(tmp_path, name="ulm_000001_000019", files=("labelTrainIds",))
    with pytest.raises(MissingDataError) as error:
        Cityscapes(tmp_path)
    assert str(error.value) == (
        "Cityscapes: 1 of 2 images have no mask.\n"
        "  given:   ulm_000001_000019_leftImg8bit.png; masks: 1, such as ulm_000000_000019_gtFine_labelIds.png; skipped: 1 with "
        "another ending, such as ulm_000001_000019_gtFine_labelTrainIds.png\n"
        f"  needed:  a file of the same name in {tmp_path / 'gtFine' / 'train'}, ending in _gtFine_labelIds\n"
        "Add the masks, or move these images out of the folder."
    )


def test_cityscapes_train_ids_where_there_are_no_others_or_where_asked_for(tmp_path):
    drawn = np.array([[0, 18], [255, 7]])
    cityscapes(tmp_path, "val", labels=drawn, files=("labelTrainIds",))
    data = Cityscapes(tmp_path, "val")
    assert data.labels == "train_ids"
    assert torch.equal(plain(data.mask(0)), torch.from_numpy(drawn))
    cityscapes(tmp_path, "val", labels=np.array([[7, 33], [0, 20]]))
    data = Cityscapes(tmp_path, "val")
    assert data.labels == "ids"
    assert torch.equal(plain(data.mask(0)), torch.from_numpy(drawn))
    assert Cityscapes(tmp_path, "val", labels="train_ids").mask_files[0].name.endswith("_labelTrainIds.png")
    cityscapes(tmp_path, labels=np.array([[19]]), files=("labelTrainIds",))
    with pytest.raises(DataError) as error:  # labels of the other kind
        Cityscapes(tmp_path).mask(0)
    assert str(error.value).endswith("needed:  0 .. 18, or 255 for void")


def test_cityscapes_coarse_labels(tmp_path):
    for split in ("train", "train_extra", "val"):
        cityscapes(tmp_path, split, kind="gtCoarse")
        assert torch.equal(plain(Cityscapes(tmp_path, split, mode="coarse").mask(0)), train_ids(all_labels()))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mode": "medium"}, 'Cityscapes: no such mode.\n  given:   \'medium\'\n  needed:  "fine" or "coarse"'),
        (
            {"split": "train_extra"},
            'Cityscapes: no such split.\n  given:   \'train_extra\'\n  needed:  "train" or "val" of the fine labels',
        ),
        (
            {"split": "test", "mode": "coarse"},
            "Cityscapes: no such split.\n  given:   'test'\n"
            '  needed:  "train" or "train_extra" or "val" of the coarse labels\n'
            "Images without labels are read by feataug.data.Images.",
        ),
        ({"labels": "color"}, 'Cityscapes: no such labels.\n  given:   \'color\'\n  needed:  "ids", "train_ids" or None'),
    ],
)
def test_cityscapes_refuses_settings(tmp_path, settings, text):
    with pytest.raises(ConfigError) as error:
        Cityscapes(tmp_path, **settings)
    assert str(error.value) == text


def test_cityscapes_without_label_maps(tmp_path):
    cityscapes(tmp_path, files=("polygons", "color"))
    with pytest.raises(DataError) as error:
        Cityscapes(tmp_path)
    assert str(error.value) == (
        f"Cityscapes: the folder holds no labels.\n  given:   {tmp_path / 'gtFine' / 'train'}\n"
        "  needed:  files named *_gtFine_labelIds.png or *_gtFine_labelTrainIds.png"
    )
    with pytest.raises(DataError, match=r"files named \*_gtFine_labelTrainIds\.png$"):
        Cityscapes(tmp_path, labels="train_ids")


def test_cityscapes_unknown_label(tmp_path):
    cityscapes(tmp_path, labels=np.array([[34, 254, 7]]))
    data = Cityscapes(tmp_path)
    with pytest.raises(DataError) as error:
        data[0]
    assert str(error.value) == (
        f"Cityscapes: a mask holds labels that are no class.\n  given:   [34, 254] in {data.mask_files[0]}\n"
        "  needed:  0 .. 33, or 255 for void"
    )


@guards.needs_real("cityscapes-sample")
def test_the_real_cityscapes():
    data = Cityscapes(SAMPLE)
    assert (len(data), data.labels) == (3, "ids")
    # Of the validation labels one has no image, and one is there in both kinds.
    mapped, drawn = Cityscapes(SAMPLE, "val"), Cityscapes(SAMPLE, "val", labels="train_ids")
    assert [len(mapped), len(drawn), drawn.labels] == [1, 1, "train_ids"]
    image, mask = mapped[0]
    assert (image.shape, mask.shape) == ((3, 1024, 2048), (1024, 2048))
    differ = plain(mask != drawn.mask(0))
    assert 0.002 < float(differ.float().mean()) < 0.004
    # Where they differ some neighbour is of another class.
    labels = plain(mask)[None].float()
    edges = F.max_pool2d(labels, 3, 1, 1) != -F.max_pool2d(-labels, 3, 1, 1)
    assert float((edges[0] & differ).sum() / differ.sum()) > 0.999
    masks = MaskFolder(SAMPLE / "gtFine", data.classes, ending="_gtFine_labelIds", ids=IDS)
    assert len(masks) == 5
    with pytest.raises(DataError, match="16 bits a pixel"):
        MaskFolder(SAMPLE / "gtFine", data.classes, ending="_gtFine_instanceIds", ids=IDS)[0]
