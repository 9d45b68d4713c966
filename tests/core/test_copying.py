"""Models that ``copy.deepcopy`` refuses are copied."""

from __future__ import annotations

import copy
import functools
import types
import warnings

import pytest
import torch
from torch import nn

import feataug
from feataug.core.copying import copy_model
from feataug.evaluation.comparison.arms import train_arm

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net(old=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    if old is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            old(model[0]), old(model[2])
    return model


class Slots:
    __slots__ = ("kept",)


def keep(model, kind, value):
    """Where models keep tensors of a graph."""
    slots = Slots()
    slots.kept = value
    holder = {
        "attribute": value, "list": [[value]], "dict": {"a": (value, {"b": value})}, "namespace": types.SimpleNamespace(kept=value), "slots": slots,
        "partial": functools.partial(print, value, end=value), "set": {value}, "key": {value: 1},
    }  # fmt: skip
    model.kept = holder[kind]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("old", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_old_style_weight_norm_after_a_forward_pass(old):
    model = net(old)
    model(IMAGES).sum().backward()
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(model)
    made = copy_model(model)
    assert equal(made.state_dict(), model.state_dict())
    assert [module.training for module in made.modules()] == [module.training for module in model.modules()]
    assert torch.equal(made.eval()(IMAGES), model.eval()(IMAGES))
    # It learns, and the model does not.
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    made.train()(IMAGES).square().sum().backward()
    optimizer.step()
    assert not equal(made.state_dict(), before)
    assert equal(model.state_dict(), before)
    assert not any(module._forward_pre_hooks == {} for module in (made[0], made[2]))


@pytest.mark.parametrize("kind", ["attribute", "list", "dict", "namespace", "slots", "partial", "set", "key"])
def test_tensors_of_a_graph_wherever_they_are(kind):
    model = net()
    keep(model, kind, model[0](IMAGES))
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(model)
    made = copy_model(model)
    assert equal(made.state_dict(), model.state_dict())
    if kind == "list":
        assert torch.equal(made.kept[0][0], model.kept[0][0])
        assert made.kept[0][0].is_leaf
        assert made.kept[0][0].data_ptr() != model.kept[0][0].data_ptr()
    assert model.kept is not made.kept


def test_of_other_models_it_makes_what_deepcopy_makes():
    model = net()
    model.twin, model.shared = model[0], [model[2].weight]
    made = copy_model(model)
    assert made.twin is made[0]
    assert made.shared[0] is made[2].weight
    assert made[0].weight is not model[0].weight
    assert made[0].weight.requires_grad


def test_arms_and_stages_copy_such_a_model():
    model = net(torch.nn.utils.weight_norm)
    masks = torch.randint(5, (2, 8, 8))
    model(IMAGES).sum().backward()
    config = feataug.FinetuneConfig(num_steps=1)
    trained, _ = train_arm(model, "1", [(IMAGES, masks)], lambda net: {"miou": 1.0}, config, device="cpu", progress=False)
    assert trained is not model
    pairs = [(IMAGES, torch.randint(5, (2, 16, 16)))]
    assert feataug.stages(model, pairs, 5, at=["1"], min_cells=1, device="cpu", progress=False)["images"] == 2
