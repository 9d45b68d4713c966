"""Every generator that a transform may draw from follows the seed, and is as it was afterwards."""

import functools
import random

import numpy as np
import pytest
import torch

from feataug import DatasetMasks
from feataug.core.randomness import generators_in, seeded
from feataug.data import Scenes, seeded_loader
from feataug.errors import DataError
from feataug.evaluation.repeatability import check_repeats


class Items:
    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((3, 4, 4), index + float(self.draw())), torch.zeros(4, 4, dtype=torch.long)


class Transform:
    """Keeps its generators as albumentations' transforms do."""

    def __init__(self):
        self.random_generator, self.py_random = np.random.default_rng(), random.Random()

    def __call__(self):
        return self.random_generator.random() + self.py_random.random()


class Compose:
    def __init__(self, *transforms):
        self.transforms = list(transforms)

    def __call__(self):
        return sum(transform() for transform in self.transforms)


class Slotted:
    __slots__ = ("state",)

    def __init__(self):
        self.state = np.random.RandomState()

    def __call__(self):
        return self.state.rand()


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.own = torch.nn.Sequential(torch.nn.Identity()), torch.Generator()
        self.own.seed()

    def forward(self):
        return torch.rand((), generator=self.own)


RNG = np.random.default_rng()
PIPELINE = Compose(Transform(), Transform())


def by_global():
    return PIPELINE()


def helper():
    return by_global()


def closure():
    rng = np.random.default_rng()
    return lambda: rng.random()


def scaled(rng, by=1.0):
    return by * rng.random()


DRAWS = {
    "torch": lambda: torch.rand(()),
    "numpy": lambda: np.random.rand(),
    "random": lambda: random.random(),
    "attributes": Transform(),
    "nested": Compose(Compose(Transform()), Slotted()),
    "module": Module(),
    "global of a function": by_global,
    "global of a helper": helper,
    "closure": closure(),
    "default": lambda rng=RNG: rng.random(),
    "partial": functools.partial(scaled, random.Random(), by=2.0),
    "method": Compose(Transform()).__call__,
}


def read(draw, seed=1, workers=0):
    return torch.cat([images for images, _ in seeded_loader(Items(draw), 2, seed=seed, num_workers=workers)])


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_batches_for_the_same_seed(name):
    draw = DRAWS[name]
    first = read(draw)
    draw()
    assert torch.equal(read(draw), first)
    assert not torch.equal(read(draw, seed=2), first)
    assert len({float(x) % 1 for x in first[:, 0, 0, 0]}) == 4  # the items differ among themselves


@pytest.mark.parametrize("name", ["numpy", "attributes"])
def test_the_same_batches_with_workers(name):
    assert torch.equal(read(DRAWS[name], workers=2), read(DRAWS[name]))


def states():
    return (
        torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
        [t.random_generator.bit_generator.state["state"] for t in PIPELINE.transforms], [t.py_random.getstate() for t in PIPELINE.transforms],
    )  # fmt: skip


def test_all_generators_are_put_back_also_after_errors():
    before = states()
    read(by_global)
    assert states() == before

    def broken():
        PIPELINE()
        np.random.rand(), random.random(), torch.rand(())
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        read(broken)
    assert states() == before
    # A test of the test: without the seeding the states move on.
    by_global()
    assert states() != before


def test_masks_follow_their_seed():
    class Data(Items):
        transforms = None

        def mask(self, index):
            return torch.full((4, 4), int(10 * self.draw()))

    for name in ("numpy", "random", "attributes", "closure"):
        source = DatasetMasks(Data(DRAWS[name]))
        first = source.draw(16, torch.Generator().manual_seed(0))
        assert torch.equal(source.draw(16, torch.Generator().manual_seed(0)), first)
        assert len(first.unique()) > 2


def test_what_is_looked_at():
    rng = np.random.default_rng()
    loop = [rng]
    loop.append(loop)
    assert generators_in(loop, {"a": rng}) == [rng]
    assert generators_in(random._inst, torch.default_generator, np.random.mtrand._rand, random.SystemRandom()) == []
    assert generators_in([[rng]] * 65) == []  # a list as long as a data set is not searched
    assert generators_in(Scenes(2)) == []
    with seeded(3, [rng]):
        first = rng.random()
    with seeded(3, [rng]):
        assert rng.random() == first


def test_a_loader_knows_its_length():
    loader = seeded_loader(Items(lambda: 0), 2)
    assert len(loader.dataset) == 4
    assert torch.equal(loader.dataset[3][0], loader.dataset[0, 3][0])


class Elsewhere:
    """Draws from a generator that nobody finds."""

    def __init__(self):
        self.count = iter(range(1000))

    def __call__(self):
        return next(self.count)


def test_compare_asks_whether_the_loader_repeats_itself():
    kept = random.getstate(), torch.get_rng_state()
    check_repeats(lambda seed: seeded_loader(Items(DRAWS["numpy"]), 2, seed=seed), 0)
    assert random.getstate() == kept[0]
    assert torch.equal(torch.get_rng_state(), kept[1])
    check_repeats(lambda seed: [], 0)  # the training says that there is nothing
    text = (
        "compare: the loader does not repeat itself, so the arms of a pair would see different real batches.\n"
        "  given:   {} of the first batch differ between two readings with seed 5\n"
        "  needed:  equal batches for equal seeds\n"
        "feataug.data.seeded_loader(train_set, 16, seed=seed) seeds torch, numpy, random, and generators that transforms keep. A transform "
        "with another generator, such as OpenCV's or imgaug's, must be seeded separately."
    )
    count = Elsewhere()
    for loader, parts in (
        (lambda seed: seeded_loader(Items(count), 2, seed=seed), "images"),
        (lambda seed: torch.utils.data.DataLoader(Items(random.random), 2), "images"),
        (lambda seed: [(torch.zeros(1, 3, 2, 2), torch.randint(2**30, (1, 2, 2)))], "masks"),
        (lambda seed: [(torch.rand(1, 3, 2, 2), torch.randint(2**30, (1, 2, 2)))], "images and masks"),
    ):
        with pytest.raises(DataError) as error:
            check_repeats(loader, 5)
        assert str(error.value) == text.format(parts)
