"""Transforms with positional and with named arguments: called as they want it, and refused where they return something else."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

import feataug
from feataug.core.joint_transforms import takes_names, transform_image, transform_mask, transform_pair
from feataug.data import Images, MaskedImages, MaskFolder, Scenes, eval_transforms, train_transforms
from feataug.errors import DataError

SIZE = (6, 8)
IMAGE = tv_tensors.Image(torch.arange(144, dtype=torch.uint8).view(3, *SIZE))
MASK = tv_tensors.Mask(torch.arange(48).view(SIZE) % 3)


class Compose:
    """Refuses and accepts what albumentations.Compose does, in any module."""

    def __init__(self, change=lambda name, value: value[:, ::-1].copy()):
        self.change, self.seen = change, None

    def __call__(self, *args, force_apply=False, **data):
        if args:
            raise KeyError("You have to pass data to augmentations as named arguments, for example: aug(image=image)")
        self.seen = {name: (value.shape, value.dtype) for name, value in data.items()}
        return {name: self.change(name, value) for name, value in data.items()}


class Albumentations(Compose):
    """Known by its module, whatever its errors are."""

    def __call__(self, *args, **data):
        if args:
            raise RuntimeError("another version says it otherwise")
        return super().__call__(**data)


Albumentations.__module__ = "albumentations.core.composition"


def keywords(*, image, mask):
    return {"image": image[:, ::-1].copy(), "mask": mask[:, ::-1].copy()}


def anything(**data):
    return {name: value[:, ::-1].copy() for name, value in data.items()}


def positional(image, mask):
    return image.flip(-1), mask.flip(-1)


class Wrapper:
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, *args, **named):
        return self.inner(*args, **named)


class Forward(torch.nn.Module):
    def forward(self, image, mask):
        return image.flip(-1), mask.flip(-1)


NAMED = [Compose(), Albumentations(), keywords, anything, Wrapper(keywords), Wrapper(anything)]
POSITIONAL = [positional, Forward(), Wrapper(positional), lambda image, mask: [image.flip(-1), mask.flip(-1)]]
JOINT = v2.RandomHorizontalFlip(1.0)


@pytest.mark.parametrize("transforms", [*NAMED, *POSITIONAL, JOINT, v2.Compose([JOINT]), Wrapper(JOINT)])
def test_pairs_and_masks_alone(transforms):
    image, mask = transform_pair("x", transforms, IMAGE, MASK)
    assert torch.equal(image, IMAGE.flip(-1))
    assert torch.equal(mask, MASK.flip(-1))
    assert (image.dtype, mask.dtype) == (torch.uint8, torch.int64)
    alone = transform_mask("x", transforms, MASK)
    assert torch.equal(alone, MASK.flip(-1))
    assert alone.dtype == torch.int64


@pytest.mark.parametrize("transforms", [Compose(), Albumentations(), anything, Wrapper(anything)])
def test_images_alone(transforms):
    assert torch.equal(transform_image("x", transforms, IMAGE), IMAGE.flip(-1))


def test_what_named_arguments_hold():
    pipeline = Compose()
    transform_mask("x", pipeline, MASK)
    assert pipeline.seen == {"image": ((6, 8, 3), np.uint8), "mask": ((6, 8), np.uint8)}
    transform_pair("x", pipeline, tv_tensors.Image(torch.rand(3, *SIZE)), tv_tensors.Mask(MASK - 1))
    assert pipeline.seen == {"image": ((6, 8, 3), np.float32), "mask": ((6, 8), np.int16)}
    for label, kind in ((300, np.int16), (65535, np.uint16), (-1, np.int16)):
        mask = MASK.as_subclass(torch.Tensor).clone()
        mask[0, 0] = label
        assert transform_mask("x", pipeline, mask)[0, -1] == label
        assert pipeline.seen["mask"][1] == kind
    assert transform_mask("x", lambda *, mask: {"mask": mask + 1}, MASK).max() == 3  # takes no image, gets none


def test_tensors_in_the_dictionary():
    change = {"image": lambda x: torch.from_numpy(x).permute(2, 0, 1) / 255, "mask": lambda x: torch.from_numpy(x)[..., None]}
    image, mask = transform_pair("x", Compose(lambda name, value: change[name](value)), IMAGE, MASK)
    assert torch.equal(image, IMAGE / 255)
    assert torch.equal(mask, MASK)
    image, _ = transform_pair("x", Compose(lambda name, value: value / 255 if name == "image" else value), IMAGE, MASK)
    assert image.dtype == torch.float32


NEEDED = 'a dictionary with "image", an array (H, W, 3) or a tensor (3, H, W), and "mask", integers (H, W)'


@pytest.mark.parametrize(
    ("transforms", "given", "needed"),
    [
        (lambda **data: {"image": data["image"]}, "a dictionary with 'image'", NEEDED),
        (lambda **data: data["image"], "[6, 8, 3] uint8 array", f"(image, mask), or {NEEDED}"),
        (lambda **data: data | {"mask": data["mask"] / 2}, "[6, 8] float64 array", NEEDED),
        (lambda **data: data | {"mask": np.stack([data["mask"]] * 2)}, "[2, 6, 8] uint8 array", NEEDED),
        (lambda **data: data | {"mask": None}, "NoneType None", NEEDED),
        (lambda **data: data | {"image": data["image"][..., 0]}, "[6, 8] uint8 array", NEEDED),
        (lambda **data: data | {"image": data["image"].astype(int)}, "[6, 8, 3] int64 array", NEEDED),
        (lambda image, mask: image, "[3, 6, 8] uint8 on cpu", f"(image, mask), or {NEEDED}"),
        (lambda image, mask: (image, mask, 1), "a tuple of 3", f"(image, mask), or {NEEDED}"),
    ],
)
def test_what_is_no_pair(transforms, given, needed):
    with pytest.raises(DataError) as error:
        transform_pair("MaskedImages", transforms, IMAGE, MASK)
    assert str(error.value) == (
        f"MaskedImages: the transforms return neither image nor mask as they should.\n  given:   {given}\n  needed:  {needed}"
    )


def test_sizes_that_differ():
    for change in (lambda x: x[:, :4], lambda x: x.transpose(2, 0, 1)):
        pipeline = Compose(lambda name, value, change=change: change(value) if name == "image" else value)
        with pytest.raises(DataError) as error:
            transform_pair("x", pipeline, IMAGE, MASK)
        assert str(error.value).startswith("x: the transforms return an image and a mask of different sizes.\n  given:   image [")


@pytest.mark.parametrize("kind", [KeyError, TypeError, ValueError])
@pytest.mark.parametrize("style", ["positional", "named", "wrapped"])
def test_errors_of_transforms_are_their_users(kind, style):
    def fail():
        raise kind("planted")

    def broken(image, mask):
        fail()

    class Broken:
        def __call__(self, *args, **named):
            if args and style == "named":
                raise KeyError("named arguments only")
            fail()

    transforms = broken if style == "positional" else Broken()
    for call in (lambda: transform_pair("x", transforms, IMAGE, MASK), lambda: transform_mask("x", transforms, MASK)):
        with pytest.raises(kind, match="planted"):
            call()


def test_which_callables_take_names():
    assert all(map(takes_names, (Albumentations(), keywords, anything)))
    others = (positional, Forward(), JOINT, train_transforms(SIZE), eval_transforms(), torch.as_tensor, Compose(), lambda *items: items)
    assert not any(map(takes_names, others))


def test_a_mask_with_an_option_is_no_pair():
    def crop(mask, rows=4):
        return mask[:rows]

    assert transform_mask("x", crop, MASK).shape == (4, 8)

    def both(image, mask=None):
        assert image.ndim == 3
        return image, mask + 1

    assert torch.equal(transform_mask("x", both, MASK), MASK + 1)


def test_readers_and_mask_sources_take_them(tmp_path):
    for folder in "im":
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(tmp_path / "i/a.png")
    labels = rng.integers(0, 3, SIZE, np.uint8)
    Image.fromarray(labels).save(tmp_path / "m/a.png")
    flipped = torch.from_numpy(labels[:, ::-1].astype(np.int64))
    for transforms in (*NAMED, *POSITIONAL, JOINT):
        data = MaskedImages(tmp_path / "i", tmp_path / "m", "abc", transforms=transforms)
        assert torch.equal(data[0][1], flipped)
        assert torch.equal(data[0][0], data.image(0).flip(-1))
        for source in (feataug.DatasetMasks(data), feataug.DatasetMasks(data, transforms)):
            assert torch.equal(source.draw(1, torch.Generator())[0], flipped)
        assert torch.equal(MaskFolder(tmp_path / "m", "abc", transforms=transforms)[0], flipped)
        assert Scenes(2, (16, 16), transforms=transforms)[0][0].shape == (3, 16, 16)
    assert torch.equal(Images(tmp_path / "i", transforms=Compose())[0], Images(tmp_path / "i")[0].flip(-1))
