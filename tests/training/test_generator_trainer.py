"""``GeneratorTrainer``: its losses, what they reach, resuming, and that the segmentation model stays as it is."""


import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from feataug import recognition
from feataug.data import seeded_loader
from feataug.errors import TrainingError
from tests.support.generator_trainings import OFF, copied, loader, make, same, scenes, settings, statistics

# Runs as short as these ignore z; that they say so is tested once, below.
pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")


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
