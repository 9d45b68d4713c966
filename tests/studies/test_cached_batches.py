"""Cached batches equal the loader's, whoever wrote the files, and training can resume in the middle of a pass."""

from itertools import islice

import pytest
import torch

from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.training.batches import endless
from studies.lib.cached_batches import CachedBatches

SIZE = (16, 24)


def loader():
    return seeded_loader(Scenes(7, SIZE, transforms=train_transforms(SIZE)), 2, seed=3)


def same(first, second):
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("start", [0, 2, 4])
def test_they_are_the_loaders(tmp_path, start):
    plain = list(islice(endless(loader(), start), 8))
    for _ in range(2):  # computed, and read again
        cached = list(islice(endless(CachedBatches(loader(), tmp_path), start), 8))
        assert all(same(a, b) for a, b in zip(plain, cached, strict=True))
    assert not same(plain[0], plain[1])


def test_what_a_reader_writes_stays_its_own(tmp_path):
    first = next(iter(CachedBatches(loader(), tmp_path)))
    first[0].zero_()
    again = next(iter(CachedBatches(loader(), tmp_path)))
    assert again[0].abs().sum() > 0
    assert not list(tmp_path.glob("*.[0-9]*"))


def test_they_are_not_shared_by_processes(tmp_path):
    cached = CachedBatches(loader(), tmp_path)
    cached.start(0, rank=0, world_size=2)
    with pytest.raises(RuntimeError, match="read by one process, not shared by 2"):
        next(iter(cached))
