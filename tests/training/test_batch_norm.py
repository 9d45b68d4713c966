"""BatchNorm's statistics are measured for the norms that were trained; frozen ones stay, bit for bit."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import feataug
from feataug.errors import ConfigError, DataError
from feataug.evaluation.comparison.arms import train_arm
from feataug.training.batch_norm import moved_norms, statistics_of

smp = pytest.importorskip("segmentation_models_pytorch")

SIZE = (16, 24)


def batches(count=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    pairs = ((torch.rand(4, 3, *SIZE, generator=rng), torch.randint(5, (4, *SIZE), generator=rng)) for _ in range(count))
    return list(pairs)


class Net(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d, frozen=False):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Conv2d(8, 5, 1))
        self.frozen = frozen

    def forward(self, images):
        return self.head(self.encoder(images))

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def make(frozen=False, norm=nn.BatchNorm2d):
    """A model whose norms have seen something."""
    torch.manual_seed(0)
    model = Net(norm, frozen=False)
    with torch.no_grad():
        for images, _ in batches(seed=9):
            model(images * 3 + 1)
    model.frozen = frozen
    return model.train()


def statistics(model, prefix=""):
    return {name: value.clone() for name, value in statistics_of(model).items() if name.startswith(prefix)}


def equal(one, other, counted=True):
    if not counted:
        one, other = ({n: v for n, v in x.items() if "num_batches" not in n} for x in (one, other))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


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


def freeze_by_modes(model):
    model.encoder.requires_grad_(False)
    model.encoder.eval()


def freeze_the_norm(model):
    model.encoder[1].requires_grad_(False).eval()


def freeze_by_train(model):
    model.frozen = True
    model.train()


def freeze_by_momentum(model):
    model.encoder[1].momentum = 0.0


def freeze_by_tracking(model):
    model.encoder[1].track_running_stats = False


FREEZERS = [freeze_by_modes, freeze_the_norm, freeze_by_train, freeze_by_momentum, freeze_by_tracking]


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
