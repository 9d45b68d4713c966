"""Weights by how often classes are predicted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, FeatureSpec, LevelSpec, deficit_weights
from feataug.core import crop_sizes
from feataug.errors import ConfigError, DataError, LabelError, ShapeError
from feataug.losses import segmentation_loss

CLASSES = 4


class Echo(nn.Module):
    """Images are logits already, at half of the masks' size; what it does in training mode is wrong."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return {"out": images if not self.training else -images}


def batch(seed=0, samples=3, size=(12, 10)):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, CLASSES, size[0] // 2, size[1] // 2, generator=rng)
    masks = torch.randint(CLASSES - 1, (samples, *size), generator=rng)
    masks[torch.rand(masks.shape, generator=rng) < 0.1] = 255
    return logits, masks


@pytest.mark.parametrize(("power", "limit"), [(1.0, 8.0), (0.5, 1.1), (0.0, 8.0)])
def test_weights_are_labelled_over_predicted_pixels(power, limit):
    batches = [batch(seed) for seed in range(3)]
    labelled, predicted = [1] * CLASSES, [1] * CLASSES
    for logits, masks in batches:
        found = F.interpolate(logits, masks.shape[-2:], mode="bilinear").argmax(1)
        for label, guess in zip(masks.flatten().tolist(), found.flatten().tolist(), strict=True):
            if label != 255:
                labelled[label] += 1
                predicted[guess] += 1
    expected = [min(max(a / b, 1 / limit), limit) ** power for a, b in zip(labelled, predicted, strict=True)]
    model = Echo().train()
    weights = deficit_weights(model, batches, CLASSES, power, limit=limit)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)
    assert model.training
    # The last class is never labelled: where it is predicted it loses.
    assert power == 0 or weights[-1] < 1


def test_a_class_that_is_neither_labelled_nor_predicted_keeps_its_weight():
    logits, masks = batch()
    never = torch.cat([logits, torch.full_like(logits[:, :1], -1e3)], 1)
    weights = deficit_weights(Echo(), [(never, masks)], CLASSES + 1)
    assert weights[-1] == 1
    assert weights[0] != 1


def test_masks_with_other_classes_than_the_model():
    logits, masks = batch()
    masks[0, 0, 0] = 9
    with pytest.raises(LabelError, match="9"):
        deficit_weights(Echo(), [(logits, masks)], CLASSES)


def test_the_loss_weights_every_pixel_by_its_label():
    logits, masks = batch()
    weights = torch.tensor([0.5, 3.0, 1.0, 2.0])
    pixels = F.cross_entropy(F.interpolate(logits, masks.shape[-2:], mode="bilinear"), masks, ignore_index=255, reduction="none")
    expected = sum(weights[k] * pixels[masks == k].sum() for k in range(CLASSES)) / (masks != 255).sum()
    torch.testing.assert_close(segmentation_loss(logits, masks, class_weights=weights), expected)
    torch.testing.assert_close(segmentation_loss((logits, logits), masks, class_weights=weights, aux_weight=0.5), 1.5 * expected)
    torch.testing.assert_close(
        segmentation_loss(logits, masks, class_weights=torch.ones(CLASSES)), segmentation_loss(logits, masks)
    )
    assert segmentation_loss(logits, torch.full_like(masks, 255), class_weights=weights) == 0


def make_mixer(weights):
    spec = FeatureSpec((LevelSpec("body", 8, 4),))
    generator = FeatureGenerator(CLASSES, spec, width=4, depth=1)
    source = DatasetMasks(torch.zeros(4, 32, 32, dtype=torch.long))
    return FeatureMixer(generator, source, 0.5, label_smoothing=0.1, class_weights=weights)


