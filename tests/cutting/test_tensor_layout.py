"""Pyramids and tokens go all the way: layouts, generator, trainer, mixer, measures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import feataug
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.tensor_layout import Layout
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.errors import ConfigError
from tests.support import model_zoo

SPEC = FeatureSpec((LevelSpec("a", 12, 16), LevelSpec("a.prefix", 12, 0, 5), LevelSpec("b", 6, 4), LevelSpec("c", 7, 7)))


@pytest.mark.parametrize(
    ("shape", "kind", "reduction", "prefix"),
    [
        ((2, 8, 4, 6), "nchw", 16, 0),
        ((2, 4, 6, 8), "nhwc", 16, 0),
        ((2, 24, 8), "nlc", 16, 0),
        ((2, 25, 8), "nlc", 16, 1),
        ((2, 29, 8), "nlc", 16, 5),
        ((2, 1, 8), "tokens", 0, 1),
        ((2, 8, 64, 96), "nchw", 1, 0),
    ],
    ids=str,
)
def test_a_layout_is_recognised_and_turned_without_a_copy(shape, kind, reduction, prefix):
    tensor = torch.randn(shape)
    layout = Layout.of(tensor, 2, (64, 96))
    assert (layout.kind, layout.reduction, layout.prefix) == (kind, reduction, prefix)
    levels = layout.to_levels(tensor, (64, 96))
    specs = layout.specs("x")
    assert len(levels) == len(specs) == layout.count
    for level, spec in zip(levels, specs, strict=True):
        assert level.shape == (2, spec.channels, *spec.size((64, 96)))
        assert level.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    assert torch.equal(layout.to_tensor(levels), tensor)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, 4096), torch.zeros(2, 8, 5, 6), torch.zeros(4, 24, 8), torch.zeros(2, 0, 4, 6), torch.zeros(2, 8, 4, 6).long()],
    ids=lambda t: f"{list(t.shape)} {t.dtype}",
)
def test_no_feature_map(tensor):
    assert Layout.of(tensor, 2, (64, 96)) is None


@pytest.mark.parametrize(
    ("image_size", "shape", "reduction"),
    [
        ((224, 224), (1, 384, 4, 4), 64),  # 56 would do, too, and divides the image; no network has it
        ((98, 98), (1, 8, 7, 7), 14),
        ((713, 713), (1, 8, 90, 90), 8),
        ((713, 713), (1, 8, 23, 23), 32),
        ((224, 224), (1, 256, 384), 14),
        ((240, 320), (1, 8, 8, 10), 32),
        ((65, 65), (1, 8, 2, 2), 64),
    ],
    ids=str,
)
def test_the_likeliest_stride_is_chosen(image_size, shape, reduction):
    layout = Layout.of(torch.zeros(shape), 1, image_size)
    assert layout.reduction == reduction
    assert layout.size(shape, image_size) == layout.specs("x")[0].size(image_size)


def test_specs_of_tokens():
    assert SPEC[1].size((713, 713)) == (1, 5)
    assert SPEC.finest == 4
    assert SPEC.layers == ("a", "b", "c")
    assert FeatureSpec.from_dict(SPEC.to_dict()) == SPEC
    assert repr(SPEC[1]) == "LevelSpec(name='a.prefix', channels=12, reduction=0, tokens=5)"
    assert repr(SPEC[0]) == "LevelSpec(name='a', channels=12, reduction=16)"
    with pytest.raises(ConfigError) as error:
        LevelSpec("x", 4, 0)
    assert str(error.value) == "LevelSpec: reduction is out of range.\n  given:   0\n  needed:  an integer of at least 1"
    with pytest.raises(ConfigError) as error:
        LevelSpec("x", 4, 8, 1)
    assert str(error.value) == "LevelSpec: tokens have no stride.\n  given:   reduction 8, tokens 1\n  needed:  one of them 0"


def small(spec, preset="flow"):
    return feataug.FeatureGenerator(10, spec, preset, width=8, depth=1)


@pytest.mark.parametrize("preset", ["flow", "bicyclegan"])
@pytest.mark.parametrize("size", [(64, 96), (61, 50)], ids=str)
def test_all_levels_come_from_one_mask_and_one_z(size, preset, tmp_path):
    torch.manual_seed(0)
    generator = small(SPEC, preset).eval()
    masks = torch.randint(10, (2, *size))
    z = generator.draw_z(masks)
    with torch.no_grad():
        features = generator(masks, z)
        assert [tuple(f.shape) for f in features] == [(2, s.channels, *s.size(size)) for s in SPEC]
        other_z, other_masks = generator(masks, -z), generator(masks.flip(0), z)
        for level, by_z, by_mask in zip(features, other_z, other_masks, strict=True):
            assert not torch.equal(level, by_z)
            assert not torch.equal(level, by_mask)
        generator.save_pretrained(tmp_path)
        again = feataug.FeatureGenerator.from_pretrained(tmp_path).eval()
        assert all(torch.equal(a, b) for a, b in zip(features, again(masks, z), strict=True))
    means, stds = ([torch.rand(12) + 1, torch.rand(12, 5) + 1, torch.rand(6) + 1, torch.rand(7) + 1] for _ in range(2))
    generator.set_statistics(means, stds)
    with torch.no_grad():
        units = generator(masks, z, standardized=True)
        own = generator(masks, z)
        torch.testing.assert_close(own[1][0, :, 0, 3], units[1][0, :, 0, 3] * stds[1][:, 3] + means[1][:, 3])
        for a, b in zip(generator.standardize(own), units, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"^FeatureGenerator: the spec has no feature map, only tokens\."):
        small(FeatureSpec((LevelSpec("t", 4, 0, 1),)))


class Segmenter(nn.Module):
    """A ViT with registers; its own head."""

    def __init__(self):
        super().__init__()
        self.body = model_zoo.TimmViT(reg_tokens=2)
        self.body.head = nn.Conv2d(48, 10, 1)

    def forward(self, images):
        return self.body(images)


def fpn():
    model = model_zoo.EncoderDecoderMM(neck=True, indices=(0, 1, 2, 3))
    model.decode_head.conv_seg = nn.Conv2d(8, 10, 1)
    return model


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
@pytest.mark.parametrize(("make", "at"), [(Segmenter, "body.vit.blocks.1"), (fpn, "backbone")], ids=["tokens", "pyramid"])
def test_the_whole_way(make, at, tmp_path):
    torch.manual_seed(0)
    model = make()
    data = Scenes(8, (64, 64), transforms=eval_transforms())
    loader = seeded_loader(data, 4, shuffle=False)
    cut = feataug.split(model, at, example=torch.rand(1, 3, 64, 64))
    assert len(cut.spec) > 1
    generator = small(cut.spec)
    config = feataug.GeneratorConfig(num_images=8, stats_images=8, snapshot_images=4)
    results = feataug.GeneratorTrainer(generator, cut, config, output=tmp_path / "g", device="cpu", progress=False).fit(
        loader, loader
    )
    assert 0 <= results[-1]["synthetic"]["miou"] <= 100
    assert results[-1]["diversity"] > 0
    # The statistics are those of the real features, for each channel, and for each token where there are tokens.
    model.eval()
    with torch.no_grad():
        parts = zip(*(cut.encode(images) for images, _ in loader), strict=True)
    for number, (level, spec) in enumerate(zip(map(torch.cat, parts), cut.spec, strict=True)):
        rows = level.movedim(1, -1)[:, 0].movedim(1, -1) if spec.tokens else level.movedim(1, -1).flatten(0, 2)
        torch.testing.assert_close(getattr(generator, f"mean_{number}"), rows.mean(0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(getattr(generator, f"std_{number}"), rows.std(0, correction=0), rtol=1e-3, atol=1e-4)
    masks = feataug.HardNegativeSampler(feataug.DatasetMasks(data), candidates=4, keep=2, refresh_every=1)
    mixer = feataug.FeatureMixer(generator, masks, cut=cut)
    with torch.no_grad():
        images, targets = next(iter(loader))
        batch = mixer(cut.encode(images), targets)
        assert batch.num_synthetic in (1, 2)
        assert len(cut.decode(batch.features, (64, 64))) == 4 + batch.num_synthetic
    tuner = feataug.Finetuner(
        model, feataug.FinetuneConfig(num_steps=2, lr=0.01), mixer=mixer, cut=cut, device="cpu", progress=False
    )
    figures = tuner.fit(loader, loader, num_classes=10)[-1]
    assert figures["miou"] >= 0
    tuner.update_bn(loader)


@pytest.mark.parametrize("training", [False, True])
def test_a_decoder_that_works_in_place_leaves_the_callers_features(training):
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.0, inplace=True), nn.Conv2d(6, 5, 1))
    cut = feataug.split(encoder=nn.Conv2d(3, 6, 3, 2, 1), decoder=decoder, example=torch.rand(1, 3, 16, 16))
    cut.model.train(training)
    features = torch.randn(2, 6, 8, 8)
    kept = features.clone()
    first = cut.decode(features, (16, 16))
    for _ in range(3):
        assert torch.equal(cut.decode(features, (16, 16)), first)
        assert torch.equal(features, kept)
    # Only one of these works in place, and only while it trains.
    decoder[0].inplace = False
    cut = feataug.split(encoder=nn.Conv2d(3, 6, 3, 2, 1), decoder=decoder, example=torch.rand(1, 3, 16, 16))
    cut.model.train(training)
    for module in (cut.model.eval(), cut.model.train()):
        for _ in range(2):
            assert len(cut.decode(features, (16, 16))) == 2
            assert torch.equal(features, kept), module.training


def test_update_bn_measures_real_images_only():
    model, _ = model_zoo.build("mmseg fcn")
    data = Scenes(8, (64, 64), transforms=eval_transforms())
    loader = seeded_loader(data, 4, shuffle=False)
    tuner = feataug.Finetuner(model, feataug.FinetuneConfig(num_steps=1), device="cpu", progress=False)
    model.train()
    tuner.update_bn(loader)
    norm = model.backbone.stages[0][1]
    with torch.no_grad():
        inputs = [model.backbone.stages[0][0](images) for images, _ in loader]
    expected = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert model.training
