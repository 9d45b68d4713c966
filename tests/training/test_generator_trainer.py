import json
import re

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from feataug import FeatureGenerator, recognition, split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import CheckpointError, FeatAugWarning, LabelError, ShapeError, TrainingError
from feataug.training.config import GeneratorConfig
from feataug.training.generator_trainer import GeneratorTrainer

# Runs as short as these ignore z; that they say so is tested once, below.
pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")

SIZE = (32, 48)
CLASSES = Scenes.num_classes
OFF = {f"{name}_weight": 0.0 for name in ("gan", "l1", "latent", "kl", "task", "diversity")}


class TinyModel(nn.Module):
    def __init__(self, channels=12):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.5), nn.Conv2d(channels, CLASSES, 1))

    def forward(self, images):
        return self.head(self.encoder(images))


def scenes(count=10):
    return Scenes(count, SIZE, transforms=train_transforms(SIZE))


def loader(batch_size=4):
    return seeded_loader(scenes(), batch_size, seed=1)


def settings(**changes):
    return GeneratorConfig(**({
        "num_images": 16, "critic_width": 8, "critic_scales": 1, "stats_images": 4, "log_images": 4, "ema_images": 8,
    } | changes))  # fmt: skip


def make(config=None, **kwargs):
    torch.manual_seed(0)
    cut = split(TinyModel(), at="encoder")
    generator = FeatureGenerator(CLASSES, cut.spec, mask_widths=(8,), width=8, depth=1, latent_dim=3)
    return GeneratorTrainer(generator, cut, config or settings(), device="cpu", progress=False, **kwargs)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])] == []


