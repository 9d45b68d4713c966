"""The frozen encoder of a cut: weights, norms, dropout; through train(), copies and pickles; and unfrozen again."""

import copy
import pickle

import pytest
import torch
from torch import nn

from feataug import split, update_bn
from feataug.cutting.freezing import encoder_modules
from feataug.training.config import FinetuneConfig
from feataug.training.finetuner import Finetuner

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Norms and dropout on both sides of ``body``; one dropout, ``shared``, that runs on both."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
        self.shared = nn.Dropout(0.5)

    def forward(self, images):
        return self.head(self.shared(self.body(self.shared(self.stem(images)))))


@pytest.fixture
def frozen():
    torch.manual_seed(0)
    model = Net()
    cut = split(model, "body")
    cut.freeze_encoder()
    return model, cut


def train(model, steps=3):
    """What a training loop does, with all parameters in the optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model.train()
        model(IMAGES).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def changed(model, before):
    return {name.partition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_training_changes_the_decoder_alone(frozen):
    model, _ = frozen
    before = state(model)
    train(model)
    assert changed(model, before) == {"head"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
def test_a_copy_is_frozen_as_well_and_a_pickle_needs_nothing_of_ours(frozen, copied):
    other = copied(frozen[0])
    before = state(other)
    train(other)
    # A pickled model has no hooks of ours: its weights are still frozen, its norms are as in any model.
    expected = {"head"} if copied is copy.deepcopy else {"head", "stem", "body"}
    assert changed(other, before) == expected
    assert not any(weight.requires_grad for part in (other.stem, other.body) for weight in part.parameters())


def test_dropout_before_the_cut_is_off_and_what_both_sides_run_is_not(frozen):
    model, cut = frozen
    model.train()
    model.shared.eval()
    model.shared.train()
    first, again = (cut.encode(IMAGES)[0] for _ in range(2))
    # ``shared`` also runs after the cut, where it must train.
    assert not torch.equal(first, again)
    assert model.shared.training
    model.shared.p = 0.0
    first, again = (cut.encode(IMAGES)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not model.stem[2].training


def test_update_bn_leaves_frozen_norms_as_they_are_right_after_train(frozen):
    model, _ = frozen
    before = state(model)
    model.train()  # before any forward pass could have shown which norms run in training mode
    update_bn(model, [IMAGES])
    assert changed(model, before) == {"head"}


def test_a_finetuner_trains_the_decoder_alone(frozen):
    model, _ = frozen
    before = state(model)
    masks = torch.zeros(4, 4, 4, dtype=torch.long)
    masks[:, 2:] = 1
    Finetuner(model, FinetuneConfig(num_steps=3, lr=0.1), device="cpu", progress=False).fit([(IMAGES, masks)], num_classes=3)
    assert changed(model, before) == {"head"}


@pytest.mark.parametrize("mode", [True, False])
def test_unfrozen_the_encoder_trains_again(frozen, mode):
    model, cut = frozen
    model.train(mode)
    cut.unfreeze_encoder()
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(module.training == mode for module in model.modules())
    before = state(model)
    train(model)
    assert changed(model, before) == {"stem", "body", "head"}


def test_freezing_twice_is_freezing_once(frozen):
    model, cut = frozen
    cut.freeze_encoder()
    assert all(len(module._forward_pre_hooks) <= 1 for module in model.modules())


def test_the_modules_of_each_side():
    model = Net()
    cut = split(model, "body")
    assert {model.stem, model.body, model.shared, model.stem[2]} < encoder_modules(cut)
    alone = encoder_modules(cut, alone=True)
    assert model.shared not in alone
    assert not alone & set(model.head.modules())
    assert {model.stem, model.body[1]} < alone
