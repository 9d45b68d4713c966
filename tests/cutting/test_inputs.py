"""Models that take other images than three channels, or more than images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.cutting.cut import split
from feataug.errors import SplitError


def stem(channels):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())


class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.encoder, self.head = stem(channels), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:])


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_channels_are_those_of_the_first_convolution(channels):
    model = Net(channels).eval()
    cut = split(model, "encoder")
    assert [place.at for place in feataug.cuts(model)][-1] == "encoder"
    images = torch.rand(2, channels, 40, 48)
    with torch.no_grad():
        assert torch.equal(cut.decode(cut.encode(images), (40, 48)), model(images))


class Strict(Net):
    def forward(self, images):
        assert images.shape[-1] == 224, "Input width doesn't match model (224)."
        return super().forward(images)


@pytest.mark.parametrize(("who", "call"), [("split", lambda m: split(m, "encoder")), ("cuts", feataug.cuts)])
def test_a_default_that_fails_says_to_pass_an_example(who, call):
    with pytest.raises(SplitError) as error:
        call(Strict())
    assert str(error.value) == (
        f"{who}: the model does not take zeros of 3 x 128 x 128.\n"
        "  given:   no example; AssertionError: Input width doesn't match model (224).\n"
        "  needed:  images that the model takes, on its device\n"
        "Pass example=: a batch as the model gets it in training, such as torch.zeros(1, 4, 224, 224),\n"
        'or a dictionary of all its arguments, {"pixel_values": images, "labels": masks}.'
    )


class RGBD(nn.Module):
    """Colour and depth, each with an encoder of its own."""

    def __init__(self):
        super().__init__()
        self.rgb, self.depth, self.fuse, self.head = stem(3), stem(1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, rgb, depth):
        fused = F.relu(self.fuse(torch.cat([self.rgb(rgb), self.depth(depth)], 1)))
        return F.interpolate(self.head(fused), rgb.shape[-2:])


class Siamese(nn.Module):
    """Two dates, one encoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.mix, self.head = stem(3), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, before, after, *, scale=1.0):
        return scale * self.head(self.mix(torch.cat([self.encoder(before), self.encoder(after)], 1)))


@pytest.mark.parametrize(
    ("model", "at", "example"),
    [
        (RGBD(), "fuse", {"rgb": torch.rand(1, 3, 64, 64), "depth": torch.rand(1, 1, 64, 64)}),
        (Siamese(), "mix", {"before": torch.rand(1, 3, 64, 64), "after": torch.rand(1, 3, 64, 64)}),
    ],
    ids=["depth", "two dates"],
)
def test_a_second_image_goes_along(model, at, example):
    model.eval()
    cut = split(model, at, example=example)
    assert cut.one_pass
    assert at in [place.at for place in feataug.cuts(model, example)]
    first, second = (torch.rand(2, item.shape[1], 48, 80) for item in example.values())
    names = list(example)
    with torch.no_grad():
        plain = model(first, second)
        features = cut.encode(first, second)
        assert torch.equal(features[0], cut.encode(first, **{names[1]: second})[0])
        # Only the encoder reads the second image: decoding does without.
        assert torch.equal(cut.decode(features, (48, 80)), plain)
        with cut.mixing([features[0][:1]]):
            assert torch.allclose(model(first, second), torch.cat([plain, plain[:1]]), atol=1e-6)
        with pytest.raises(TypeError, match=names[1]):
            cut.encode(first)


def test_a_branch_alone():
    model = RGBD().eval()
    rgb, depth = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64)
    example = {"rgb": rgb[:1], "depth": depth[:1]}
    with pytest.raises(SplitError, match="made before it: 'rgb'"):
        split(model, "depth", example=example)
    # What comes after the cut takes the depth, which then has to be given.
    cut = split(model, "rgb", example=example)
    with torch.no_grad():
        features = cut.encode(rgb, depth)
        assert torch.equal(cut.decode(features, (64, 64), depth=depth), model(rgb, depth))
        with pytest.raises(SplitError, match="the decoder reads further arguments"):
            cut.decode(features, (64, 64))


class Task(Net):
    """What to look for, as a vector that the decoder reads."""

    def forward(self, pixel_values, task):
        return super().forward(pixel_values) * task.float().mean(1)[:, None, None, None]


def test_a_vector_that_the_decoder_reads_has_to_be_given():
    model = Task().eval()
    cut = split(model, "encoder", example={"pixel_values": torch.rand(1, 3, 64, 64), "task": torch.ones(1, 7, dtype=torch.long)})
    images, task = torch.rand(2, 3, 64, 64), torch.randint(5, (2, 7))
    with torch.no_grad():
        features = cut.encode(images, task)
        assert torch.equal(cut.decode(features, (64, 64), task=task), model(images, task))
        assert torch.equal(cut.decode(features, (64, 64), task), model(images, task))
        with pytest.raises(SplitError) as error:
            cut.decode(features, (64, 64))
    assert str(error.value) == (
        "cut.decode: the decoder reads further arguments of the model.\n"
        "  given:   features alone\n"
        "  needed:  cut.decode(features, image_size, task=...)"
    )


class OneHot(nn.Module):
    """Takes labels of four dimensions before the images, and reads ``len(images)`` after the cut: mixed in two steps."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 1)

    def forward(self, labels, images):
        logits = self.head(self.encoder(images)).view(len(images), 5, -1)
        return logits, labels.sum()


@pytest.mark.parametrize("named", [True, False])
def test_labels_of_four_dimensions_are_not_taken_for_images(named):
    model = OneHot().eval()
    images, labels = torch.rand(3, 3, 16, 16), torch.rand(3, 5, 16, 16)
    cut = split(model, "encoder", example={"images": images[:1], "labels": labels[:1]})
    assert not cut.one_pass
    synthetic = torch.rand(2, 6, 8, 8)
    with torch.no_grad():
        features = torch.cat([*cut.encode(labels=labels, images=images), synthetic])
        mixed = torch.cat([labels, labels[:2]])
        expected = cut.decode(features, (16, 16), labels=mixed)[0]
        with cut.mixing(synthetic):
            out = model(labels=mixed, images=images) if named else model(mixed, images)
    assert torch.equal(out[0], expected)
    assert len(out[0]) == 5


def test_an_error_in_the_users_own_example_is_the_models():
    with pytest.raises(RuntimeError, match="channels") as error:
        split(Net(4), "encoder", example=torch.rand(1, 3, 32, 32))
    assert error.value.__notes__ == ["split: raised by the model when it was called with the example (images of 3 x 32 x 32)."]
