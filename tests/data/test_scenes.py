import doctest

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

import feataug.data.scenes.dataset
from feataug.data.scenes.dataset import Scenes
from feataug.errors import ConfigError

pytestmark = pytest.mark.xdist_group("scenes")

RARE = ("sign", "pedestrian", "bicyclist")


@pytest.fixture(scope="module")
def scenes():
    return Scenes(200, seed=0)


@pytest.fixture(scope="module")
def counts(scenes):
    """(200, 256): how many pixels of each label each scene has."""
    return torch.stack([torch.bincount(scenes.mask(i).flatten(), minlength=256) for i in range(200)])


def plain(scene):
    return tuple(tensor.as_subclass(torch.Tensor) for tensor in scene)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(plain(a), plain(b), strict=True))


def test_shapes_and_dtypes(scenes):
    image, mask = scenes[3]
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(mask, tv_tensors.Mask)
    assert (tuple(image.shape), image.dtype) == ((3, 96, 128), torch.uint8)
    assert (tuple(mask.shape), mask.dtype) == ((96, 128), torch.int64)
    assert len(Scenes.classes) == len(Scenes.palette) == Scenes.num_classes == len(set(Scenes.palette))
    assert Scenes.ignore_index == 255


def test_a_scene_depends_on_seed_and_index_alone(scenes):
    torch.manual_seed(1)
    np.random.seed(1)
    forward = [scenes[i] for i in range(6)]
    torch.manual_seed(2)
    np.random.seed(2)
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    fresh = Scenes(6, (96, 128), seed=0)
    for i in (5, 0, 3, 3, 1):
        assert same(fresh[i], forward[i])
    assert same(fresh[-1], forward[5])
    assert torch.equal(fresh.mask(2), forward[2][1])
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])


def test_another_process_draws_the_same_bytes(scenes):
    loader = torch.utils.data.DataLoader(Scenes(4), batch_size=None, num_workers=2)
    assert all(same(there, scenes[i]) for i, there in enumerate(loader))


def test_what_a_caller_does_to_a_scene_does_not_last():
    scenes = Scenes(1, (24, 32))
    before = tuple(tensor.clone() for tensor in plain(scenes[0]))
    for tensor in (*scenes[0], scenes.mask(0)):
        tensor.fill_(7)
    assert same(scenes[0], before)


def test_a_full_cache_changes_nothing(monkeypatch):
    monkeypatch.setattr(feataug.data.scenes.dataset, "_CACHE_BYTES", 2 * 4 * 24 * 32)
    scenes = Scenes(4, (24, 32))
    first = [scenes[i] for i in range(4)]
    assert all(same(scenes[i], first[i]) for i in range(4))
    assert len(scenes._drawn) == 2


def test_seeds_share_no_scene():
    drawn = [scene for seed in range(3) for scene in Scenes(10, (48, 64), seed=seed)]
    assert len(drawn) == 30
    assert len({image.numpy().tobytes() for image, _ in drawn}) == 30
    assert len({mask.numpy().tobytes() for _, mask in drawn}) == 30


def test_labels_and_frequencies(counts):
    known = [*range(Scenes.num_classes), 255]
    assert counts[:, known].sum() == counts.sum()
    share = counts.sum(0) / counts.sum()
    present = (counts > 0).float().mean(0)
    assert all(share[label] > 0 for label in known)
    assert share[255] < 0.05
    for name in RARE:
        label = Scenes.classes.index(name)
        assert share[label] < 0.01, name
        assert 0.1 < present[label] < 2 / 3, name
    for name in ("sky", "building", "road", "vegetation", "sidewalk", "car"):
        assert share[Scenes.classes.index(name)] > 0.02, name


def test_rare_objects_are_large_enough_to_learn(scenes, counts):
    for name in RARE:
        label = Scenes.classes.index(name)
        seen = counts[:, label]
        assert seen[seen > 0].float().median() >= 12, name


@pytest.mark.parametrize("size", [(16, 16), (24, 32), (97, 131), (17, 200), (200, 17), (360, 480)])
def test_any_size(size):
    for image, mask in Scenes(3, size, seed=5):
        assert tuple(image.shape) == (3, *size)
        assert tuple(mask.shape) == size
        assert set(mask.unique().tolist()) <= {*range(Scenes.num_classes), 255}
        assert {Scenes.classes.index("road"), Scenes.classes.index("sky")} <= set(mask.unique().tolist())


