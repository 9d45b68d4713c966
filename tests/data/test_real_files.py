"""Real files through each reader, where they are at hand: how many, their sizes, labels and colours, the share of void.

All figures were counted on the files themselves with Pillow and numpy, without the readers.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from feataug.data import ADE20K, CamVid, Cityscapes, IDDLite, Images, MaskedImages, MaskFolder, eval_transforms, seeded_loader
from feataug.data.cityscapes import IDS
from feataug.masks import DatasetMasks
from tests.support import guards

# A handful of files does not show every class of its data set, and may be said to.
pytestmark = pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")

READERS = {"camvid": CamVid, "idd-lite": IDDLite, "cityscapes-sample": Cityscapes, "ade20k-sample": ADE20K}
# Folder, split: number of pairs; of one of them the name, size, labels, pixels of void.
PAIRS = [
    ("camvid", "train", 367, "0001TP_006690", (360, 480), [0, 1, 2, 3, 4, 5, 6, 8, 9], 7980),
    ("camvid", "val", 101, "0016E5_07959", (360, 480), [*range(11)], 679),
    ("idd-lite", "train", 1403, "024541", (227, 320), [0, 2, 3, 4, 5, 6], 10),
    ("idd-lite", "val", 204, "903127", (227, 320), [*range(7)], 5),
    (
        "cityscapes-sample",
        "train",
        3,
        "aachen_000000_000019",
        (1024, 2048),
        [0, 1, 2, 5, 7, 8, 9, 10, 11, 12, 13, 18],
        127841,
    ),
    ("cityscapes-sample", "val", 1, "frankfurt_000000_000576", (1024, 2048), [0, 1, 2, 4, 5, 7, 8, 10, 12, 13, 18], 231959),
    ("ade20k-sample", "val", 3, "ADE_val_00000001", (512, 683), [0, 1, 2, 4, 6, 9, 17], 3613),
]
# Pixels of each class in the whole validation set, and of void.
COUNTS = {
    "camvid": ([1601620, 4531180, 98499, 5053176, 1521751, 2851125, 155724, 537197, 304716, 113531, 387010], 297271),
    "idd-lite": ([4709943, 355267, 238638, 1264972, 1769861, 3502566, 2974262], 3051),
}
# Mean red, green and blue of one image.
COLORS = [
    ("camvid", "0016E5_07959", (74.39, 79.82, 85.22)),
    ("idd-lite", "903127", (92.67, 94.01, 77.23)),
    ("cityscapes-sample", "frankfurt_000000_000576", (87.53, 93.96, 81.86)),
    ("ade20k-sample", "ADE_val_00000001", (103.72, 116.42, 129.07)),
]


def of(*rows: tuple) -> list:
    """Rows as parameters that are skipped where their data set is missing."""
    return [
        pytest.param(*row, marks=guards.needs_real(row[0]), id="-".join(part for part in row[:2] if isinstance(part, str)))
        for row in rows
    ]


def index_of(data: MaskedImages, stem: str) -> int:
    (index,) = [i for i, file in enumerate(data.image_files) if file.name.startswith(stem)]
    assert data.mask_files[index].name.startswith(stem)
    return index


@pytest.mark.parametrize(("name", "split", "count", "stem", "size", "labels", "void"), of(*PAIRS))
def test_pairs(name, split, count, stem, size, labels, void):
    data = READERS[name](guards.real(name), split)
    assert len(data) == count
    image, mask = data[index_of(data, stem)]
    assert (image.shape, image.dtype) == ((3, *size), torch.uint8)
    assert (mask.shape, mask.dtype) == (size, torch.int64)
    assert mask.unique().tolist() == [*labels, 255]
    assert int((mask == 255).sum()) == void


@pytest.mark.parametrize(("name", "stem", "colors"), of(*COLORS))
def test_colors(name, stem, colors):
    data = READERS[name](guards.real(name), "val")
    image = data.image(index_of(data, stem)).as_subclass(torch.Tensor)
    # Decoders of JPEG differ by a grey level here and there.
    assert image.float().mean((1, 2)).tolist() == pytest.approx(colors, abs=0.2)


@pytest.mark.parametrize("name", [pytest.param(name, marks=guards.needs_real(name)) for name in COUNTS])
def test_every_pixel_of_a_validation_set(name):
    data = READERS[name](guards.real(name), "val")
    found = sum(torch.bincount(data.mask(index).as_subclass(torch.Tensor).flatten(), minlength=256) for index in range(len(data)))
    classes, void = COUNTS[name]
    assert found[: data.num_classes].tolist() == classes
    assert int(found[255]) == void
    assert int(found.sum()) == sum(classes) + void


@guards.needs_real("camvid")
def test_a_folder_of_ones_own_reads_the_same():
    root, camvid = guards.real("camvid"), CamVid(guards.real("camvid"), "val")
    own = MaskedImages(root / "val", root / "valannot", camvid.classes, void=11)
    masks = MaskFolder(root / "valannot", camvid.classes, void=11)
    assert len(own) == len(masks) == len(Images(root / "val")) == 101
    for index in (0, 50, 100):
        assert torch.equal(own[index][0], camvid[index][0])
        assert torch.equal(own[index][1], camvid[index][1])
        assert torch.equal(masks[index], camvid.mask(index))
    drawn = DatasetMasks(masks).draw(4, torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 360, 480)
    assert any(torch.equal(drawn[0], mask) for mask in masks)


@pytest.mark.parametrize(
    ("name", "size"),
    of(("camvid", (120, 160)), ("idd-lite", (96, 128)), ("cityscapes-sample", (128, 256)), ("ade20k-sample", (96, 128))),
)
def test_batches(name, size):
    data = READERS[name](guards.real(name), "val", transforms=eval_transforms(size))
    images, masks = next(iter(seeded_loader(data, 3, shuffle=False)))
    count = min(3, len(data))
    assert (images.shape, masks.shape) == ((count, 3, *size), (count, *size))
    assert images.isfinite().all()
    # Nearest neighbours: no label that the files do not hold.
    assert set(masks.unique().tolist()) <= {*range(data.num_classes), 255}


@guards.needs_real("cityscapes-sample")
def test_masks_of_both_cities():
    masks = MaskFolder(
        guards.real("cityscapes-sample") / "gtFine",
        Cityscapes(guards.real("cityscapes-sample")).classes,
        ending="_gtFine_labelIds",
        ids=IDS,
    )
    assert [file.parent.name for file in map(Path, masks.mask_files)] == ["aachen"] * 3 + ["frankfurt"] * 2
