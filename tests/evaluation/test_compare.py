import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feataug import DatasetMasks, FeatureGenerator, FinetuneConfig, evaluate, split
from feataug.core.measures import MEASURES
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import ConfigError
from feataug.evaluation import difference, differences, train_arm

SIZE = (32, 48)
CLASSES = Scenes.num_classes


def t_point(df):
    """97.5 % point of Student's t: the density summed step by step until 0.475 lies between it and zero."""
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)

    def density(x):
        return scale * (1 + x * x / df) ** (-(df + 1) / 2)

    x, mass, step = 0.0, 0.0, 1e-3
    while True:
        # Simpson's rule on each step.
        part = step / 6 * (density(x) + 4 * density(x + step / 2) + density(x + step))
        if mass + part >= 0.475:
            return x + step * (0.475 - mass) / part
        x, mass = x + step, mass + part


def slow_difference(first, second):
    gaps = [second[i] - first[i] for i in range(len(first))]
    n = len(gaps)
    mean = math.fsum(gaps) / n
    variance = math.fsum((gap - mean) ** 2 for gap in gaps) / (n - 1)
    half = t_point(n - 1) * math.sqrt(variance / n)
    return {"mean": mean, "low": mean - half, "high": mean + half}


@pytest.mark.parametrize("n", range(2, 17))
def test_difference_agrees_with_students_t(n):
    rng = torch.Generator().manual_seed(n)
    first, second = (torch.randn(2, n, generator=rng, dtype=torch.float64) * 3 + 50).tolist()
    found, expected = difference(first, second), slow_difference(first, second)
    assert found["mean"] == pytest.approx(expected["mean"])
    width = expected["high"] - expected["low"]
    # The table has three decimals.
    assert found["high"] - found["low"] == pytest.approx(width, rel=5e-4)
    assert (found["high"] + found["low"]) / 2 == pytest.approx(expected["mean"])


@pytest.mark.parametrize("n", [17, 20, 40, 200])
def test_beyond_the_table_the_interval_is_not_too_narrow(n):
    rng = torch.Generator().manual_seed(n)
    first, second = torch.randn(2, n, generator=rng, dtype=torch.float64).tolist()
    found, expected = difference(first, second), slow_difference(first, second)
    ratio = (found["high"] - found["low"]) / (expected["high"] - expected["low"])
    assert ratio == pytest.approx(1, abs=0.01)


def test_the_oracle_notices_the_normals_point():
    # A test of the test: 1.96 in place of t, for three pairs.
    found, expected = difference([0, 0, 0], [1, 2, 4]), slow_difference([0, 0, 0], [1, 2, 4])
    assert found["high"] == pytest.approx(expected["high"], rel=1e-3)
    narrow = expected["mean"] + (expected["high"] - expected["mean"]) * 1.96 / t_point(2)
    assert narrow != pytest.approx(found["high"], rel=0.1)


def test_single_pair_has_no_interval():
    assert difference([50.0], [51.5]) == {"mean": 1.5, "low": None, "high": None}


def test_identical_values():
    assert difference([3.0, 5.0, 7.0], [3.0, 5.0, 7.0]) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert difference([3.0, 5.0], [4.0, 6.0]) == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_swapping_the_arms_turns_the_interval_round():
    forth, back = difference([1.0, 2.0, 5.0], [2.0, 2.5, 9.0]), difference([2.0, 2.5, 9.0], [1.0, 2.0, 5.0])
    assert back == {"mean": -forth["mean"], "low": -forth["high"], "high": -forth["low"]}


def test_refuses_no_pairs_and_odd_ones():
    with pytest.raises(ConfigError) as error:
        difference([], [])
    assert str(error.value) == ("difference: number of pairs is out of range.\n  given:   0\n  needed:  an integer in [1, inf)")
    with pytest.raises(ValueError, match="shorter"):
        difference([1.0, 2.0], [1.0])


def test_differences_in_all_measures():
    control = [dict.fromkeys(MEASURES, 50.0), dict.fromkeys(MEASURES, 52.0)]
    better = [arm | {"miou": arm["miou"] + 1, "per_class": {}} for arm in control]
    found = differences(control, better)
    assert set(found) == set(MEASURES)
    assert found["miou"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["pixel_acc"]["mean"] == 0.0


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(8, CLASSES, 1))

    def forward(self, images):
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:], mode="bilinear")


def scenes():
    return Scenes(6, SIZE, transforms=train_transforms(SIZE))


def run(model, **kwargs):
    def validate(trained):
        return evaluate(trained, seeded_loader(scenes(), 3, shuffle=False), CLASSES)

    config = FinetuneConfig(num_steps=3, lr=0.05)
    return train_arm(model, "encoder", seeded_loader(scenes(), 3), validate, config, device="cpu", progress=False, **kwargs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyModel()


@pytest.fixture
def mixing(model):
    spec = split(model, "encoder", example=torch.zeros(1, 3, *SIZE)).spec
    torch.manual_seed(1)
    generator = FeatureGenerator(CLASSES, spec, width=8, depth=1)
    return {"generator": generator, "masks": DatasetMasks(scenes()), "ratio": 0.4}


def weights(module):
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


@pytest.mark.parametrize("mixed", [False, True])
def test_an_arm_leaves_the_given_model_alone(model, mixing, mixed):
    model.encoder[1].eval()
    before, modes = weights(model), [module.training for module in model.modules()]
    generator = weights(mixing["generator"])
    trained, figures = run(model, **(mixing if mixed else {}))
    assert torch.equal(weights(model), before)
    assert [module.training for module in model.modules()] == modes
    assert not model.encoder._forward_hooks
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(weights(mixing["generator"]), generator)
    assert trained is not model
    assert not torch.equal(weights(trained), before)
    assert set(figures) == {*MEASURES, "per_class", "absent", "seconds", "as_trained"}
    assert set(figures["as_trained"]) == {"progress", *MEASURES, "per_class", "absent"}
    assert figures["as_trained"]["progress"] == 3


def test_arms_differ_by_the_synthetic_features_alone(model, mixing):
    control, again, ours = run(model)[0], run(model)[0], run(model, **mixing)[0]
    assert torch.equal(weights(control), weights(again))
    assert not torch.equal(weights(control), weights(ours))
    nothing = run(model, **mixing | {"ratio": 0.0})[0]
    assert torch.equal(weights(nothing), weights(control))
