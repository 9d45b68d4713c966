"""What a run depends on: equal where things are equal, different where something that matters differs."""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision.transforms import v2

import feataug
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import (
    architecture,
    describe_callable,
    describe_data,
    describe_dataset,
    describe_filter,
    describe_masks,
)
from feataug.data import MaskedImages, Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.training.run_settings import differences

SIZE = (32, 48)


def all_told_apart(descriptions):
    """Also by what compares a run with a stored one, which passes over what only one of them has."""
    listed = [json.loads(json.dumps(description)) for description in descriptions]
    assert len(listed) > 4
    for one, other in itertools.combinations(listed, 2):
        assert differences({"data": one}, {"data": other}), (one, other)


class Buffers(nn.Module):
    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            self.register_buffer(name, value)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int64, torch.complex64, torch.float8_e5m2],
)
def test_a_fingerprint_sees_every_value_of_every_dtype(dtype):
    values = torch.tensor([0, 1, 1, 0, 1, 1]).to(dtype)
    other = values.clone()
    other[3] = True
    first = fingerprint(Buffers(x=values))
    assert first == fingerprint(Buffers(x=values.clone()))
    assert len(first) == 16
    wider = values.to(torch.complex128 if dtype.is_complex else torch.float64 if dtype == torch.float32 else torch.float32)
    different = [
        Buffers(x=other), Buffers(y=values), Buffers(x=values.reshape(2, 3)), Buffers(x=wider),
        Buffers(x=values, y=torch.zeros(0)), Buffers(),
    ]  # fmt: skip
    assert len({first, *map(fingerprint, different)}) == 7


def test_a_fingerprint_sees_large_integers_and_not_the_memory_format():
    assert fingerprint(Buffers(x=torch.tensor(2**53))) != fingerprint(Buffers(x=torch.tensor(2**53 + 1)))
    images = torch.rand(2, 3, 4, 5)
    assert fingerprint(Buffers(x=images)) == fingerprint(Buffers(x=images.to(memory_format=torch.channels_last)))
    assert fingerprint(Buffers(x=images)) == fingerprint(Buffers(x=images.mT.contiguous().mT))
    assert fingerprint(nn.ReLU()) == fingerprint(nn.Sequential())
    lazy = nn.LazyConv2d(3, 1)
    assert fingerprint(lazy) == fingerprint(nn.LazyConv2d(3, 1))
    norm = nn.BatchNorm2d(3)
    before = fingerprint(norm)
    norm(torch.rand(2, 3, 4, 4))
    assert fingerprint(norm) != before


def test_an_architecture_is_all_but_the_values():
    def generator(width, classes=5, preset="flow", **kwargs):
        spec = feataug.FeatureSpec((feataug.LevelSpec("x", 6, 4),))
        return feataug.FeatureGenerator(classes, spec, preset, width=width, depth=1, **kwargs)

    assert architecture(generator(8)) == architecture(generator(8))
    other = (
        generator(8), generator(16), generator(8, 6), generator(8, steps=3), generator(8, preset="bicyclegan"),
        generator(8, preset="bicyclegan", latent_dim=4), generator(8, preset="bicyclegan", modulation="none"),
    )  # fmt: skip
    all_told_apart(architecture(g) for g in other)


def files(folder, seed, count=3, names="{}.png"):
    rng = np.random.default_rng(seed)
    for part, shape in (("images", (8, 9, 3)), ("masks", (8, 9))):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 3, shape, dtype=np.uint8)).save(folder / part / names.format(number))
    return MaskedImages(folder / "images", folder / "masks", ["a", "b", "c"], transforms=eval_transforms())


def test_a_folder_is_known_by_its_files_and_not_by_its_place(tmp_path):
    first, moved = files(tmp_path / "a", 0), files(tmp_path / "b", 0)
    assert describe_dataset(first) == describe_dataset(moved)
    others = [
        files(tmp_path / "c", 1), files(tmp_path / "d", 0, 4), files(tmp_path / "e", 0, names="x{}.png"),
        MaskedImages(tmp_path / "a/images", tmp_path / "a/masks", ["a", "b", "z"], transforms=eval_transforms()),
        MaskedImages(tmp_path / "a/images", tmp_path / "a/masks", ["a", "b", "c"], transforms=eval_transforms(SIZE)),
    ]  # fmt: skip
    all_told_apart(describe_dataset(data) for data in (first, *others))
    json.dumps(describe_dataset(first))


def scenes(count=6, seed=0, transforms=None):
    return Scenes(count, SIZE, seed=seed, transforms=transforms)


def test_loaders_of_ours_are_told_apart():
    def loader(data=None, batch=2, **kwargs):
        return seeded_loader(data or scenes(), batch, **kwargs)

    different = [
        loader(), loader(seed=1), loader(batch=3), loader(shuffle=False), loader(scenes(7)), loader(scenes(seed=1)),
        loader(scenes(transforms=eval_transforms())), loader(scenes(transforms=eval_transforms((16, 16)))),
        loader(scenes(transforms=train_transforms(SIZE))), loader(scenes(transforms=train_transforms(SIZE, scale=(1, 2)))),
        loader(scenes(transforms=train_transforms((16, 16)))), loader(Subset(scenes(), [0, 1, 2])), loader(Subset(scenes(), [0, 1, 3])),
        loader(ConcatDataset([scenes(), scenes(seed=1)])), loader(ConcatDataset([scenes(), scenes(seed=2)])),
    ]  # fmt: skip
    all_told_apart(describe_data(x) for x in different)
    again = loader()
    list(again)
    again.batch_sampler.set_epoch(3)
    assert describe_data(again) == describe_data(loader())
    assert describe_data(loader(num_workers=2)) == describe_data(loader())


