"""Evaluation leaves a model as it was; the recognition score of real features is one, and that of noise is low."""

import pytest
import torch
from torch import nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import LabelError
from feataug.inference.evaluate import evaluate
from feataug.inference.recognition import recognition
from feataug.metrics import SegmentationMetrics


class TinyModel(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.decoder = nn.Conv2d(4, num_classes, 1)

    def forward(self, images):
        return self.decoder(self.encoder(images))


def tiny_loader(batches=2, num_classes=3):
    rng = torch.Generator().manual_seed(0)
    return [
        (torch.randn(2, 3, 8, 12, generator=rng), torch.randint(num_classes, (2, 8, 12), generator=rng)) for _ in range(batches)
    ]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_evaluate_leaves_every_mode_as_it_was(training, frozen):
    model = TinyModel().train(training)
    model.encoder[1].train(not frozen)  # a frozen batch norm, as many fine-tune
    modes = {name: module.training for name, module in model.named_modules()}
    seen = []
    model.decoder.register_forward_hook(lambda *_: seen.append([m.training for m in model.modules()]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, tiny_loader(), 3)
    assert seen
    assert not any(any(flags) for flags in seen)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluate_restores_modes_after_an_error_and_takes_any_callable():
    model = TinyModel().train()
    with pytest.raises(LabelError):
        evaluate(model, [(torch.zeros(1, 3, 8, 8), torch.full((1, 8, 8), 9))], 3)
    assert all(module.training for module in model.modules())
    direct = SegmentationMetrics(3)
    for images, masks in tiny_loader():
        direct.update(model.eval()(images), masks)
    assert evaluate(lambda images: {"out": model(images), "aux": images}, tiny_loader(), 3) == direct.compute()


class StandIn(nn.Module):
    """In a generator's place: returns features of its own choice, one batch after the other."""

    spec, num_classes, latent_dim = FeatureSpec((LevelSpec("encoder", 4, 2),)), 3, 2

    def __init__(self, batches):
        super().__init__()
        self.batches = iter(batches)

    def draw_z(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng)

    def forward(self, masks, z=None, *, samples=1):
        assert (samples, len(z)) == (2, 2 * len(masks))
        return (next(self.batches),)

    def standardize(self, features):
        return features


class HalvesOf:
    """A cut, as far as the recognition score knows."""

    def __init__(self, model):
        self.model = model

    def encode(self, images):
        return (self.model.encoder(images),)

    def decode(self, features, image_size):
        return self.model.decoder(features[0])


@pytest.fixture
def cut():
    torch.manual_seed(0)
    return HalvesOf(TinyModel().train())


def masks_of(cut, loader):
    """Masks that the model gets nearly right, so that the recognition score has something to lose."""
    out = []
    for images, masks in loader:
        logits = nn.functional.interpolate(cut.model.eval()(images), (8, 12), mode="bilinear", align_corners=False)
        out.append((images, torch.where(torch.rand(masks.shape) < 0.9, logits.argmax(1), masks)))
    cut.model.train()
    return out


def test_recognition_of_the_real_features_is_one(cut):
    loader = masks_of(cut, tiny_loader())
    cut.model.eval()
    generator = StandIn([torch.cat([cut.encode(images)[0]] * 2).detach() for images, _ in loader])
    cut.model.train()
    result = recognition(cut, generator, loader)
    assert set(result) == {"real", "synthetic", "ratio", "diversity"}
    assert result["real"] == result["synthetic"]
    assert result["real"]["miou"] > 50
    assert result["ratio"] == 1
    # Apart from the real features by rounding, or by nothing at all, where it is not defined.
    assert not result["diversity"] > 0
    assert all(module.training for module in (*cut.model.modules(), *generator.modules()))


def test_recognition_of_noise_is_low(cut):
    loader = masks_of(cut, tiny_loader())
    rng = torch.Generator().manual_seed(1)
    noise = [torch.randn(4, 4, 4, 6, generator=rng) for _ in loader]
    result = recognition(cut, StandIn(noise), loader)
    assert result["ratio"] < 0.6
    # By hand: mean difference of the two halves over that of the first half from the real features.
    real = [cut.model.eval().encoder(images).detach() for images, _ in loader]
    within = sum(float((n[:2] - n[2:]).abs().mean()) for n in noise)
    across = sum(float((n[:2] - f).abs().mean()) for n, f in zip(noise, real, strict=True))
    assert result["diversity"] == pytest.approx(within / across, rel=1e-5)
