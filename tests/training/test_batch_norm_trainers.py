"""Frozen norms in ``Finetuner`` and in the arms of a comparison."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import feataug
from feataug.evaluation.comparison.arms import train_arm
from feataug.training.batch_norm import moved_norms, statistics_of
from tests.support.frozen_norms import (
    FREEZERS,
    batches,
    equal,
    freeze_by_momentum,
    make,
    statistics,
)

smp = pytest.importorskip("segmentation_models_pytorch")


def finetune(model, **kwargs):
    config = feataug.FinetuneConfig(num_steps=3, lr=0.05, eval_every=1)
    tuner = feataug.Finetuner(model, config, device="cpu", progress=False)
    tuner.fit(batches(), lambda trained: {"weight": float(trained.head[0].weight.detach().sum())})
    return tuner


@pytest.mark.parametrize("freeze", FREEZERS)
@pytest.mark.parametrize("evaluated", [False, True])
def test_finetuner_leaves_frozen_norms_alone(freeze, evaluated):
    model = make()
    freeze(model)
    before = statistics(model, "encoder")
    tuner = finetune(model)
    # With momentum 0, torch counts batches all the same.
    assert equal(before, statistics(model, "encoder"), counted=freeze is not freeze_by_momentum)
    before, trained = statistics(model, "encoder"), statistics(model, "head")
    if evaluated:
        model.eval()
    modes = [module.training for module in model.modules()]
    tuner.update_bn(batches())
    assert equal(before, statistics(model, "encoder"))
    assert int(model.head[1].num_batches_tracked) == 3
    assert not equal(trained, statistics(model, "head"))
    assert [module.training for module in model.modules()] == modes


def test_finetuner_trains_a_whole_model_that_it_gets_in_eval_mode():
    for model in (make().eval(), feataug.split(encoder=make().encoder.eval(), decoder=make().head.eval()).model):
        if not hasattr(model, "head"):
            model.head = model.decoder
        tuner = finetune(model)
        assert all(module.training for module in model.modules())
        tuner.update_bn(batches())
        assert int(model.encoder[1].num_batches_tracked) == 3
    # Without a fit, the modes that its train() gives count, and the mode that it had comes back.
    model = make(frozen=True).eval()
    before = statistics(model, "encoder")
    feataug.Finetuner(model, device="cpu", progress=False).update_bn(batches())
    assert equal(before, statistics(model, "encoder"))
    assert int(model.head[1].num_batches_tracked) == 3
    assert not any(module.training for module in model.modules())


def test_freeze_encoder_of_segmentation_models_pytorch():
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, classes=5, decoder_channels=(32, 16, 8, 8, 8))
    model.freeze_encoder()
    before = statistics(model, "encoder")
    images = [(torch.rand(2, 3, 32, 32), torch.randint(5, (2, 32, 32))) for _ in range(2)]
    model.train()
    feataug.update_bn(model, images)
    assert equal(before, statistics(model, "encoder"))
    model.eval()
    tuner = feataug.Finetuner(model, feataug.FinetuneConfig(num_steps=2), device="cpu", progress=False)
    tuner.fit(images)
    tuner.update_bn(images)
    assert equal(before, statistics(model, "encoder"))
    assert int(model.decoder.blocks[0].conv1[1].num_batches_tracked) == 2


@pytest.mark.parametrize("freeze", FREEZERS)
def test_an_arm_leaves_frozen_norms_alone(freeze):
    model = make()
    freeze(model)
    before = statistics(model, "encoder")
    config = feataug.FinetuneConfig(num_steps=2, lr=0.05)

    def baseline(copied, loader, config, folder):
        optimizer = torch.optim.SGD([p for p in copied.parameters() if p.requires_grad], 0.05)
        for images, masks in loader:
            nn.functional.cross_entropy(copied(images), masks).backward()
            optimizer.step()
        return copied.eval()

    for other in (None, baseline):
        trained, figures = train_arm(
            model, "encoder", batches(), lambda net: {"miou": 1.0}, config, baseline=other, device="cpu", progress=False
        )
        assert equal(before, statistics(trained, "encoder"), counted=freeze is not freeze_by_momentum)
        assert int(trained.head[1].num_batches_tracked) == 3
        assert "as_trained" in figures


def test_norms_that_moved_are_found():
    model = make()
    before = {name: value.clone() for name, value in statistics_of(model).items()}
    other = copy.deepcopy(model)
    other.head[1](torch.rand(2, 8, 4, 4))
    other.extra = nn.BatchNorm2d(2)
    moved = moved_norms(other, before)
    assert (moved[other.encoder[1]], moved[other.head[1]], moved[other.extra]) == (False, True, True)