def test_loaders_of_torch_are_told_apart():
    def pairs(seed, count=5):
        rng = torch.Generator().manual_seed(seed)
        return TensorDataset(torch.rand(count, 3, 4, 4, generator=rng), torch.zeros(count, 4, 4))

    def seeded(seed):
        return DataLoader(pairs(0), 2, shuffle=True, generator=torch.Generator().manual_seed(seed))

    different = [
        DataLoader(pairs(0), 2), DataLoader(pairs(1), 2), DataLoader(pairs(0, 6), 2), DataLoader(pairs(0), 3), DataLoader(pairs(0), 2, shuffle=True),
        seeded(0), seeded(1), DataLoader(pairs(0), 2, drop_last=True),
    ]  # fmt: skip
    all_told_apart(describe_data(x) for x in different)
    assert describe_data(DataLoader(pairs(0), 2)) == describe_data(DataLoader(pairs(0), 2, num_workers=1))


def test_of_other_iterables_nothing_is_said():
    assert describe_data(None) is None
    assert describe_data([(1, 2)]) == describe_data(iter([])) == describe_data(x for x in ()) == {}

    class Own:
        def settings(self):
            return {"shards": 3}

        def __iter__(self):
            return iter(())

    assert describe_data(Own()) == {"class": "test_of_other_iterables_nothing_is_said.<locals>.Own", "shards": 3}


def factor_of(factor):
    def scale(image, mask):
        return factor * image, mask

    return scale


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, image, mask):
        return self.factor * image, mask


class Drawing:
    """A transform whose state moves on."""

    def __init__(self):
        self._rng = np.random.default_rng(0)
        self.rng = np.random.default_rng()

    def __call__(self, image, mask):
        return image * self._rng.random(), mask


def test_transforms_are_told_apart_by_what_they_were_made_with():
    different = [
        factor_of(1), factor_of(2), Scale(1), Scale(2), functools.partial(Scale(1), mask=None), functools.partial(Scale(2), mask=None),
        Scale(1).__call__, Scale(2).__call__, v2.RandomCrop(8), v2.RandomCrop(9), v2.Compose([v2.RandomCrop(8)]), v2.RandomHorizontalFlip(0.1),
        v2.RandomHorizontalFlip(0.2), v2.Normalize([0.1], [1.0]), v2.Normalize([0.2], [1.0]), factor_of(torch.ones(2)), factor_of(torch.zeros(2)),
        nn.Sequential(v2.RandomCrop(8)), nn.Sequential(v2.RandomCrop(9)), Drawing(),
    ]  # fmt: skip
    all_told_apart(describe_callable(x) for x in different)
    assert json.dumps(describe_callable(factor_of(1))) == json.dumps(describe_callable(factor_of(1)))
    drawing = Drawing()
    before = describe_callable(drawing)
    drawing(1, 2)
    assert describe_callable(drawing) == before == describe_callable(Drawing())
    assert describe_callable(None) is None


def masks(seed=0, count=8):
    return torch.randint(5, (count, *SIZE), generator=torch.Generator().manual_seed(seed))


class Stripes:
    def draw(self, n, generator):
        return torch.zeros(n, *SIZE, dtype=torch.long)


def test_mask_sources_are_told_apart_by_their_settings():
    def hard(source=None, **kwargs):
        return feataug.HardNegativeSampler(masks() if source is None else source, **({"candidates": 4, "keep": 2} | kwargs))

    plain, balanced = feataug.DatasetMasks(masks()), feataug.ClassBalancedMasks(masks(), 5)
    different = [
        plain, feataug.DatasetMasks(masks(1)), feataug.DatasetMasks(list(masks())), feataug.DatasetMasks(list(masks(1))),
        feataug.DatasetMasks(masks(), v2.RandomCrop(8)), feataug.DatasetMasks(scenes()), feataug.DatasetMasks(scenes(seed=1)),
        balanced, feataug.ClassBalancedMasks(masks(), 5, min_pixels=3), feataug.ClassBalancedMasks(masks(1), 5),
        feataug.LayoutComposer(plain, balanced, [1]), feataug.LayoutComposer(plain, balanced, [2]), feataug.LayoutComposer(plain, plain, [1]),
        feataug.LayoutComposer(plain, balanced, [1], objects=5), hard(), hard(keep=3), hard(candidates=5), hard(refresh_every=3),
        hard(learn=True), hard(masks(1)), hard(score=Scale(1)), hard(score=Scale(2)), hard(balanced),
        feataug.MaskMixture([plain, balanced], (1, 1)), feataug.MaskMixture([plain, balanced], (2, 1)),
        feataug.MaskMixture([plain, hard()], (1, 1)), feataug.MaskMixture([plain, hard(keep=3)], (1, 1)), Stripes(),
    ]  # fmt: skip
    all_told_apart(describe_masks(x) for x in different)
    sampler, other = hard(), hard()
    before = describe_masks(sampler)
    sampler.bind(lambda drawn: drawn.float().mean((1, 2)))
    sampler.draw(2, torch.Generator().manual_seed(0))
    assert describe_masks(sampler) == before == describe_masks(other)


def test_a_pixel_filter_is_told_apart_by_its_reference():
    def make(seed, loss=1.0):
        torch.manual_seed(seed)
        cut = feataug.split(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 1)), "0")
        return feataug.PixelFilter(cut, torch.full((5,), loss))

    first, same, other, bound = make(0), make(0), make(1), make(0, 2.0)
    assert describe_filter(first) == describe_filter(same)
    all_told_apart(describe_filter(x) for x in (first, other, bound, Scale(1), Scale(2)))
