"""``update_bn``: what torch's function does, but frozen norms stay."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

import feataug
from feataug.errors import ConfigError, DataError
from tests.support.frozen_norms import (
    FREEZERS,
    batches,
    equal,
    freeze_by_modes,
    make,
    statistics,
)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", ["pairs", "lists", "images"])
def test_of_a_model_that_trains_as_a_whole_it_does_what_torch_does(momentum, kind):
    ours, theirs = make(), make()
    for model in (ours, theirs):
        for norm in (model.encoder[1], model.head[1]):
            norm.momentum = momentum
    loader = [{"pairs": (images, masks), "lists": [images, masks], "images": images}[kind] for images, masks in batches()]
    torch.manual_seed(4)
    torch.optim.swa_utils.update_bn(loader, theirs)
    torch.manual_seed(4)
    feataug.update_bn(ours, loader)
    assert equal(statistics(ours), statistics(theirs))
    assert ours.head[1].momentum is momentum
    assert int(ours.head[1].num_batches_tracked) == 3


@pytest.mark.parametrize("freeze", FREEZERS)
def test_frozen_norms_stay_bit_for_bit(freeze):
    model = make()
    freeze(model)
    modes = [module.training for module in model.modules()]
    torch.manual_seed(4)
    with torch.no_grad():
        inputs = [model.head[0](model.encoder(images)) for images, _ in batches()]
    torch.manual_seed(4)
    frozen, trained = statistics(model, "encoder"), statistics(model, "head")
    feataug.update_bn(model, batches())
    assert equal(frozen, statistics(model, "encoder"))
    assert [module.training for module in model.modules()] == modes
    assert int(model.head[1].num_batches_tracked) == 3
    if freeze is freeze_by_modes:
        # Without dropout before the norm its mean can be computed by hand.
        expected = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
        torch.testing.assert_close(model.head[1].running_mean, expected)
    assert not equal(trained, statistics(model, "head"))


def test_planted_torchs_function_does_ruin_a_frozen_norm():
    model = make(frozen=True)
    torch.optim.swa_utils.update_bn(batches(), model)
    assert torch.equal(model.encoder[1].running_mean, torch.zeros(8))


def test_modes_and_random_numbers_are_put_back():
    model = make()
    model.head[2].eval()
    before = [module.training for module in model.modules()]

    class Random(list):
        def __iter__(self):
            for images, masks in list.__iter__(self):
                yield images + random.random() + float(np.random.rand()) + torch.rand(()), masks

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = (torch.rand(()), random.random(), np.random.rand())
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    feataug.update_bn(model, Random(batches()))
    assert (torch.rand(()), random.random(), np.random.rand()) == expected
    assert [module.training for module in model.modules()] == before


def test_what_fails_leaves_everything_as_it_was():
    model = make()
    before = statistics(model)

    def broken():
        yield from batches()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        feataug.update_bn(model, broken())
    with pytest.raises(DataError) as error:
        feataug.update_bn(model, iter([]))
    assert str(error.value) == (
        "update_bn: the loader yields nothing.\n  given:   list_iterator\n"
        "  needed:  a loader that can be read again and again, such as a DataLoader"
    )
    with pytest.raises(DataError) as error:
        feataug.update_bn(model, [{"image": 1}])
    assert str(error.value) == (
        "update_bn: a batch holds no images.\n  given:   dict\n  needed:  images, or a tuple that begins with them"
    )
    assert equal(before, statistics(model))
    assert model.head[1].momentum == 0.1
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_norm_that_no_batch_reaches_keeps_its_statistics():
    model = make()
    model.unused = nn.BatchNorm2d(4)
    model.unused.running_mean += 2
    feataug.update_bn(model, batches())
    assert model.unused.running_mean.tolist() == [2.0] * 4


def test_norms_can_be_named_in_any_mode():
    for norms in (["head.1"], "head.1", None):
        model = make().eval()
        before = statistics(model, "encoder")
        feataug.update_bn(model, batches(), norms=[model.head[1]] if norms is None else norms)
        assert equal(before, statistics(model, "encoder"))
        assert int(model.head[1].num_batches_tracked) == 3
        assert not any(module.training for module in model.modules())
    with pytest.raises(ConfigError) as error:
        feataug.update_bn(model, batches(), norms=["head.0"])
    assert str(error.value) == (
        "update_bn: this is no norm with running statistics of the model.\n  given:   'head.0'\n"
        "  needed:  names or modules of BatchNorm, SyncBatchNorm or InstanceNorm with track_running_stats=True"
    )


def test_a_model_in_eval_mode_does_not_tell():
    model = make().eval()
    with pytest.raises(ConfigError) as error:
        feataug.update_bn(model, batches())
    assert str(error.value) == (
        "update_bn: the model is in eval mode, which does not show which norms were trained.\n"
        "  given:   Net in eval mode, with 2 norms that have running statistics\n"
        "  needed:  the modes of training\n"
        "Call it before model.eval(), or call model.train() first and freeze again what was frozen, or pass norms=."
    )
    feataug.update_bn(nn.Conv2d(3, 4, 1).eval(), iter([]))  # nothing to measure, and nothing is read
    with pytest.raises(ConfigError) as error:
        feataug.update_bn(batches(), model)
    assert str(error.value) == (
        "update_bn: the model is no module.\n  given:   list\n"
        "  needed:  feataug.update_bn(model, loader): the model first, unlike torch.optim.swa_utils.update_bn"
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_instance_norm_with_running_statistics(frozen):
    model = make(norm=lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True))
    norm = model.encoder[1]
    if frozen:
        norm.eval()
    before = norm.running_mean.clone()
    feataug.update_bn(model, batches())
    with torch.no_grad():
        means = torch.stack([model.encoder[0](images).mean((0, 2, 3)) for images, _ in batches()]).mean(0)
    torch.testing.assert_close(norm.running_mean, before if frozen else means)
    assert norm.momentum == 0.1


def test_sync_batch_norm_counts_as_a_norm():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(make(frozen=True))
    assert isinstance(model.encoder[1], nn.SyncBatchNorm)
    model.head = nn.Conv2d(8, 5, 1)
    before = statistics(model)
    feataug.update_bn(model.train(), batches())
    assert equal(before, statistics(model))
