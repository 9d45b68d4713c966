"""The second part of a flow's training, in which its few steps learn to arrive where many arrive."""

import copy

import pytest
import torch

from feataug import FeatureGenerator, GeneratorTrainer
from feataug.core.rng import generator_for
from feataug.errors import ConfigError
from feataug.training.flow_matching import TEACHER_STEPS, FlowObjective
from tests.support.generator_trainings import copied, loader, make, same, settings, statistics

pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")

OTHER_STEPS = (
    "FeatureGenerator: the generator was distilled for another number of steps.\n  given:   steps={given}\n  needed:  steps=2\n"
    "A generator trained with GeneratorConfig(distill_share=0) takes any number of steps."
)


class Watched(FlowObjective):
    """Notes the state of a training before each of its steps."""

    def step(self, images, masks, seen):
        state = self.optimizers["generator"].state
        weights = copied(self.generator)
        losses = super().step(images, masks, seen)
        self.notes.append((seen, set(losses), weights, int(max(value["step"] for value in state.values()))))
        return losses


def watched(config, **kwargs):
    trainer = make(config, **kwargs)
    objective = trainer.objective
    objective.__class__, objective.notes = Watched, []
    return trainer, objective


@pytest.mark.parametrize("ema_images", [0, 8])
def test_the_second_part_starts_anew_from_the_averaged_weights_of_the_first(tmp_path, ema_images):
    config = settings(num_images=40, distill_share=0.45, log_images=16, ema_images=ema_images)
    trainer, objective = watched(config, output=tmp_path)
    trainer.fit(loader())
    assert objective.first_part == 22
    parts = {seen: losses for seen, losses, _, _ in objective.notes}
    assert parts == {seen: {"flow", "expected"} if seen < 22 else {"distill"} for seen in range(0, 40, 4)}
    # Adam counts its steps from the beginning of the part.
    assert [steps for _, _, _, steps in objective.notes] == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]
    teacher = objective.parts["teacher"]
    (start,) = (weights for seen, _, weights, _ in objective.notes if seen == 24)
    assert same(start, copied(teacher))
    assert (teacher.steps, teacher.distilled_steps, trainer.generator.distilled_steps) == (TEACHER_STEPS, None, 2)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    # What is averaged over the second part is not the first one's.
    assert not same(copied(trainer.generator), copied(teacher))
    # No line has losses of both parts.
    lines = statistics(tmp_path)
    assert [(line["progress"], "flow" in line, "distill" in line) for line in lines] == [
        (16, True, False), (24, True, False), (32, False, True), (40, False, True),
    ]  # fmt: skip


def test_a_step_brings_the_samples_nearer_to_those_of_many_steps_of_the_same_noise():
    trainer = make(settings(num_images=40, distill_share=0.5, seed=3))
    trainer.fit(loader())
    objective, generator = trainer.objective, trainer.generator
    _, masks = next(iter(loader()))
    z = torch.randn(len(masks), generator.latent_size(masks.shape[-2:]), generator=generator_for(3, "noise", 24))
    many = copy.deepcopy(objective.parts["teacher"])
    many.steps = 8
    with torch.no_grad():
        errors = [(a - b).square().mean() for a, b in zip(generator(masks, z, standardized=True), many(masks, z, standardized=True), strict=True)]
    losses = objective.step(torch.empty(0), masks, 24)
    assert losses.keys() == {"distill"}
    torch.testing.assert_close(losses["distill"], torch.stack(errors).mean(), rtol=1e-4, atol=1e-6)


def test_distilled_samples_are_nearer_to_those_of_many_steps_than_samples_of_two_steps_were():
    trainer = make(settings(num_images=1200, distill_share=0.5, ema_images=100))
    trainer.fit(loader())
    teacher, student = trainer.objective.parts["teacher"], trainer.generator
    two = copy.deepcopy(teacher)
    two.steps = 2
    _, masks = next(iter(loader()))
    z = teacher.draw_z(masks, torch.Generator().manual_seed(9))
    with torch.no_grad():
        wanted = teacher(masks, z, standardized=True)[0]
        before, after = ((made(masks, z, standardized=True)[0] - wanted).square().mean() for made in (two, student))
    assert after < 0.6 * before


