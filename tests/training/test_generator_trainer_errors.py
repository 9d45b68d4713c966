"""What ``GeneratorTrainer`` refuses, and what it warns of."""

import re

import pytest
import torch

from feataug import FeatureGenerator, split
from feataug.errors import CheckpointError, FeatAugWarning, LabelError, ShapeError, TrainingError
from feataug.training.generator_trainer import GeneratorTrainer
from tests.support.generator_trainings import CLASSES, TinyModel, loader, make, settings

# Runs as short as these ignore z; that they say so is tested once, below.
pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    make(output=tmp_path).fit(loader())
    with pytest.raises(CheckpointError) as error:
        make(settings(lr=0.1), output=tmp_path).fit(loader())
    assert str(error.value) == (
        "feataug: the output folder holds a run with other settings.\n"
        "  given:   lr=0.1\n"
        f"  needed:  lr=0.0005, as in {tmp_path / 'checkpoint-0000000016.safetensors'}\n"
        "Use another output folder, or delete this one to start again."
    )


def test_a_generator_for_another_cut_is_refused():
    cut, other = split(TinyModel(), at="encoder"), split(TinyModel(16), at="encoder")
    with pytest.raises(ShapeError) as error:
        GeneratorTrainer(FeatureGenerator(CLASSES, other.spec, width=8), cut)
    assert str(error.value) == (
        "GeneratorTrainer: the generator was made for another cut.\n"
        "  given:   FeatureSpec(levels=(LevelSpec(name='encoder', channels=16, reduction=4),))\n"
        "  needed:  FeatureSpec(levels=(LevelSpec(name='encoder', channels=12, reduction=4),))\n"
        "FeatureGenerator(num_classes, spec=cut.spec)"
    )


def test_single_samples_are_refused():
    with pytest.raises(TrainingError) as error:
        make().fit(loader(batch_size=1))
    assert str(error.value) == (
        "GeneratorTrainer: batches are too small.\n"
        "  given:   1 sample\n"
        "  needed:  two or more: one half is reconstructed, the critic sees the other half as real\n"
        "Use a larger batch_size, and drop_last=True."
    )


def test_a_loader_that_yields_nothing():
    with pytest.raises(TrainingError, match=r"^feataug: the loader yields no batch\.\n  given:   list after 0 passes\n"):
        make().fit([])


def test_a_label_that_is_no_class():
    images, masks = next(iter(loader()))
    masks[0, 0, 0] = 40
    with pytest.raises(LabelError, match=r"^GeneratorTrainer: a mask holds labels that are no class\.\n  given:   \[40\] in "):
        make().fit([(images, masks)])


@pytest.mark.parametrize("log_images", [4, 8])
def test_a_loss_that_is_not_finite(tmp_path, log_images):
    images, masks = next(iter(loader()))
    good, bad = (images, masks), (images * float("nan"), masks)
    config = settings(log_images=log_images, snapshot_images=4, num_images=32)
    with pytest.raises(TrainingError) as error:
        make(config, output=tmp_path).fit([good, good, bad])
    assert str(error.value) == (
        "feataug: the loss 'l1' is not finite.\n  given:   nan at 12\n  needed:  a finite loss\n"
        "Lower lr, or train without mixed_precision. The last checkpoint is untouched."
    )
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == [
        "checkpoint-0000000004.safetensors", "checkpoint-0000000008.safetensors",
    ]  # fmt: skip


def test_a_generator_that_ignores_z_is_reported():
    trainer = make(settings(lr=0.0, ema_images=0))
    with torch.no_grad():
        trainer.generator.unet.heads[0].weight.zero_()  # the same features for every z
    advice = "Raise latent_weight or diversity_weight, or train longer."
    with pytest.warns(FeatAugWarning) as caught:
        trainer.fit(loader(), [next(iter(loader()))])
    (warning,) = caught
    pattern = (
        r"GeneratorTrainer: the generator seems to ignore z: diversity ratio 0\.000 \(1 is as varied as real features\), "
        r"latent L1 \d\.\d\d \(0\.80 means that nothing of z is found\)\. "
    )
    assert re.fullmatch(pattern + re.escape(advice), str(warning.message))
    assert warning.filename == __file__
    # Without a validation set the last batch has to do.
    with pytest.warns(FeatAugWarning) as caught:
        trainer.fit(loader())
    (warning,) = caught
    assert re.fullmatch(pattern + re.escape(advice), str(warning.message))


@pytest.mark.filterwarnings("error::feataug.errors.FeatAugWarning")
def test_a_generator_that_heeds_z_is_not_reported():
    trainer = make(settings(lr=0.0, ema_images=0))
    with torch.no_grad():
        trainer.generator.unet.heads[0].weight.mul_(30)
    (result,) = trainer.fit(loader(), [next(iter(loader()))])
    assert result["diversity"] > 0.1
