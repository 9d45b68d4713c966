"""Strides, rounding and layouts are measured at several sizes: what the spec says of a size is what the model makes of it."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.cut import split
from feataug.cutting.decode_plan import DecodePlanner
from feataug.cutting.tensor_layout import Layout
from feataug.errors import ConfigError, SplitError

SIZES = [(60, 84), (61, 85), (63, 83), (127, 129), (90, 77), (96, 96), (101, 67), (360, 480)]


def conv(inputs, outputs, stride=2, kernel=3, padding=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding)


class Segmenter(nn.Module):
    def __init__(self, encoder, channels=8):
        super().__init__()
        self.encoder, self.head = encoder, nn.Conv2d(channels, 3, 1)

    def forward(self, images):
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:])


ENCODERS = {
    "padded convolutions": (lambda: nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8)), 8, None),
    "pooling": (lambda: nn.Sequential(nn.MaxPool2d(2), conv(3, 8, 1), nn.MaxPool2d(2), nn.AvgPool2d(2)), 8, 0),
    "convolution, pooling": (lambda: nn.Sequential(conv(3, 8), nn.MaxPool2d(2)), 4, 1),
    "convolution, pooling, convolution": (lambda: nn.Sequential(conv(3, 8), nn.MaxPool2d(2), conv(8, 8)), 8, 5),
    "pooling, convolution": (lambda: nn.Sequential(nn.MaxPool2d(2), conv(3, 8)), 4, 2),
    "no padding": (lambda: nn.Sequential(conv(3, 8, padding=0), conv(8, 8, padding=0)), 4, -3),
    "three without padding": (lambda: nn.Sequential(conv(3, 8, padding=0), conv(8, 8, 1, padding=0), conv(8, 8, 1, padding=0)), 2, -9),
    "stride 1, no padding": (lambda: conv(3, 8, 1, padding=0), 1, -2),
    "patches of 14": (lambda: conv(3, 8, 14, 14, 0), 14, 0),
    "patches of 16, padded": (lambda: conv(3, 8, 16, 16, 2), 16, 4),
    "stride 64": (lambda: nn.Sequential(*[conv(8 if n else 3, 8) for n in range(6)]), 64, None),
}


@pytest.mark.parametrize("example", [None, (60, 84)], ids=["default", "odd"])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_spec_tells_the_size_of_every_map(name, example):
    make, reduction, offset = ENCODERS[name]
    model = Segmenter(make()).eval()
    cut = split(model, "encoder", example=None if example is None else torch.rand(1, 3, *example))
    assert (cut.spec[0].reduction, cut.spec[0].offset) == (reduction, offset)
    for size in SIZES:
        images = torch.rand(1, 3, *size)
        with torch.no_grad():
            features = cut.encode(images)
            assert tuple(features[0].shape[-2:]) == cut.spec[0].size(size), size
            assert torch.equal(cut.decode(features, size), model(images))


class Patches(nn.Module):
    """A ViT's beginning, with class and register tokens."""

    def __init__(self, patch, prefix, channels_last=False):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, patch, patch), nn.LayerNorm(8)
        self.first = nn.Parameter(torch.rand(1, prefix, 8))

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.norm(torch.cat([self.first.expand(len(images), -1, -1), tokens], 1))


class Transformer(nn.Module):
    def __init__(self, patch, prefix):
        super().__init__()
        self.body, self.head, self.patch, self.prefix = Patches(patch, prefix), nn.Conv2d(8, 3, 1), patch, prefix

    def forward(self, images):
        size = [side // self.patch for side in images.shape[-2:]]
        return self.head(self.body(images)[:, self.prefix :].transpose(1, 2).unflatten(2, size))


@pytest.mark.parametrize(("patch", "prefix"), [(14, 0), (14, 1), (14, 5), (16, 1), (8, 4)])
def test_patches_are_counted_at_several_sizes(patch, prefix):
    cut = split(Transformer(patch, prefix), "body")
    assert cut.spec.shapes == ((8, patch, 0),)
    for size in ((224, 224), (128, 160), (113, 226)):
        with torch.no_grad():
            assert tuple(cut.encode(torch.rand(2, 3, *size))[0].shape[-2:]) == (size[0] // patch, size[1] // patch)


class Queries(nn.Module):
    """Tokens that do not grow with the image, as Mask2Former's queries."""

    def __init__(self, count):
        super().__init__()
        self.encoder, self.norm = conv(3, 8), nn.LayerNorm(8)
        self.queries, self.attention = nn.Parameter(torch.rand(1, count, 8)), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images):
        pixels = self.encoder(images).flatten(2).transpose(1, 2)
        return self.norm(self.attention(self.queries.expand(len(images), -1, -1), pixels, pixels)[0]).sum(1)


@pytest.mark.parametrize("count", [17, 64, 100, 1024])
def test_queries_are_no_map(count):
    with pytest.raises(SplitError) as error:
        split(Queries(count), "norm", example=torch.rand(1, 3, 64, 64))
    assert str(error.value) == (
        'split: the tensor that crosses at "norm" is no feature map.\n'
        f"  given:   [1, {count}, 8] float32 for images of 64 x 64, [1, {count}, 8] for 449 x 1791\n"
        "  needed:  (B, channels, h, w), (B, h, w, channels) or tokens (B, h w, channels), float, with h and w in proportion to the image\n"
        "If this is one, pass example= images of a size that the stride divides."
    )


def test_a_grid_of_fixed_size_is_no_map():
    model = Segmenter(nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(8)))
    with pytest.raises(SplitError, match="is no feature map"):
        split(model, "encoder")
    assert not {"encoder", "encoder.1"} & {place.at for place in feataug.cuts(model)}


