"""Batches follow from the seed and the epoch alone, wherever a pass starts and however many ranks share it."""

from itertools import combinations

import pytest
import torch
from torch.utils.data import Dataset

import feataug
from feataug.core.checks import check_loader
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import ConfigError
from feataug.training.batches import ask_for_first_epoch, part_of


def scenes(count=7):
    return Scenes(count, (16, 24), transforms=train_transforms((16, 24)))


def batches(loader, epoch=0, skip=0, rank=0, world_size=1):
    loader.batch_sampler.start(epoch, skip, rank, world_size)
    return list(loader)


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_follow_from_seed_and_epoch(num_workers):
    expected = [batches(seeded_loader(scenes(), 2, seed=3), epoch) for epoch in range(2)]
    assert len(expected[0]) == 3
    assert not equal(*expected)
    torch.manual_seed(12345)
    loader = seeded_loader(scenes(), 2, seed=3, num_workers=num_workers)
    assert equal(batches(loader, 1), expected[1])  # in another order, and after other draws
    torch.rand(100)
    assert equal(batches(loader, 0), expected[0])
    assert equal(batches(loader, 1, skip=2), expected[1][2:])
    assert equal(list(loader), expected[0])  # what was asked for holds for one pass


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_plain_loop_sees_new_crops_in_every_epoch(num_workers):
    expected = [batches(seeded_loader(scenes(), 2), epoch) for epoch in range(4)]
    assert not any(equal(a, b) for a, b in combinations(expected, 2))
    loader = seeded_loader(scenes(), 2, num_workers=num_workers)
    assert equal(list(loader), expected[0])
    # A trainer that resumes, a process of several, a measure: each asks for its own pass, and the loop goes on where it was.
    batches(loader, 3, skip=1, rank=1, world_size=2)
    assert equal(list(check_loader("test", loader)), expected[0])
    assert equal(list(part_of(loader)), expected[0])
    ask_for_first_epoch(loader)
    assert equal(list(loader), expected[0])
    assert equal(list(loader), expected[1])
    next(iter(loader))  # a pass that is left early is a pass
    assert equal(list(loader), expected[3])
    loader.batch_sampler.sampler.set_epoch(1)  # as Lightning and accelerate call it
    assert equal(list(loader), expected[1])
    assert equal(list(loader), expected[2])


def test_what_is_measured_does_not_depend_on_what_was_read_before():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, Scenes.num_classes, 1)
    loader = seeded_loader(scenes(8), 2)
    first = feataug.fit_class_bias(model, loader, Scenes.num_classes)
    other = seeded_loader(scenes(8), 2)
    other.batch_sampler.set_epoch(1)
    assert not torch.equal(feataug.fit_class_bias(model, other, Scenes.num_classes), first)  # other crops, another bias
    list(loader)
    assert torch.equal(feataug.fit_class_bias(model, loader, Scenes.num_classes), first)


def test_without_shuffle_every_pass_is_the_same():
    loader = seeded_loader(scenes(), 2, shuffle=False)
    assert equal(list(loader), list(loader))


def test_another_seed_gives_others():
    assert not equal(batches(seeded_loader(scenes(), 2, seed=3)), batches(seeded_loader(scenes(), 2, seed=4)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_generator_is_not_disturbed(num_workers):
    loader = seeded_loader(scenes(), 2, num_workers=num_workers)
    before = torch.get_rng_state()
    batches(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_gpu_is_seeded(monkeypatch):
    # A GPU's generator is the training loop's, for dropout: seeding it here would make arms differ.
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(3)
    assert seeds == [3]  # the spy works
    batches(seeded_loader(scenes(), 2))
    assert seeds == [3]


class Numbered(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor(index), torch.rand(())


@pytest.mark.parametrize(
    ("count", "batch_size", "shuffle", "sizes"),
    [
        (7, 2, True, [2, 2, 2]),
        (7, 2, False, [2, 2, 2, 1]),
        (6, 2, False, [2, 2, 2]),
        (3, 8, True, [3]),
        (3, 8, False, [3]),
    ],
)
def test_sizes_of_batches(count, batch_size, shuffle, sizes):
    loader = seeded_loader(Numbered(count), batch_size, shuffle=shuffle)
    found = batches(loader)
    assert [len(numbers) for numbers, _ in found] == sizes
    assert len(loader) == len(sizes)
    order = torch.cat([numbers for numbers, _ in found]).tolist()
    assert len(set(order)) == len(order)
    if not shuffle:
        assert order == list(range(count))


def test_processes_share_the_batches_that_one_with_all_samples_reads():
    whole = [sorted(numbers.tolist()) for numbers, _ in batches(seeded_loader(Numbered(17), 4, seed=2), epoch=3)]
    loader = seeded_loader(Numbered(17), 2, seed=2)
    parts = [[numbers.tolist() for numbers, _ in batches(loader, 3, rank=rank, world_size=2)] for rank in (0, 1)]
    assert [sorted(first + second) for first, second in zip(*parts, strict=True)] == whole
    assert len(whole) == loader.batch_sampler.count(2) == 4
    rest = [numbers.tolist() for numbers, _ in batches(loader, 3, skip=1, rank=1, world_size=2)]
    assert rest == parts[1][1:]
    assert len(list(loader)) == 8  # the next pass is not shared


def test_noise_belongs_to_epoch_and_item():
    loader = seeded_loader(Numbered(6), 2)
    draws = [
        {int(n): float(x) for numbers, noise in batches(loader, epoch) for n, x in zip(numbers, noise, strict=True)}
        for epoch in (0, 1, 0)
    ]
    assert draws[0] == draws[2]
    assert len({x for draw in draws[:2] for x in draw.values()}) == 12
    # Whatever the batches: the noise of an item stays.
    ((numbers, noise),) = batches(seeded_loader(Numbered(6), 6))
    assert {int(n): float(x) for n, x in zip(numbers, noise, strict=True)} == draws[0]


def test_refuses_batch_size():
    with pytest.raises(ConfigError) as error:
        seeded_loader(Numbered(3), 0)
    assert str(error.value) == "seeded_loader: batch_size is out of range.\n  given:   0\n  needed:  an integer in [1, inf)"
