"""The training step against the same objective written plainly (benchmarks/plain_objective.py)."""

import pytest
import torch
from torch import nn

from benchmarks.plain_objective import OneHotConv, OneHotShares, PlainObjective
from feataug import FeatureGenerator, GeneratorConfig, split
from feataug.errors import TrainingError
from feataug.generation.layers.spectral_norm import OLD_NAMES, SpectralConv2d
from feataug.training.bicyclegan import BicycleGANObjective
from feataug.training.device import make_accelerator

CLASSES, SIZE = 5, (32, 48)


def make(kind, config):
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
    model = nn.Sequential(stem, nn.Conv2d(12, CLASSES, 1)).eval().requires_grad_(False)
    cut = split(model, "0")
    generator = FeatureGenerator(CLASSES, cut.spec, "bicyclegan", mask_widths=(6, 12), width=12, depth=1, latent_dim=3).train()
    generator.set_statistics([torch.full((12,), 0.1)], [torch.full((12,), 0.5)])
    objective = kind(generator, cut, config)
    objective.prepare(make_accelerator("cpu", "no") if kind is BicycleGANObjective else torch.device("cpu"))
    # Ours computes a spectral norm once where the plain one does so for each use: the iteration must have ended for both to be the same.
    with torch.no_grad():
        for judge in (objective.parts["judge_encoded"], objective.parts["judge_random"]):
            for _ in range(100):
                judge(torch.zeros(1, *SIZE, dtype=torch.long), [torch.zeros(1, 12, 8, 12)])
    return objective


def batch(seed=0, count=5):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(CLASSES, (count, *SIZE), generator=rng)
    masks[:, :9] = 2
    return torch.randn(count, 3, *SIZE, generator=rng), masks.masked_fill(torch.rand(masks.shape, generator=rng) < 0.05, 255)


def _own(name):
    """The name of a parameter where torch's spectral norm calls it otherwise."""
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize(
    "changes", [{}, {"critic_masks": "aspp"}, {"task_weight": 0.0, "diversity_weight": 0.0, "l1_weight": 10.0}], ids=str
)
def test_every_loss_and_every_gradient_is_that_of_the_plain_objective(changes):
    config = GeneratorConfig.bicyclegan(seed=3, critic_width=8, **changes)
    ours, plain = make(BicycleGANObjective, config), make(PlainObjective, config)
    # The other side is really the plain one.
    kinds = {type(m) for m in (*plain.generator.modules(), *plain.parts.modules())}
    assert OneHotConv in kinds
    assert SpectralConv2d not in kinds
    assert (OneHotShares in kinds) == (config.critic_masks == "shares")
    images, masks = batch()
    found, expected = ours.step(images, masks, 40), plain.step(images, masks, 40)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    pairs = [(ours.generator, plain.generator), (ours.parts, plain.parts)]
    for a, b in pairs:
        gradients = [{_own(name): p.grad for name, p in module.named_parameters()} for module in (a, b)]
        assert gradients[0].keys() == gradients[1].keys()
        assert all((gradients[0][name] is None) == (gradients[1][name] is None) for name in gradients[0])
        for name, gradient in gradients[1].items():
            if gradient is not None:
                torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_single_sample_cannot_be_halved():
    with pytest.raises(TrainingError, match=r"^GeneratorTrainer: batches are too small\.\n  given:   1 sample\n"):
        make(BicycleGANObjective, GeneratorConfig.bicyclegan()).step(*batch(count=1), 0)