def test_the_mixer_weights_real_and_synthetic_samples():
    weights = torch.tensor([0.5, 3.0, 1.0, 2.0])
    mixer = make_mixer(weights)
    _, masks = batch(size=(32, 32))
    mixed = mixer(torch.randn(3, 8, 8, 8), masks)
    assert len(mixed.masks) == 6
    out = torch.randn(6, CLASSES, 32, 32)
    parts = [
        F.cross_entropy(out[part], mixed.masks[part], ignore_index=255, reduction="none", label_smoothing=smoothing)
        * weights[mixed.masks[part].masked_fill(mixed.masks[part] == 255, 0)]
        for part, smoothing in ((slice(0, 3), 0.0), (slice(3, 6), 0.1))
    ]
    torch.testing.assert_close(mixer.loss(out, mixed), sum(part.sum() for part in parts) / (mixed.masks != 255).sum())
    assert mixer.settings()["class_weights"] == [0.5, 3.0, 1.0, 2.0]
    assert "class_weights" not in make_mixer(None).settings()
    assert not any("class_weights" in name for name in mixer.state_dict())  # a setting, no state


def test_weights_of_another_number_of_classes():
    with pytest.raises(ShapeError) as error:
        make_mixer(torch.ones(3))
    assert str(error.value) == (
        "FeatureMixer: class_weights do not fit the generator's classes.\n  given:   [3] float32 on cpu\n  needed:  [4]"
    )


@pytest.mark.parametrize(
    ("settings", "name", "given"),
    [({"power": -1}, "power", "-1"), ({"limit": 0.5}, "limit", "0.5"), ({"num_classes": 0}, "num_classes", "0")],
)
def test_numbers_out_of_range(settings, name, given):
    with pytest.raises(ConfigError, match=rf"^deficit_weights: {name} is out of range\.\n  given:   {given}\n"):
        deficit_weights(Echo(), [batch()], **{"num_classes": CLASSES} | settings)


def test_a_loader_of_void():
    logits, masks = batch()
    with pytest.raises(DataError, match=r"^deficit_weights: no valid pixel\.\n  given:   a loader of void\n"):
        deficit_weights(Echo(), [(logits, torch.full_like(masks, 255))], CLASSES)


def test_larger_images_are_counted_in_windows_of_the_size_that_the_model_was_trained_on():
    class ByContext(nn.Module):
        """Takes everything for class 1 on an input of another size than it knows."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images):
            out = images[:, :2].clone()
            out[:, 1] += 100.0 * (images.shape[-1] != 8)
            return out

    torch.manual_seed(0)
    # Windows of 8 on a side of 20: the last one lies over the one before.
    masks = torch.randint(2, (3, 16, 20))
    loader = [(nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2).float(), masks)]
    model = ByContext()
    whole = feataug.deficit_weights(model, loader, 2, window=None)
    assert whole[1] < 1 < whole[0]
    assert feataug.deficit_weights(model, loader, 2, window=(8, 8)).tolist() == [1, 1]
    assert torch.equal(whole, feataug.deficit_weights(model, loader, 2))  # nothing is noted on it
    crop_sizes.note_size(model, (8, 8))
    assert feataug.deficit_weights(model, loader, 2).tolist() == [1, 1]
    # Pixels that count once are no void: masks of one class without void are no error.
    one = [(loader[0][0], torch.ones_like(masks))]
    assert len(feataug.deficit_weights(model, one, 2)) == 2


def test_the_filter_measures_losses_in_windows_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(8, 8)), nn.Conv2d(4, 2, 1))
    images, masks = torch.randn(2, 3, 16, 20), torch.randint(2, (2, 16, 20))
    cut = feataug.split(model, "0", example=torch.zeros(1, 3, 8, 8))
    found = feataug.PixelFilter.fit(cut, [(images, masks)], 2, window=(8, 8)).class_loss
    sums, counts = torch.zeros(2), torch.zeros(2)
    for top in (0, 8):
        for left, skip in ((0, 0), (8, 0), (12, 4)):
            part, mask = images[..., top : top + 8, left : left + 8], masks[:, top : top + 8, left : left + 8]
            loss = nn.functional.cross_entropy(model(part), mask, reduction="none")[..., skip:]
            for k in range(2):
                sums[k] += loss[mask[..., skip:] == k].sum().item()
                counts[k] += (mask[..., skip:] == k).sum()
    assert torch.allclose(found, sums / counts, atol=1e-5)