def statistics(folder):
    """``stats.jsonl`` without the clock."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_the_reconstruction_loss_goes_down(tmp_path):
    make(settings(num_images=120, log_images=20), output=tmp_path).fit(loader())
    l1 = [line["l1"] for line in statistics(tmp_path)]
    assert len(l1) == 6
    assert l1[-1] < 0.9 * l1[0]


def test_every_loss_is_logged(tmp_path):
    trainer = make(settings(diversity_weight=0.1, num_images=14, log_images=8), output=tmp_path)
    trainer.fit(loader())
    lines = trainer.run.history()
    names = {"progress", "seconds", "l1", "kl", "gan", "latent", "task", "diversity", "critics"}
    assert [set(line) for line in lines] == [names, names]
    assert [line["progress"] for line in lines] == [8, 16]  # whole batches of 4; the last one passes 14
    assert all(line[name] > 0 for line in lines for name in names - {"seconds"})


def test_the_segmentation_model_is_left_alone():
    trainer = make(settings(diversity_weight=0.1))
    model = trainer.cut.model.train()
    model.encoder[1].eval()
    model.encoder[0].requires_grad_(False)
    before = copied(model)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    trainer.fit(loader(), [next(iter(loader()))])
    assert same(copied(model), before)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in trainer.generator.modules())


def test_the_segmentation_model_is_put_back_after_an_error():
    trainer = make()
    trainer.cut.model.train()
    with pytest.raises(TrainingError):
        trainer.fit(loader(batch_size=1))
    assert all(module.training for module in trainer.cut.model.modules())
    assert all(parameter.requires_grad for parameter in trainer.cut.model.parameters())


def test_channel_statistics_are_those_of_the_first_images():
    trainer = make(settings(stats_images=6))  # two batches of 4
    trainer.fit(loader())
    batches = loader()
    batches.batch_sampler.set_epoch(0)
    images = torch.cat([images for images, _ in batches][:2])
    with torch.no_grad():
        pixels = trainer.cut.model.eval().encoder(images).double().movedim(1, -1).flatten(0, -2)
    generator = trainer.generator
    torch.testing.assert_close(generator.mean_0, pixels.mean(0).float())
    torch.testing.assert_close(generator.std_0, pixels.std(0, correction=0).float())
    assert bool(generator.fitted)


def test_terms_that_are_off_are_not_computed(tmp_path):
    trainer = make(settings(**OFF | {"l1_weight": 10.0}), output=tmp_path)
    critics = copied(trainer.parts["judge_encoded"]), copied(trainer.parts["judge_random"])
    trainer.fit(loader())
    for line in statistics(tmp_path):
        assert set(line) == {"progress", "l1", "kl", "gan", "latent"}
        assert line["gan"] == 0
    assert same(copied(trainer.parts["judge_encoded"]), critics[0])
    assert same(copied(trainer.parts["judge_random"]), critics[1])


@pytest.mark.parametrize(
    ("on", "reaches_generator", "reaches_latent"),
    [("latent", True, False), ("kl", False, True), ("l1", True, True), ("task", True, False), ("diversity", True, False)],
)
def test_whom_each_loss_reaches(on, reaches_generator, reaches_latent):
    # With a gradient of zero Adam moves nothing.
    trainer = make(settings(**OFF | {f"{on}_weight": 1.0, "ema_images": 0}))
    generator, latent = copied(trainer.generator.unet), copied(trainer.parts["latent"])
    trainer.fit(loader())
    assert same(copied(trainer.generator.unet), generator) is not reaches_generator
    assert same(copied(trainer.parts["latent"]), latent) is not reaches_latent


def test_critics_can_see_masks_as_shares():
    trainer = make(settings(critic_masks="shares"))
    before = copied(trainer.parts["judge_random"])
    trainer.fit(loader())
    assert not same(copied(trainer.parts["judge_random"]), before)


def test_learning_rate_and_moving_average():
    config = settings(num_images=24, ema_images=6)
    trainer = make(config)
    rates, weights = [], []
    parameters = dict(trainer.generator.named_parameters())
    first = {name: value.detach().clone() for name, value in parameters.items()}
    mine = next(iter(parameters.values()))

    def whose(optimizer):
        return any(p is mine for group in optimizer.param_groups for p in group["params"])

    def before(optimizer, args, kwargs):
        if whose(optimizer):
            rates.extend(group["lr"] for group in optimizer.param_groups)

    def after(optimizer, args, kwargs):
        if whose(optimizer):
            weights.append({name: value.detach().clone() for name, value in parameters.items()})

    handles = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
    try:
        trainer.fit(loader())
    finally:
        for handle in handles:
            handle.remove()
    # Constant for the first half, then linear to zero.
    assert rates == pytest.approx([config.lr * x for x in (1, 1, 1, 1, 4 / 6, 2 / 6)])
    average = first
    for step, current in enumerate(weights):
        decay = min(0.5 ** (4 / 6), (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * current[name] for name in average}
    for name, value in trainer.generator.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(mine, weights[-1][next(iter(parameters))], rtol=1e-4, atol=1e-6)


class Interrupting:
    """A validation set whose ``at``-th reading is interrupted."""

    def __init__(self, at):
        self.left = at

    def __iter__(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return iter([next(iter(seeded_loader(scenes(), 4, shuffle=False)))])


@pytest.mark.parametrize(("stop", "ema_images"), [(1, 8), (3, 8), (3, 0)])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, stop, ema_images):
    config = settings(num_images=24, eval_images=8, snapshot_images=12, log_images=8, ema_images=ema_images, diversity_weight=0.1)
    undisturbed = make(config, output=tmp_path / "a")
    results = undisturbed.fit(loader(), Interrupting(-1))
    assert [result["progress"] for result in results] == [8, 16, 24]
    stopped = make(config, output=tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(loader(), Interrupting(stop))
    torch.rand(3)  # whatever happens in between
    for _ in range(2):  # the second time, the run is over and does nothing
        again = make(config, output=tmp_path / "b")
        assert again.fit(loader(), Interrupting(-1)) == results
        assert same(copied(again.generator), copied(undisturbed.generator))
        assert same(copied(again.parts), copied(undisturbed.parts))
        assert statistics(tmp_path / "b") == statistics(tmp_path / "a")


def test_another_seed_gives_other_weights():
    # A test of the test above: its comparison can fail.
    first, second = make(settings(seed=0)), make(settings(seed=1))
    for trainer in (first, second):
        trainer.fit(loader())
    assert not same(copied(first.generator), copied(second.generator))
    assert not same(copied(first.parts), copied(second.parts))


def test_the_results_are_the_recognition_score():
    trainer = make(settings(eval_images=8))
    pairs = [next(iter(loader()))]
    results = trainer.fit(loader(), pairs)
    assert [result["progress"] for result in results] == [8, 16]
    assert results[-1] == {"progress": 16} | recognition(trainer.cut, trainer.generator, pairs, seed=0)
    assert make().fit(loader()) == []


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
