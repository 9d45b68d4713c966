"""Validation images that are trained on are found before anything is trained, and nothing else is taken for one."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from feataug.data import MaskedImages, Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.errors import DataError
from feataug.evaluation.comparison import leakage
from feataug.evaluation.comparison.leakage import check_leaks

SIZE = (16, 24)


def write(folder, seeds, name="{}"):
    """A folder of one image and mask for each seed."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / "images" / f"{name.format(seed)}.png")
        Image.fromarray(rng.integers(0, 3, SIZE, np.uint8)).save(folder / "masks" / f"{name.format(seed)}.png")
    return folder


def reader(folder, transforms=None):
    return MaskedImages(folder / "images", folder / "masks", ["a", "b", "c"], transforms=transforms)


def leak(val, **others):
    with pytest.raises(DataError) as error:
        check_leaks(val, others)
    return str(error.value)


def test_a_file_under_another_name_is_found(tmp_path):
    val, train = write(tmp_path / "val", range(4)), write(tmp_path / "train", range(10, 20))
    clean = seeded_loader(reader(train, train_transforms(SIZE)), 2)
    measured = seeded_loader(reader(val, eval_transforms()), 2, shuffle=False)
    assert check_leaks(measured, {"loader": clean}) == "files"
    for kind in ("images", "masks"):
        shutil.copy(val / kind / "2.png", train / kind / "renamed.png")
    shared = Subset(reader(train, train_transforms(SIZE)), [0, 3, 10])
    assert leak(measured, ceiling=seeded_loader(shared, 2)) == (
        "compare: ceiling holds images of the validation set.\n"
        f"  given:   1 of 3: {train / 'images' / 'renamed.png'} = {val / 'images' / '2.png'}\n"
        "  needed:  no image in both: figures on training images are too good\n"
        "Remove these images from one of the two. Left of = is the image there, right of it that of val_loader."
    )
    # Without that one the subset is clean, and so is the other part of the validation set.
    assert check_leaks(measured, {"ceiling": Subset(reader(train), [0, 3])}) == "files"
    assert check_leaks(DataLoader(Subset(reader(val), [0, 1])), {"ceiling": DataLoader(shared)}) == "files"
    # Sets within sets.
    inner = Subset(ConcatDataset([Subset(reader(train), [10, 1]), reader(train)]), [0])
    assert "1 of 1: " in leak(measured, ceiling=DataLoader(inner))


def test_the_same_files_are_found_by_path_and_through_links(tmp_path):
    val = write(tmp_path / "val", range(8))
    text = leak(reader(val), loader=reader(val))
    files = [str(val / "images" / f"{number}.png") for number in range(5)]
    assert f"given:   8 of 8: {', '.join(files)} and 3 more\n" in text
    os.symlink(val, tmp_path / "linked")
    assert "8 of 8" in leak(reader(val), loader=reader(tmp_path / "linked"))


def test_files_are_not_decoded_and_read_only_where_sizes_agree(tmp_path, monkeypatch):
    val, train = write(tmp_path / "val", range(4)), write(tmp_path / "train", range(10, 14))
    for number in range(10, 14):
        with open(train / "images" / f"{number}.png", "ab") as file:
            file.write(bytes(number))  # other sizes
    monkeypatch.setattr(MaskedImages, "image", lambda *args: pytest.fail("decoded"))
    monkeypatch.setattr(leakage.hashlib, "file_digest", lambda *args: pytest.fail("read"))
    assert check_leaks(reader(val), {"loader": reader(train)}) == "files"


def test_equal_tensors_are_found_in_every_kind_of_set():
    images, masks = torch.rand(6, 3, *SIZE), torch.zeros(6, *SIZE, dtype=torch.long)
    other = torch.rand(5, 3, *SIZE)
    other[3] = images[4]
    batches, flat = [(images[:3], masks[:3]), (images[3:], masks[3:])], list(zip(images, masks, strict=True))
    found = [(other[:2], masks[:2]), (other[2:], masks[2:5])]
    named = list(zip(other, masks, strict=False))
    for val in (batches, flat, DataLoader(flat, 2), TensorDataset(images, masks), Subset(flat, [4])):
        for leaking in (found, named, DataLoader(named, 2), TensorDataset(other, masks[:5]), seeded_loader(named, 2)):
            text = leak(val, ceiling=leaking)
            assert "given:   1 of 5: image 3 = image " in text
        assert check_leaks(val, {"ceiling": named[:3]}) == "images"
    # Mirrored, too.
    assert "image 0 = image 4" in leak(flat, ceiling=[(images[4].flip(-1), masks[0])])


def test_random_crops_do_not_hide_a_picture_that_is_there_without_them():
    val = Scenes(4, (32, 48), seed=1, transforms=eval_transforms())
    crops = train_transforms((16, 16))
    assert check_leaks(val, {"loader": Scenes(4, (32, 48), seed=0, transforms=crops)}) == "images"
    assert "given:   4 of 6: image 0, image 1, image 2, image 3\n" in leak(val, loader=Scenes(6, (32, 48), seed=1, transforms=crops))
    # The data set itself is as it was.
    assert val.transforms is not None


def test_what_says_nothing_is_no_leak():
    blank, masks = torch.ones(3, *SIZE), torch.zeros(SIZE, dtype=torch.long)
    rng_before = torch.get_rng_state()
    blanks = [(blank, masks)] * 3
    assert check_leaks(blanks, {"loader": blanks}) == "not possible"
    assert torch.equal(torch.get_rng_state(), rng_before)


class Unreadable(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise OSError("gone")


def test_where_it_cannot_be_known_it_is_said(tmp_path):
    data = [(torch.rand(3, *SIZE), torch.zeros(SIZE, dtype=torch.long)) for _ in range(3)]
    generator = (pair for pair in data)
    for unknown in (generator, Unreadable(), None, DataLoader(Unreadable())):
        assert check_leaks(data, {"loader": data[:0] or unknown}) == "not possible"
    # Bytes in files and normalised floats.
    files = reader(write(tmp_path / "val", range(3)))
    assert check_leaks(files, {"loader": data}) == "not possible"
    # The weakest check is named, and the others are made all the same.
    with pytest.raises(DataError, match="ceiling holds"):
        check_leaks(data, {"loader": generator, "ceiling": data})


def test_many_pictures_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(leakage, "MOST", 4)
    seen = []

    class Counted(Dataset):
        def __len__(self):
            return 100

        def __getitem__(self, index):
            seen.append(index)
            return torch.full((3, 4, 4), index / 100) + torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.long)

    assert check_leaks(Counted(), {"loader": Counted()}) == "images"
    assert sorted(set(seen)) == [0, 25, 50, 75]
    assert len(seen) == 8
