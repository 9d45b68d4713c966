"""The official folders of Synscapes in miniature."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from feataug import DatasetMasks
from feataug.data import Synscapes, train_transforms
from feataug.errors import DataError, MissingDataError

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


def plain(mask):
    return mask.as_subclass(torch.Tensor)


def synscapes(root, numbers, images=(), folder="rgb-2k", size=(8, 10)):
    for number in numbers:
        save(root / "img" / "class" / f"{number}.png", all_labels())
    for number in images:
        save(root / "img" / folder / f"{number}.png", np.full((*size, 3), number))


def test_synscapes_counts_by_number_and_fits_images_to_masks(tmp_path):
    synscapes(tmp_path, (1, 2, 10, 100), (1, 2, 10, 100))
    synscapes(tmp_path, (), (10,), "rgb", (7, 5))
    (tmp_path / "img" / "class" / "._1.png").write_bytes(b"what macOS leaves beside a file")
    data = Synscapes(tmp_path)
    assert data.numbers == [1, 2, 10, 100]
    assert [int(image.float().mean()) for image, _ in data] == data.numbers
    assert all(image.shape[1:] == mask.shape == (7, 5) for image, mask in data)
    assert [tuple(data.image(index).shape[1:]) for index in range(4)] == [(8, 10), (8, 10), (7, 5), (8, 10)]
    assert all(torch.equal(plain(mask), train_ids(all_labels())) for _, mask in data)
    assert data.num_classes == len(data.palette) == 19


def test_synscapes_resizes_without_aliasing(tmp_path):
    save(tmp_path / "img" / "class" / "1.png", np.full((16, 16), 7))
    stripes = np.zeros((16, 64, 3), np.uint8)
    stripes[:, ::4] = 255  # every fourth column: what is merely sampled is black or white
    save(tmp_path / "img" / "rgb-2k" / "1.png", stripes)
    image, _ = Synscapes(tmp_path)[0]
    assert float(image[:, :, 2:-2].float().mean()) == pytest.approx(255 / 4, abs=3)
    assert float(image[:, :, 2:-2].float().std()) < 3


def test_synscapes_masks_need_no_image(tmp_path):
    synscapes(tmp_path, range(1, 13), (3,))
    data = Synscapes(tmp_path, transforms=train_transforms((6, 4)))
    assert DatasetMasks(data).draw(3, torch.Generator().manual_seed(0)).shape == (3, 6, 4)
    assert data[2][0].shape == (3, 6, 4)
    with pytest.raises(MissingDataError) as error:
        data[0]
    folder = tmp_path / "img"
    assert str(error.value) == (
        f"Synscapes: a mask has no image.\n  given:   {folder / 'class' / '1.png'}\n"
        f"  needed:  {folder / 'rgb' / '1.png'} or {folder / 'rgb-2k' / '1.png'}\n"
        "Masks alone are read by mask(index), and by feataug.DatasetMasks."
    )


def test_synscapes_without_masks(tmp_path):
    (tmp_path / "img" / "class").mkdir(parents=True)
    save(tmp_path / "img" / "class" / "first.png", all_labels())
    with pytest.raises(DataError) as error:
        Synscapes(tmp_path)
    assert str(error.value) == (
        f"Synscapes: the folder holds no masks.\n  given:   {tmp_path / 'img' / 'class'}\n  needed:  files named 1.png, 2.png, ..."
    )
