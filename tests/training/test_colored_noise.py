"""Training from noise with the features' correlations: how they are measured, kept and resumed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feataug import split
from feataug.generation.level_buffers import FEWEST_CELLS
from feataug.training.feature_statistics import channel_statistics
from feataug.training.flow_matching import FlowObjective
from feataug.training.generator_trainer import GeneratorTrainer
from tests.support.generator_trainings import copied, loader, make, same, settings, statistics


def first_features(trainer, batches):
    """The cells of the features of the first batches, ``(channels, cells)``."""
    images = loader()
    images.batch_sampler.set_epoch(0)
    with torch.no_grad():
        return torch.cat([trainer.cut.model.eval().encoder(x) for x, _ in list(images)[:batches]]).transpose(0, 1).flatten(1)


def test_correlations_are_those_of_the_first_images():
    trainer = make(settings(stats_images=6, colored_noise=True))  # two batches of 4
    trainer.fit(loader())
    expected = torch.corrcoef(first_features(trainer, 2).double())
    root = trainer.generator.noise_color.root_0.double()
    torch.testing.assert_close(root @ root.T, (expected + 1e-3 * torch.eye(12)) / 1.001, rtol=1e-4, atol=1e-5)
    assert (expected - torch.eye(12)).abs().max() > 0.3, "nothing to color"


class Odd(nn.Module):
    """Features with a constant channel."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 6, 4, stride=4), nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            self.encoder.weight[2] = 0

    def forward(self, images):
        return self.head(self.encoder(images))


@pytest.mark.parametrize(("side", "measured"), [(4 * 11, True), (4 * 10, False)])
def test_a_constant_channel_and_too_few_cells(side, measured):
    """121 cells are enough for six channels, 100 are not."""
    assert FEWEST_CELLS == 20
    torch.manual_seed(0)
    cut = split(Odd().eval(), at="encoder", example=torch.zeros(1, 3, side, side))
    batches = iter([(torch.randn(1, 3, side, side), torch.zeros(1, side, side, dtype=torch.long))])
    (found,) = channel_statistics(cut, batches, 1, "cpu", correlations=True).correlations
    assert (found is not None) is measured
    if measured:
        assert torch.equal(found[2], torch.eye(6)[2])
        assert torch.equal(found[:, 2], torch.eye(6)[2])
        assert torch.isfinite(found).all()


def test_training_is_another_one_and_colored_by_default():
    white, colored = make(settings(colored_noise=False)), make(settings())
    for trainer in (white, colored):
        trainer.fit(loader())
    assert not white.generator.noise_color.fitted
    assert colored.generator.noise_color.fitted
    assert not same(copied(white.generator.velocity_net), copied(colored.generator.velocity_net))


def test_the_network_sees_colored_noise(monkeypatch):
    """Both in training and in samples: the noise at time 0 has the correlations."""
    trainer = make(settings(colored_noise=True))
    seen = []
    own = FlowObjective._draw
    monkeypatch.setattr(FlowObjective, "_draw", lambda *given: seen.append(own(*given)[0][0]) or own(*given))
    trainer.fit(loader())
    root = trainer.generator.noise_color.root_0
    white = torch.linalg.solve(root.double(), torch.cat(seen).double().transpose(0, 1).flatten(1))
    torch.testing.assert_close(torch.cov(white), torch.eye(12).double(), rtol=0, atol=0.15)


@pytest.mark.parametrize("ema_images", [0, 8])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, ema_images):
    config = settings(num_images=40, distill_share=0.5, snapshot_images=12, log_images=8, ema_images=ema_images, colored_noise=True)
    whole = make(config, output=tmp_path / "a")
    whole.fit(loader())

    class Stops(FlowObjective):
        at = 16

        def step(self, images, masks, seen):
            if seen == self.at:
                raise KeyboardInterrupt
            return super().step(images, masks, seen)

    for at in (16, 32):  # in the first part, and in the second
        stopped = make(config, output=tmp_path / "b")
        stopped.objective.__class__ = type("StopsLater", (Stops,), {"at": at})
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(loader())
    for _ in range(2):  # the second time, the run is over and does nothing
        again = make(config, output=tmp_path / "b")
        again.fit(loader())
        assert same(copied(again.generator), copied(whole.generator))
        assert statistics(tmp_path / "b") == statistics(tmp_path / "a")


@pytest.mark.parametrize("colored", [True, False])
def test_a_trained_generator_keeps_its_units_and_its_noise(colored):
    """Those of the first training: weights that know white noise would be lost on another, and the other way round."""
    first = make(settings(colored_noise=colored))
    first.fit(loader())

    def measured():
        return {name: value for name, value in copied(first.generator).items() if name.startswith(("mean_", "std_", "noise_color."))}

    kept = measured()
    assert len(kept) == 2 + colored
    GeneratorTrainer(first.generator, first.cut, settings(stats_images=9, colored_noise=not colored), device="cpu", progress=False).fit(loader())
    assert same(measured(), kept)