@pytest.mark.parametrize("size", [(192, 256), (97, 131), (96, 256)])
def test_the_layout_is_the_same_at_every_size(scenes, size):
    other = Scenes(20, size)
    rows, cols = ((torch.arange(n) + 0.5) / n for n in (96, 128))
    rows, cols = (rows * size[0]).long(), (cols * size[1]).long()
    for i in range(20):
        assert (scenes.mask(i) == other.mask(i)[rows][:, cols]).float().mean() > 0.9


def test_images_are_textured(scenes):
    # Within one image and one class: a flat colour a class would have a deviation near 0.
    for label, name in enumerate(Scenes.classes):
        spread = [
            image[:, mask == label].float().std(1).mean()
            for image, mask in (scenes[i] for i in range(40))
            if (mask == label).sum() >= 12
        ]
        assert spread, name
        assert torch.stack(spread).mean() > 4, name


def test_colours_overlap_between_classes(scenes):
    # The class whose mean colour is nearest must be a poor guess, or there would be nothing to learn.
    pixels = [(image.flatten(1).T.float(), mask.flatten()) for image, mask in (scenes[i] for i in range(30))]
    colors, labels = (torch.cat(part)[::7] for part in zip(*pixels, strict=True))
    means = torch.stack([colors[labels == label].mean(0) for label in range(Scenes.num_classes)])
    guess = torch.cdist(colors, means).argmin(1)
    assert (guess == labels)[labels != 255].float().mean() < 0.6


def test_transforms_get_both_and_come_last():
    def flip(image, mask):
        assert isinstance(image, tv_tensors.Image)
        assert isinstance(mask, tv_tensors.Mask)
        return image.flip(-1), mask.flip(-1)

    bare, flipped = Scenes(2, (24, 32)), Scenes(2, (24, 32), transforms=flip)
    for i in range(2):
        assert same(flipped[i], tuple(tensor.flip(-1) for tensor in plain(bare[i])))
        assert torch.equal(flipped.mask(i), bare.mask(i))


def test_index_out_of_range():
    scenes = Scenes(2, (16, 16))
    assert len(scenes) == len(list(scenes)) == 2
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"^Scenes: index {index} is out of range for 2 images$"):
            scenes[index]
        with pytest.raises(IndexError):
            scenes.mask(index)


@pytest.mark.parametrize("given", [0, -1, 2.0, True, "8", None])
def test_refuses_num_images(given):
    with pytest.raises(ConfigError) as error:
        Scenes(given)
    assert str(error.value) == (
        f"Scenes: num_images must be a positive int.\n  given:   num_images={given!r}\n  needed:  num_images >= 1"
    )


@pytest.mark.parametrize("given", [96, (96,), (96, 128, 3), (15, 128), (96, 15), (96.0, 128), (True, 128), "ab", None])
def test_refuses_size(given):
    with pytest.raises(ConfigError) as error:
        Scenes(8, given)
    assert str(error.value) == (
        f"Scenes: size must be two ints of at least 16.\n  given:   size={given!r}\n  needed:  (height, width), such as (96, 128)"
    )


@pytest.mark.parametrize("given", [-1, 0.5, None])
def test_refuses_seed(given):
    with pytest.raises(ConfigError) as error:
        Scenes(8, seed=given)
    assert str(error.value) == (f"Scenes: seed must be an int of at least 0.\n  given:   seed={given!r}\n  needed:  seed >= 0")


def test_doctest():
    assert doctest.testmod(feataug.data.scenes.dataset) == (0, 2)


def test_a_crowd_has_more_people_and_leaves_the_street_as_it_is():
    usual, crowded, empty = (Scenes(12, (96, 128), seed=2, crowd=crowd) for crowd in (1, 4, 0))
    assert same(usual[3], Scenes(12, (96, 128), seed=2)[3])

    def share(scenes, label):
        return sum(int((scenes.mask(i) == label).sum()) for i in range(12))

    for name in ("pedestrian", "bicyclist"):
        label = Scenes.classes.index(name)
        assert share(crowded, label) > 2 * share(usual, label) > 0
        assert share(empty, label) == 0
    # Sky and walls are drawn before the people, from the same random numbers.
    sky = [scenes.mask(5) == 0 for scenes in (usual, crowded)]
    assert (sky[0] ^ sky[1]).float().mean() < 0.02


@pytest.mark.parametrize("given", [-1, 1.5, True])
def test_refuses_crowd(given):
    with pytest.raises(ConfigError) as error:
        Scenes(8, crowd=given)
    assert str(error.value) == f"Scenes: crowd must be an int of at least 0.\n  given:   crowd={given!r}\n  needed:  crowd >= 0"