class FixedSize(nn.Module):
    """Takes images of one size alone."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 8, 16, 16), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        if images.shape[-2:] != (224, 224):
            raise ValueError("224 x 224 alone")
        return self.head(self.encoder(images))


def test_a_model_of_one_size_is_measured_at_that():
    cut = split(FixedSize(), "encoder", example=torch.rand(1, 3, 224, 224))
    assert cut.spec.shapes == ((8, 16, 0),)
    with pytest.raises(SplitError) as error:
        split(FixedSize(), "encoder")
    assert str(error.value) == (
        "split: the model does not take zeros of 3 x 128 x 128.\n"
        "  given:   no example; ValueError: 224 x 224 alone\n"
        "  needed:  images that the model takes, on its device\n"
        "Pass example=: a batch as the model gets it in training, such as torch.zeros(1, 4, 224, 224),\n"
        'or a dictionary of all its arguments, {"pixel_values": images, "labels": masks}.'
    )
    # Images of the user's that it does not take are the user's affair: the model's own error, with a note.
    with pytest.raises(ValueError, match="224 x 224 alone") as raised:
        split(FixedSize(), "encoder", example=torch.rand(1, 3, 96, 96))
    assert raised.value.__notes__ == ["split: raised by the model when it was called with the example (images of 3 x 96 x 96)."]


def test_shapes_at_other_sizes_tell_layouts_apart():
    # 8 x 8 cells of 8 channels: maps in either order.
    tensor = torch.zeros(1, 8, 8, 8)
    assert Layout.of(tensor, 1, (64, 64)).kind == "nchw"
    assert Layout.of(tensor, 1, (64, 64), {(64, 128): (1, 8, 16, 8)}).kind == "nhwc"
    assert Layout.of(tensor, 1, (64, 64), {(64, 128): (1, 8, 8, 16)}).kind == "nchw"
    assert Layout.of(tensor, 1, (64, 64), {(64, 128): (1, 8, 8, 8)}) is None
    tokens = torch.zeros(1, 82, 8)
    assert Layout.of(tokens, 1, (128, 128)).reduction == 15
    layout = Layout.of(tokens, 1, (128, 128), {(131, 563): (1, 361, 8)})
    assert (layout.reduction, layout.prefix, layout.offset) == (14, 1, 0)


def test_near_sizes_alone_prefer_a_network_that_pads():
    # 14 cells for 223, 224 and 225 pixels: 16 and a padding, not 14 and a loss of 16 pixels.
    layout = Layout.of(torch.zeros(1, 384, 14, 14), 1, (224, 224), {(223, 225): (1, 384, 14, 14)})
    assert layout.reduction == 16
    assert layout.between == (1, 14)
    # Hardly any network has a stride of 31.
    layout = Layout.of(torch.zeros(1, 64, 4, 4), 1, (128, 128), {(127, 129): (1, 64, 4, 4), (449, 895): (1, 64, 14, 28)})
    assert layout.reduction == 32


def test_specs_keep_their_offsets():
    floor, ceil = LevelSpec("x", 8, 16, offset=0), LevelSpec("x", 8, 16)
    assert (floor.size((60, 84)), ceil.size((60, 84))) == ((3, 5), (4, 6))
    spec = FeatureSpec((floor, ceil))
    assert FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    # What was saved before there were offsets is read as before, and written as before.
    assert "offset" not in spec.to_dict()["levels"][1]
    assert repr(floor) == "LevelSpec(name='x', channels=8, reduction=16, offset=0)"
    assert FeatureSpec((floor,)).shapes == FeatureSpec((ceil,)).shapes
    for wrong in (0.5, True, "0"):
        with pytest.raises(ConfigError) as error:
            LevelSpec("x", 8, 16, offset=wrong)
        assert str(error.value) == (
            f"LevelSpec: offset is out of range.\n  given:   {wrong!r}\n  needed:  an integer, or None; of a map"
        )


class UNet(nn.Module):
    """Pools, and pads what it has enlarged: the usual one."""

    def __init__(self):
        super().__init__()
        self.first = conv(3, 6, 1)
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), conv(6, 6, 1)) for _ in range(3))
        self.up = nn.ModuleList(conv(12, 6, 1) for _ in range(3))
        self.out = nn.Conv2d(6, 3, 1)

    def forward(self, images):
        maps = [self.first(images)]
        for stage in self.down:
            maps.append(stage(maps[-1]))
        hidden = maps.pop()
        for stage in self.up:
            skip = maps.pop()
            hidden = F.interpolate(hidden, scale_factor=2)
            missing = [b - a for a, b in zip(hidden.shape[-2:], skip.shape[-2:], strict=True)]
            hidden = stage(torch.cat([skip, F.pad(hidden, (0, missing[1], 0, missing[0]))], 1))
        return self.out(hidden)


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_a_pooling_u_net_goes_all_the_way(tmp_path):
    torch.manual_seed(0)
    model, size = UNet(), (60, 84)
    cut = split(model, ["first", "down.0", "down.1", "down.2"])
    assert [(level.reduction, level.size(size)) for level in cut.spec] == [
        (1, (60, 84)),
        (2, (30, 42)),
        (4, (15, 21)),
        (8, (7, 10)),
    ]
    generator = feataug.FeatureGenerator(3, cut.spec, width=8, depth=1)
    loader = [(torch.rand(2, 3, *size), torch.randint(3, (2, *size)))]
    config = feataug.GeneratorConfig(num_images=4)
    feataug.GeneratorTrainer(generator, cut, config, device="cpu", progress=False).fit(loader)
    generator.save_pretrained(tmp_path)
    generator = feataug.FeatureGenerator.from_pretrained(tmp_path, cut=cut)
    assert [tuple(f.shape[-2:]) for f in generator(loader[0][1])] == [(60, 84), (30, 42), (15, 21), (7, 10)]
    mixer = feataug.FeatureMixer(generator, feataug.DatasetMasks(loader[0][1]), ratio=0.5)
    with mixer.on(cut, loader[0][1]) as batch:
        out = model(loader[0][0])
    assert mixer.loss(out, batch).isfinite()


@pytest.mark.parametrize("name", ["pooling", "patches of 14", "padded convolutions"])
def test_without_a_twin_the_model_itself_is_measured(name, monkeypatch):
    with_twin = split(Segmenter(ENCODERS[name][0]()), "encoder")
    assert with_twin._executor.planner.twin is not None
    monkeypatch.setattr(DecodePlanner, "_verified_twin", lambda self: None)
    model = Segmenter(ENCODERS[name][0]()).eval()
    cut = split(model, "encoder")
    assert cut._executor.planner.twin is None
    assert cut.spec == with_twin.spec
    assert cut.one_pass == with_twin.one_pass
    images = torch.rand(3, 3, 77, 91)
    with torch.no_grad():
        assert torch.equal(cut.decode(cut.encode(images), (77, 91)), model(images))


def test_a_twin_that_goes_another_way_is_not_trusted():
    class Suspicious(Segmenter):
        def forward(self, images):
            hidden = self.encoder(images)
            return self.head(hidden if images.device.type == "meta" else F.relu(hidden))

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = conv(3, 8), nn.ReLU()

        def forward(self, images):
            # Says another thing of itself where there are no numbers.
            return self.conv(images)[..., ::2] if images.device.type == "meta" else self.act(self.conv(images))

    assert split(Suspicious(conv(3, 8)), "encoder")._executor.planner.twin is not None  # after the cut nobody asks it
    model = Segmenter(Other()).eval()
    cut = split(model, "encoder")
    assert cut._executor.planner.twin is None
    images = torch.rand(2, 3, 40, 48)
    with torch.no_grad():
        assert torch.equal(cut.decode(cut.encode(images), (40, 48)), model(images))
