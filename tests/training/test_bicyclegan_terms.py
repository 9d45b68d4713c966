"""BicycleGAN's terms in a training: which are computed, what each of them reaches, and the critics' masks."""

import pytest

from tests.support.generator_trainings import OFF, copied, loader, make, same, settings, statistics

pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")


def test_every_loss_is_logged(tmp_path):
    trainer = make(settings("bicyclegan", diversity_weight=0.1, num_images=14, log_images=8), output=tmp_path)
    trainer.fit(loader())
    lines = trainer.run.history()
    names = {"progress", "seconds", "l1", "kl", "gan", "latent", "task", "diversity", "critics"}
    assert [set(line) for line in lines] == [names, names]
    assert [line["progress"] for line in lines] == [8, 16]  # whole batches of 4; the last one passes 14
    assert all(line[name] > 0 for line in lines for name in names - {"seconds"})


def test_terms_that_are_off_are_not_computed(tmp_path):
    trainer = make(settings("bicyclegan", **OFF | {"l1_weight": 10.0}), output=tmp_path)
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
    trainer = make(settings("bicyclegan", **OFF | {f"{on}_weight": 1.0, "ema_images": 0}))
    generator, latent = copied(trainer.generator.unet), copied(trainer.parts["latent"])
    trainer.fit(loader())
    assert same(copied(trainer.generator.unet), generator) is not reaches_generator
    assert same(copied(trainer.parts["latent"]), latent) is not reaches_latent


@pytest.mark.parametrize("masks", ["shares", "aspp"])
def test_critics_can_see_masks_either_way(masks):
    trainer = make(settings("bicyclegan", critic_masks=masks))
    before = copied(trainer.parts["judge_random"])
    trainer.fit(loader())
    assert not same(copied(trainer.parts["judge_random"]), before)


def test_another_seed_gives_other_critics():
    first, second = (make(settings("bicyclegan", seed=seed)) for seed in (0, 1))
    assert not same(copied(first.parts), copied(second.parts))
