"""The filter keeps what the reference decoder recognises and rejects the rest."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.errors import ConfigError, DataError

CLASSES = 4


class Known(nn.Module):
    """Class ``k`` is where channel ``k`` of the features is large; the encoder reads it off the image."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, CLASSES, 1)
        self.head = nn.Conv2d(CLASSES, CLASSES, 1)
        with torch.no_grad():
            self.head.weight.copy_(4 * torch.eye(CLASSES)[..., None, None])
            self.head.bias.zero_()

    def forward(self, images):
        return self.head(self.encoder(images))


class Right(nn.Module):
    """Emits features that fit their masks, or noise, with some deviation."""

    def __init__(self, spec, noise=False):
        super().__init__()
        self.spec, self.latent_dim, self.num_classes, self.ignore_index, self.noise = spec, 2, CLASSES, 255, noise

    def forward(self, masks, z):
        clean = F.one_hot(masks.clamp(max=CLASSES - 1), CLASSES).movedim(-1, 1).float()
        rng = torch.Generator().manual_seed(0)
        drawn = torch.randn(clean.shape, generator=rng)
        return (2 * drawn if self.noise else clean + 0.02 * drawn,)


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = Known().eval()
    cut = feataug.split(model, "encoder", example=torch.rand(1, 3, 8, 8))
    masks = torch.randint(CLASSES, (6, 8, 8))
    masks[:, 0] = 255
    # The mean loss of each class on "real" features, by the slow way.
    features = F.one_hot(masks.clamp(max=CLASSES - 1), CLASSES).movedim(-1, 1).float() + 0.1 * torch.randn(6, CLASSES, 8, 8)
    with torch.no_grad():
        pixels = F.cross_entropy(cut.decode(features, (8, 8)), masks, ignore_index=255, reduction="none")
    means = torch.stack([pixels[masks == number].mean() for number in range(CLASSES)])
    return cut, masks, means


def test_it_keeps_good_pixels_and_rejects_noise(setting):
    cut, masks, means = setting
    pixel_filter = feataug.PixelFilter(cut.clone(), means)
    kept = pixel_filter(Right(cut.spec)(masks, None), masks)
    assert pixel_filter.rejected < 0.1
    before = masks.clone()
    noisy = pixel_filter(Right(cut.spec, noise=True)(masks, None), masks)
    assert pixel_filter.rejected > 0.5
    assert torch.equal(masks, before)
    for result in (kept, noisy):
        assert ((result == masks) | (result == 255)).all()
        assert (result[masks == 255] == 255).all()


@pytest.mark.parametrize("factor", [0.5, 1.25, 3.0])
def test_it_agrees_with_a_loop_over_pixels(setting, factor):
    cut, masks, means = setting
    means = means.clone()
    means[2] = float("nan")  # a class that was not measured
    features = Right(cut.spec, noise=True)(masks, None)
    found = feataug.PixelFilter(cut, means, factor=factor)(features, masks)
    logits = cut.decode(features, (8, 8)).detach()
    for sample in range(len(masks)):
        for row in range(8):
            for column in range(8):
                label = int(masks[sample, row, column])
                expected = label
                if label != 255:
                    loss = float(-logits[sample, :, row, column].log_softmax(0)[label])
                    if label != 2 and loss > factor * float(means[label]):
                        expected = 255
                assert int(found[sample, row, column]) == expected


def test_fit_measures_each_class_on_real_images_and_copies_the_model(setting):
    cut, masks, _ = setting
    images = torch.rand(6, 3, 8, 8)
    loader = [(images[:4], masks[:4]), (images[4:], masks[4:])]
    pixel_filter = feataug.PixelFilter.fit(cut, loader, CLASSES + 1)
    with torch.no_grad():
        pixels = F.cross_entropy(cut.model(images), masks, ignore_index=255, reduction="none")
    for number in range(CLASSES):
        torch.testing.assert_close(pixel_filter.class_loss[number], pixels[masks == number].mean())
    assert pixel_filter.class_loss[CLASSES].isnan()
    # Training the model further does not move the reference.
    features = Right(cut.spec, noise=True)(masks, None)
    before = pixel_filter(features, masks)
    with torch.no_grad():
        cut.model.head.weight.zero_()
    assert torch.equal(pixel_filter(features, masks), before)
    with pytest.raises(DataError, match=r"^PixelFilter: no valid pixel\."):
        feataug.PixelFilter.fit(cut, [(images, torch.full_like(masks, 255))], CLASSES)
    with pytest.raises(ConfigError, match=r"^PixelFilter: factor is out of range\."):
        feataug.PixelFilter(cut, torch.ones(CLASSES), factor=0)


@pytest.mark.parametrize("way", ["forward", "on"])
def test_the_mixer_leaves_rejected_pixels_out_of_the_loss(setting, way):
    cut, masks, means = setting
    images = torch.rand(4, 3, 8, 8)

    def mixed(pixel_filter):
        generator = Right(cut.spec, noise=True)
        mixer = feataug.FeatureMixer(generator, feataug.DatasetMasks(masks), ratio=0.5, pixel_filter=pixel_filter, seed=3)
        if way == "forward":
            batch = mixer(cut.encode(images), masks[:4])
            out = cut.decode(batch.features, (8, 8))
        else:
            with mixer.on(cut, masks[:4]) as batch:
                out = cut.model(images)
        return batch, mixer.loss(out, batch), out, mixer

    plain, loss, _, mixer = mixed(None)
    filtered, less, out, filtering = mixed(feataug.PixelFilter(cut.clone(), means))
    assert plain.num_synthetic == filtered.num_synthetic == 4
    assert torch.equal(plain.masks[:4], filtered.masks[:4])
    assert (filtered.masks[4:] == 255).sum() > (plain.masks[4:] == 255).sum()
    assert less < loss
    torch.testing.assert_close(less, F.cross_entropy(out, filtered.masks, ignore_index=255), rtol=1e-3, atol=1e-4)
    assert "pixel_filter" not in mixer.settings()
    assert filtering.settings()["pixel_filter"] == 1.25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_reference_follows_the_features_to_another_device(setting):
    cut, masks, means = setting
    here, there = feataug.PixelFilter(cut.clone(), means), feataug.PixelFilter(cut.clone(), means)
    (features,) = Right(cut.spec, noise=True)(masks, None)
    assert (here((features,), masks) == there((features.cuda(),), masks.cuda()).cpu()).float().mean() > 0.95


def test_a_clone_of_a_cut_is_on_its_own(setting):
    cut, _, _ = setting
    twin = cut.clone()
    assert twin.spec == cut.spec
    assert twin.model is not cut.model
    assert len(twin.model.encoder._forward_hooks) == 1
    images = torch.rand(2, 3, 8, 8)
    synthetic = torch.rand(1, CLASSES, 8, 8)
    with cut.mixing(synthetic):
        assert len(twin.model(images)) == 2
        assert len(cut.model(images)) == 3
    with twin.mixing(synthetic):
        assert len(twin.model(images)) == 3
