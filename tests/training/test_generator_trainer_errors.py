"""What ``GeneratorTrainer`` refuses, and what it warns of."""

import re

import pytest
import torch

from feataug import FeatureGenerator, GeneratorConfig, split
from feataug.errors import CheckpointError, ConfigError, FeatAugWarning, LabelError, ShapeError, TrainingError
from feataug.generation.critics import Discriminator
from feataug.training.generator_trainer import GeneratorTrainer
from tests.support.generator_trainings import CLASSES, TinyModel, loader, make, settings
from tests.support.small_generators import PRESETS, small_generator

# Runs as short as these ignore z; that they say so is tested once, below.
pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")


@pytest.mark.parametrize(("preset", "lr"), [("flow", 0.004), ("bicyclegan", 0.0005)])
def test_other_settings_in_the_same_folder_are_refused(tmp_path, preset, lr):
    make(settings(preset), output=tmp_path).fit(loader())
    with pytest.raises(CheckpointError) as error:
        make(settings(preset, lr=0.1), output=tmp_path).fit(loader())
    assert str(error.value) == (
        "feataug: the output folder holds a run with other settings.\n"
        "  given:   lr=0.1\n"
        f"  needed:  lr={lr}, as in {tmp_path / 'checkpoint-0000000016.safetensors'}\n"
        "Use another output folder, or delete this one to start again."
    )


@pytest.mark.parametrize(
    ("preset", "config", "given", "needed"),
    [
        ("flow", GeneratorConfig.bicyclegan(), "objective 'bicyclegan', a generator with preset 'flow'", "GeneratorConfig()"),
        ("flow", GeneratorConfig.paper(), "objective 'bicyclegan', a generator with preset 'flow'", "GeneratorConfig()"),
        ("bicyclegan", GeneratorConfig(), "objective 'flow', a generator with preset 'bicyclegan'", "GeneratorConfig.bicyclegan()"),
        ("paper", GeneratorConfig(), "objective 'flow', a generator with preset 'paper'", "GeneratorConfig.paper()"),
    ],
)
def test_an_objective_that_does_not_train_the_generator_is_refused(preset, config, given, needed):
    cut = split(TinyModel(), at="encoder")
    with pytest.raises(ConfigError) as error:
        GeneratorTrainer(FeatureGenerator(CLASSES, cut.spec, preset), cut, config, device="cpu")
    assert str(error.value) == (
        f"GeneratorTrainer: the objective does not train such a generator.\n  given:   {given}\n"
        f"  needed:  {needed}, or another preset of the generator"
    )


def test_a_critic_for_a_flow_is_refused():
    with pytest.raises(ConfigError) as error:
        make(critic=Discriminator)
    assert str(error.value) == (
        "GeneratorTrainer: a flow has no critic.\n  given:   critic=<class 'feataug.generation.critics.Discriminator'>\n"
        "  needed:  no critic, or another preset"
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


def test_single_samples_are_refused_by_bicyclegan_alone():
    with pytest.raises(TrainingError) as error:
        make(settings("bicyclegan")).fit(loader(batch_size=1))
    assert str(error.value) == (
        "GeneratorTrainer: batches are too small.\n"
        "  given:   1 sample\n"
        "  needed:  two or more: one half is reconstructed, the critic sees the other half as real\n"
        "Use a larger batch_size, and drop_last=True."
    )
    make(settings(num_images=2)).fit(loader(batch_size=1))


def test_a_loader_that_yields_nothing():
    with pytest.raises(TrainingError, match=r"^feataug: the loader yields no batch\.\n  given:   list after 0 passes\n"):
        make().fit([])


class OnlyMultiplesOf32(TinyModel):
    def forward(self, images):
        assert images.shape[-1] % 32 == 0, "the width must be a multiple of 32"
        return super().forward(images)


def test_validation_images_that_the_model_does_not_take_stop_the_run_at_its_start(tmp_path):
    torch.manual_seed(0)
    cut = split(OnlyMultiplesOf32(), at="encoder")
    trainer = GeneratorTrainer(small_generator(CLASSES, cut.spec), cut, settings(), output=tmp_path, device="cpu", progress=False)
    crops = [(torch.zeros(4, 3, 32, 64), torch.arange(2).repeat(4, 32, 32))]
    with pytest.raises(AssertionError, match="the width must be a multiple of 32"):
        trainer.fit(crops, [(torch.zeros(1, 3, 32, 48), torch.arange(2).repeat(1, 32, 24))])
    assert not (tmp_path / "stats.jsonl").exists()
    trainer.fit(crops, crops)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_label_that_is_no_class(preset):
    images, masks = next(iter(loader()))
    masks[0, 0, 0] = 40
    with pytest.raises(LabelError, match=r"^GeneratorTrainer: a mask holds labels that are no class\.\n  given:   \[40\] in "):
        make(settings(preset)).fit([(images, masks)])


@pytest.mark.parametrize("log_images", [4, 8])
@pytest.mark.parametrize(("preset", "name"), [("flow", "flow"), ("bicyclegan", "l1")])
def test_a_loss_that_is_not_finite(tmp_path, preset, name, log_images):
    images, masks = next(iter(loader()))
    good, bad = (images, masks), (images * float("nan"), masks)
    config = settings(preset, log_images=log_images, snapshot_images=4, num_images=32)
    with pytest.raises(TrainingError) as error:
        make(config, output=tmp_path).fit([good, good, bad])
    assert str(error.value) == (
        f"feataug: the loss '{name}' is not finite.\n  given:   nan at 12\n  needed:  a finite loss\n"
        "Lower lr, or train without mixed_precision. The last checkpoint is untouched."
    )
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == [
        "checkpoint-0000000004.safetensors", "checkpoint-0000000008.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_generator_that_ignores_z_is_reported(preset):
    trainer = make(settings(preset, lr=0.0, ema_images=0))
    if preset == "flow":
        # From any noise to zero.
        weight, spec = next(trainer.generator.parameters()), trainer.generator.spec
        trainer.generator._follow_flow = lambda masks, z, samples, size: [
            0 * weight.sum() + torch.zeros(samples * len(masks), level.channels, *level.size(size)) for level in spec
        ]
        latent, advice = "", "Train longer."
    else:
        with torch.no_grad():
            trainer.generator.unet.heads[0].weight.zero_()  # the same features for every z
        latent = r", latent L1 \d\.\d\d \(0\.80 means that nothing of z is found\)"
        advice = "Raise latent_weight or diversity_weight, or train longer."
    with pytest.warns(FeatAugWarning) as caught:
        trainer.fit(loader(), [next(iter(loader()))])
    (warning,) = caught
    pattern = (
        rf"GeneratorTrainer: the generator seems to ignore z: diversity ratio 0\.000 \(1 is as varied as real features\){latent}\. "
    )
    assert re.fullmatch(pattern + re.escape(advice), str(warning.message))
    assert warning.filename == __file__
    # Without a validation set the last batch has to do.
    with pytest.warns(FeatAugWarning) as caught:
        trainer.fit(loader())
    (warning,) = caught
    assert re.fullmatch(pattern + re.escape(advice), str(warning.message))


@pytest.mark.filterwarnings("error::feataug.errors.FeatAugWarning")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_generator_that_heeds_z_is_not_reported(preset):
    trainer = make(settings(preset, lr=0.0, ema_images=0))
    if preset == "bicyclegan":
        with torch.no_grad():
            trainer.generator.unet.heads[0].weight.mul_(30)
    (result,) = trainer.fit(loader(), [next(iter(loader()))])
    assert result["diversity"] > 0.1
