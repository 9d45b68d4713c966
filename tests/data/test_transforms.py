"""Images and masks are transformed together, and come out in the units that models take."""

import pytest
import torch
from torchvision import tv_tensors

from feataug.data import eval_transforms, train_transforms
from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD

LABELS = 5


def blocks(size=(40, 60), seed=0):
    """A mask of blocks, and the image whose grey value is 50 times the label."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(LABELS, (-(-size[0] // 20), -(-size[1] // 20)), generator=rng)
    mask = coarse.repeat_interleave(20, 0).repeat_interleave(20, 1)[: size[0], : size[1]].clone()
    return tv_tensors.Image((50 * mask).to(torch.uint8).expand(3, -1, -1).clone()), tv_tensors.Mask(mask)


def grey(image):
    """Label that each pixel of a normalised image of ``blocks`` stands for, not rounded."""
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    return (image * std + mean).mean(0) * 255 / 50


def disagreement(image, mask):
    """Share of the pixels that are not void where image and mask tell different labels."""
    valid = mask != 255
    return float(((grey(image) - mask).abs() > 0.05)[valid].float().mean())


@pytest.mark.parametrize("size", [(32, 48), (64, 32), (40, 60)])
def test_shapes_and_dtypes(size):
    transforms = train_transforms(size)
    torch.manual_seed(0)
    for number in range(8):
        image, mask = transforms(*blocks(seed=number))
        assert (tuple(image.shape), image.dtype, type(image)) == ((3, *size), torch.float32, torch.Tensor)
        assert (tuple(mask.shape), mask.dtype, type(mask)) == (size, torch.int64, torch.Tensor)
        assert set(mask.unique().tolist()) <= {*range(LABELS), 255}
        alone = transforms(blocks(seed=number)[1])
        assert (tuple(alone.shape), alone.dtype, type(alone)) == (size, torch.int64, torch.Tensor)
        assert set(alone.unique().tolist()) <= {*range(LABELS), 255}


def test_geometry_agrees_exactly_where_nothing_is_scaled():
    transforms = train_transforms((40, 60), scale=(1.0, 1.0), flip=0.5, color=0)
    torch.manual_seed(0)
    flipped = []
    for number in range(12):
        pair = blocks(seed=number)
        image, mask = transforms(*pair)
        assert disagreement(image, mask) == 0
        assert (mask != 255).all()
        plain = pair[1].as_subclass(torch.Tensor)
        assert torch.equal(mask, plain) or torch.equal(mask, plain.flip(-1))
        flipped.append(torch.equal(mask, plain.flip(-1)))
    assert any(flipped)
    assert not all(flipped)


def test_geometry_agrees_while_scaling_up_to_the_blocks_edges():
    transforms = train_transforms((32, 56), scale=(0.5, 2.0), color=0)
    torch.manual_seed(0)
    shares = [disagreement(*transforms(*blocks(seed=number))) for number in range(24)]
    # Blurred edges alone differ: two or three pixels beside every edge of blocks of 10 pixels or more.
    assert max(shares) < 0.4
    assert sum(shares) / len(shares) < 0.2


def test_a_mask_that_is_not_flipped_along_is_found_out():
    # A test of the test: the same measure on pairs that do not belong together.
    transforms = train_transforms((40, 60), scale=(1.0, 1.0), flip=0, color=0)
    image, mask = transforms(*blocks())
    assert disagreement(image, mask) == 0
    assert disagreement(image, mask.flip(-1)) > 0.4


@pytest.mark.parametrize("size", [(40, 60), (20, 30), (60, 60), (40, 90), (80, 60)])
def test_scale_one_is_the_largest_image_that_fits(size):
    mask = train_transforms(size, scale=(1.0, 1.0), flip=0)(blocks()[1])
    factor = min(size[0] / 40, size[1] / 60)
    rows, columns = round(40 * factor), round(60 * factor)
    valid = mask != 255
    assert (int(valid.any(1).sum()), int(valid.any(0).sum())) == (rows, columns)
    assert int(valid.sum()) == rows * columns


def test_padding_is_void_and_of_the_mean_colour():
    image, mask = train_transforms((40, 60), scale=(0.5, 0.5), flip=0, color=0, ignore_index=99)(*blocks())
    void = mask == 99
    assert int((~void).sum()) == 20 * 30
    # Rounded to bytes, the mean is 0 within half a grey value.
    assert image[:, void].abs().max() < 0.6 / 255 / min(IMAGENET_STD)
    assert image[:, ~void].abs().max() > 0.2


def test_colour_jitter_touches_the_image_alone():
    image, mask = blocks()
    torch.manual_seed(0)
    jittered, same = train_transforms((40, 60), scale=(1.0, 1.0), flip=0, color=0.5)(image, mask)
    assert torch.equal(same, mask.as_subclass(torch.Tensor))
    assert disagreement(jittered, same) > 0.5


def test_inputs_are_not_written_to():
    image, mask = blocks()
    before = image.clone(), mask.clone()
    for transforms in (train_transforms((20, 20)), eval_transforms((20, 20)), eval_transforms()):
        transforms(image, mask)
        assert torch.equal(image, before[0])
        assert torch.equal(mask, before[1])


def test_eval_transforms():
    image, mask = blocks()
    kept, kept_mask = eval_transforms()(image, mask)
    assert torch.equal(kept_mask, mask.as_subclass(torch.Tensor))
    expected = (image / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    torch.testing.assert_close(kept, expected.as_subclass(torch.Tensor))
    smaller, smaller_mask = eval_transforms((20, 30))(image, mask)
    assert (tuple(smaller.shape), tuple(smaller_mask.shape)) == ((3, 20, 30), (20, 30))
    assert torch.equal(smaller_mask, mask.as_subclass(torch.Tensor)[::2, ::2])  # nearest neighbour
    assert (smaller.dtype, smaller_mask.dtype, type(smaller)) == (torch.float32, torch.int64, torch.Tensor)


@pytest.mark.parametrize("make", [lambda: train_transforms((8, 12), flip=0), lambda: eval_transforms((8, 12)), eval_transforms])
def test_plain_integers_are_a_mask(make):
    """Pseudo labels are plain tensors: torchvision would take them for an image."""
    mask = torch.randint(5, (16, 24))

    def transformed(given):
        torch.manual_seed(0)
        return make()(given)

    assert torch.equal(transformed(mask), transformed(tv_tensors.Mask(mask)))
    assert type(transformed(mask)) is torch.Tensor
    assert set(transformed(mask).unique().tolist()) <= {0, 1, 2, 3, 4, 255}
    image = tv_tensors.Image(torch.zeros(3, 16, 24, dtype=torch.uint8))
    torch.manual_seed(0)
    pair = make()(image, mask)
    torch.manual_seed(0)
    assert torch.equal(pair[1], make()(image, tv_tensors.Mask(mask))[1])
