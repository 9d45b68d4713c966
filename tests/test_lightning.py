"""Mixing inside a real Trainer on the CPU: device, modes, checkpoints, logs, BatchNorm."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.cut import split
from feataug.data import seeded_loader
from feataug.errors import ConfigError, DataError, FeatAugError, MissingPackageError
from feataug.generation.generator import FeatureGenerator
from feataug.losses import segmentation_loss
from feataug.masks import DatasetMasks, HardNegativeSampler
from feataug.mixing.mixer import FeatureMixer
from feataug.mixing.pixel_filter import PixelFilter
from tests.support import forks

lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
from feataug.lightning import MixFeatures  # noqa: E402

# Of Lightning itself, about what is wanted here: no workers, no log, few batches.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*does not have many workers", ".*isinstance.treespec", ".*litlogger")
]
SIZE = (32, 40)


def draw_masks(count, seed=0):
    return torch.randint(5, (count, *SIZE), generator=torch.Generator().manual_seed(seed))


def make_generator():
    torch.manual_seed(1)
    return FeatureGenerator(5, FeatureSpec((LevelSpec("body", 16, 4),)), width=8, depth=1)


class Pairs(torch.utils.data.TensorDataset):
    def __init__(self, count=12):
        super().__init__(torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(2)), draw_masks(count, seed=3))


class Segmenter(lightning.LightningModule):
    """The user's, with mixing in its training step; one step for training and validation."""

    def __init__(self, model, mixing=None):
        super().__init__()
        self.model, self.mixing, self.seen = model, mixing, []

    def step(self, images, masks):
        if self.mixing is None:
            return segmentation_loss(self.model(images), masks, len(images))
        with self.mixing.on(masks) as mixed:
            out = self.model(images)
        self.seen.append((self.training, mixed.num_synthetic))
        return self.mixing.loss(out, mixed)

    def training_step(self, batch, index):
        return self.step(*batch)

    def validation_step(self, batch, index):
        self.log("val_loss", self.step(*batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(shuffle=True, count=12):
    return seeded_loader(Pairs(count), 4, shuffle=shuffle)


def make(tiny_net, ratio=0.3, masks=None, bn=True, **kwargs):
    torch.manual_seed(0)
    model = tiny_net()
    cut = split(model, "body")
    mixer = FeatureMixer(make_generator(), masks or DatasetMasks(draw_masks(20)), ratio, seed=4, **kwargs)
    mixing = MixFeatures(mixer, cut, bn_loader=loader(shuffle=False) if bn else None)
    return Segmenter(model, mixing), mixing


def trainer(folder, *callbacks, **kwargs):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu", "devices": 1}
    return lightning.Trainer(default_root_dir=folder, callbacks=list(callbacks), **(quiet | {"max_epochs": 2} | kwargs))


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_mixes_in_training_steps_alone_and_logs(tiny_net, tmp_path):
    module, mixing = make(tiny_net, 0.5)
    run = trainer(tmp_path, mixing, enable_checkpointing=False)
    run.fit(module, loader(), loader(shuffle=False))
    trained = [count for training, count in module.seen if training]
    assert trained == [4] * 6
    validated = [count for training, count in module.seen if not training]
    # The sanity check, which has two batches, is one of the validations.
    assert validated == [0] * (2 + 3 + 3)
    assert run.callback_metrics["feataug/num_synthetic"] == 4
    assert not any("generator" in name for name in module.state_dict())
    assert all(p.grad is None for p in mixing.mixer.generator.parameters())
    with pytest.raises(ConfigError, match=r"^MixFeatures: the trainer does not have this callback\.\n"):
        module.step(*next(iter(loader())))


def test_the_share_that_a_filter_rejects_is_logged(tiny_net, tmp_path):
    module, mixing = make(tiny_net, 0.5)
    mixing.mixer.pixel_filter = PixelFilter(mixing.cut.clone(), torch.full((5,), 1.0), factor=1e-6)
    run = trainer(tmp_path, mixing, max_steps=2, enable_checkpointing=False)
    run.fit(module, loader())
    assert run.callback_metrics["feataug/rejected"] == 1


def test_with_ratio_0_training_is_what_it_was(tiny_net, tmp_path):
    plain = Segmenter(make(tiny_net)[0].model)
    mixed, mixing = make(tiny_net, 0.0, bn=False)
    trainer(tmp_path, enable_checkpointing=False).fit(plain, loader())
    trainer(tmp_path, mixing, enable_checkpointing=False).fit(mixed, loader())
    assert equal(plain.state_dict(), mixed.state_dict())
    # Planted: mixing must change the weights, or this test sees nothing.
    other, mixing = make(tiny_net, 0.3)
    trainer(tmp_path, mixing, enable_checkpointing=False).fit(other, loader())
    assert not equal(plain.state_dict(), other.state_dict())


@pytest.mark.parametrize("mined", [False, True])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(tiny_net, tmp_path, mined):
    def masks():
        return HardNegativeSampler(DatasetMasks(draw_masks(20)), candidates=6, keep=4, refresh_every=2) if mined else None

    module, mixing = make(tiny_net, masks=masks())
    trainer(tmp_path, mixing, enable_checkpointing=False, max_epochs=3).fit(module, loader(), loader(shuffle=False))
    first, first_mixing = make(tiny_net, masks=masks())
    keep = lightning.callbacks.ModelCheckpoint(tmp_path, "half", save_on_train_epoch_end=True)
    trainer(tmp_path, first_mixing, keep, max_epochs=1).fit(first, loader(), loader(shuffle=False))
    second, second_mixing = make(tiny_net, masks=masks())
    with torch.no_grad():
        second.model.head[-1].weight.zero_()
    second_mixing.mixer.rng.manual_seed(99)
    run = trainer(tmp_path, second_mixing, enable_checkpointing=False, max_epochs=3)
    run.fit(second, loader(), loader(shuffle=False), ckpt_path=tmp_path / "half.ckpt")
    assert equal(module.state_dict(), second.state_dict())
    # Planted: other noise gives other weights.
    third, third_mixing = make(tiny_net, masks=masks())
    third_mixing.load_state_dict = lambda state: third_mixing.mixer.rng.manual_seed(99)
    run = trainer(tmp_path, third_mixing, enable_checkpointing=False, max_epochs=3)
    run.fit(third, loader(), loader(shuffle=False), ckpt_path=tmp_path / "half.ckpt")
    assert not equal(module.state_dict(), third.state_dict())


@pytest.mark.parametrize("validated", [False, True])
def test_checkpoints_hold_the_statistics_of_real_images(tiny_net, tmp_path, validated):
    module, mixing = make(tiny_net, 0.5)
    keep = lightning.callbacks.ModelCheckpoint(tmp_path, "last", monitor="val_loss" if validated else None)
    trainer(tmp_path, mixing, keep, max_epochs=1).fit(module, loader(), loader(shuffle=False) if validated else None)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    expected = copy.deepcopy(module.model)
    torch.optim.swa_utils.update_bn(loader(shuffle=False), expected)
    assert equal({f"model.{name}": value for name, value in expected.state_dict().items()}, saved)
    # Trained on mixed batches, they had been others.
    mixed, mixing = make(tiny_net, 0.5, bn=False)
    with pytest.warns(match="MixFeatures: BatchNorm's running statistics will describe real and synthetic features together"):
        trainer(tmp_path, mixing, enable_checkpointing=False, max_epochs=1).fit(mixed, loader())
    assert not torch.equal(mixed.model.head[0][1].running_mean, expected.head[0][1].running_mean)


def test_measuring_changes_neither_modes_nor_random_numbers(tiny_net, tmp_path):
    # As many synthetic samples in every batch: dropout draws as many numbers.
    module, mixing = make(tiny_net, 0.5)
    module.model.head.insert(0, nn.Dropout(0.5))
    module.model.stem.eval()

    class Look(lightning.Callback):
        def on_train_epoch_start(self, run, pl_module):
            modes.append([part.training for part in pl_module.modules()])
            noise.append(torch.get_rng_state())

    def epoch_ends(bn_loader):
        modes.clear(), noise.clear()
        torch.manual_seed(5)
        mixing.bn_loader = bn_loader
        trainer(tmp_path, mixing, Look(), enable_checkpointing=False).fit(module, loader())
        return list(modes), torch.stack(noise)

    modes, noise = [], []
    with_it, without = epoch_ends(loader(shuffle=False)), epoch_ends(loader(shuffle=False, count=4))
    assert with_it[0][0] == with_it[0][1] == without[0][0]
    assert torch.equal(with_it[1], without[1])
    mixing.bn_loader = iter([])
    with pytest.raises(DataError) as error:
        trainer(tmp_path, mixing, enable_checkpointing=False).fit(module, loader())
    assert str(error.value).startswith("MixFeatures: bn_loader yields nothing.\n")


def test_parts_that_do_not_fit(tiny_net, tmp_path):
    module, mixing = make(tiny_net)
    with pytest.raises(ConfigError) as error:
        trainer(tmp_path, mixing).fit(Segmenter(tiny_net()), loader())
    assert str(error.value) == (
        "MixFeatures: the cut does not belong to the module.\n"
        "  given:   a cut of a TinyNet, and a Segmenter without it\n"
        "  needed:  a cut of the module, or of a part of it\n"
        "Split the model that the module holds, not a copy of it."
    )
    module.mixer = mixing.mixer
    with pytest.raises(ConfigError, match=r"^MixFeatures: the mixer is a part of the module\.\n"):
        trainer(tmp_path, mixing).fit(module, loader())
    with pytest.raises(ConfigError, match=r"^MixFeatures: a mixer and a cut are needed\.\n  given:   FeatureMixer, TinyNet\n"):
        MixFeatures(mixing.mixer, module.model)
    with pytest.raises(DataError, match=r"^MixFeatures: the loader cannot be read\.\n"):
        MixFeatures(mixing.mixer, mixing.cut, bn_loader=3)


def test_a_model_saved_with_mixing_is_loaded_without(tiny_net, tmp_path):
    module, mixing = make(tiny_net)
    run = trainer(tmp_path, mixing, max_epochs=1)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Segmenter.load_from_checkpoint(tmp_path / "model.ckpt", model=tiny_net(), map_location="cpu")
    assert equal(module.state_dict(), loaded.state_dict())
    images, masks = next(iter(loader()))
    torch.testing.assert_close(loaded.eval().step(images, masks), F.cross_entropy(module.model.eval()(images), masks))


def test_the_base_class_is_that_of_the_package_in_use():
    pytest.importorskip("pytorch_lightning")
    ended = forks.run("import pytorch_lightning as pl, feataug.lightning as m; assert issubclass(m.MixFeatures, pl.Callback)")
    assert ended.returncode == 0, ended.stderr


def test_without_lightning_the_error_says_what_to_install():
    assert issubclass(MissingPackageError, ImportError)
    assert issubclass(MissingPackageError, FeatAugError)
    ended = forks.run("import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None; import feataug.lightning")
    assert ended.stderr.rstrip().endswith(
        "feataug.errors.MissingPackageError: feataug.lightning: Lightning is not installed.\n"
        "  given:   neither lightning nor pytorch_lightning\n"
        "  needed:  one of them\n"
        'pip install "feataug[lightning]", or pip install lightning.'
    )


def freeze(part):
    for module in part.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


class AtEpochs(Segmenter):
    def on_train_epoch_start(self):
        freeze(self.model.stem)


class AtBatches(Segmenter):
    def on_train_batch_start(self, batch, batch_idx):
        freeze(self.model.stem)


class InSteps(Segmenter):
    def training_step(self, batch, index):
        freeze(self.model.stem)
        found = super().training_step(batch, index)
        self.model.train()
        return found


class ByTrain(Segmenter):
    def train(self, mode=True):
        super().train(mode)
        freeze(self.model.stem)
        return self


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("kind", [AtEpochs, AtBatches, InSteps, ByTrain, Segmenter])
def test_norms_that_are_frozen_in_training_steps_stay_as_they_are(tiny_net, tmp_path, kind, validated):
    made, mixing = make(tiny_net, 0.5)
    module = kind(made.model, mixing)
    assert any(isinstance(part, nn.BatchNorm2d) for part in module.model.stem.modules())
    with torch.no_grad():
        module.model.train()(torch.rand(2, 3, *SIZE) * 3)
    module.train()  # as before the run: Lightning takes the modes as they are
    frozen = {name: value.clone() for name, value in module.model.stem.state_dict().items() if "running" in name or "num_" in name}
    run = trainer(tmp_path, mixing, enable_checkpointing=False)
    run.fit(module, loader(), loader(shuffle=False) if validated else None)
    now = module.model.stem.state_dict()
    assert equal(frozen, now) is (kind is not Segmenter)
    # The others were measured: three batches of real images.
    assert int(module.model.head[0][1].num_batches_tracked) == 3