@pytest.mark.parametrize("ema_images", [0, 8])
def test_a_run_stopped_in_the_second_part_goes_on_bit_for_bit(tmp_path, ema_images):
    config = settings(num_images=40, distill_share=0.5, snapshot_images=12, log_images=8, ema_images=ema_images)
    whole = make(config, output=tmp_path / "a")
    whole.fit(loader())

    class Stops(FlowObjective):
        def step(self, images, masks, seen):
            if seen == 32:
                raise KeyboardInterrupt
            return super().step(images, masks, seen)

    stopped = make(config, output=tmp_path / "b")
    stopped.objective.__class__ = Stops
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(loader())
    assert sorted(path.name for path in (tmp_path / "b").glob("checkpoint-*")) == [
        "checkpoint-0000000012.safetensors", "checkpoint-0000000024.safetensors",
    ]  # fmt: skip
    for _ in range(2):  # the second time, the run is over and does nothing
        again = make(config, output=tmp_path / "b")
        again.fit(loader())
        assert same(copied(again.generator), copied(whole.generator))
        assert same(copied(again.parts), copied(whole.parts))
        assert again.generator.distilled_steps == 2
        assert statistics(tmp_path / "b") == statistics(tmp_path / "a")


@pytest.mark.parametrize(("share", "steps"), [(0.0, 2), (0.2, TEACHER_STEPS), (0.01, 2)])
def test_nothing_is_distilled_where_there_is_nothing_to_gain(share, steps):
    """No share, as many steps as the teacher's, or a part that is shorter than half an image."""
    made = make()
    made.generator.steps = steps
    trainer = GeneratorTrainer(made.generator, made.cut, settings(num_images=16, distill_share=share), device="cpu", progress=False)
    trainer.fit(loader())
    assert len(trainer.parts) == 0
    assert trainer.generator.distilled_steps is None
    trainer.generator.steps = 5
    trainer.generator(torch.zeros(1, 32, 48, dtype=torch.long))


def test_another_number_of_steps_is_refused(tmp_path):
    trainer = make(settings(distill_share=0.5))
    trainer.fit(loader())
    trainer.generator.save_pretrained(tmp_path)
    loaded = FeatureGenerator.from_pretrained(tmp_path)
    masks, seeds = torch.zeros(2, 32, 48, dtype=torch.long), torch.arange(2)
    assert torch.equal(loaded(masks, seeds)[0], trainer.generator(masks, seeds)[0])
    assert loaded.distilled_steps == 2
    with pytest.raises(ConfigError) as error:
        FeatureGenerator.from_pretrained(tmp_path, steps=4)
    assert str(error.value) == OTHER_STEPS.format(given=4)
    loaded.steps = 3
    with pytest.raises(ConfigError) as error:
        loaded(masks)
    assert str(error.value) == OTHER_STEPS.format(given=3)


def test_a_distilled_generator_can_be_trained_again():
    trainer = make(settings(distill_share=0.5, eval_images=8))
    first = trainer.fit(loader(), list(loader()))
    assert trainer.generator.distilled_steps == 2
    again, objective = watched(settings(distill_share=0.5, eval_images=8))
    again.generator.load_state_dict(trainer.generator.state_dict())
    again.generator.distilled_steps = 2
    results = again.fit(loader(), list(loader()))
    assert [sorted(losses) for _, losses, _, _ in objective.notes] == [["expected", "flow"]] * 2 + [["distill"]] * 2
    # The same trainer, too, begins with its first part.
    repeated = trainer.fit(loader(), list(loader()))
    assert [line["progress"] for line in repeated] == [line["progress"] for line in first] == [line["progress"] for line in results]


def test_the_loss_on_held_out_images_is_that_of_the_weights_that_were_distilled():
    trainer = make(settings(num_images=40, distill_share=0.5, eval_images=20))
    pairs = list(loader())
    before, after = trainer.fit(loader(), pairs)
    assert (before["progress"], after["progress"]) == (20, 40)
    assert after["held_out"] == before["held_out"]
    assert after["diversity"] != before["diversity"]
    other = FlowObjective(trainer.generator, trainer.cut, trainer.config)
    other.prepare(trainer.accelerator)
    with pytest.raises(ConfigError) as error:
        other.held_out(trainer.generator, pairs)
    assert str(error.value) == (
        "GeneratorTrainer: a distilled generator has no velocities, and so no loss on held-out images.\n  given:   a generator of 2 steps\n"
        "  needed:  a generator that was trained with GeneratorConfig(distill_share=0)"
    )
