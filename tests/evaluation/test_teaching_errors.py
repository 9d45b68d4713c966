"""What ``feataug.teaching_score`` refuses, with the text of each error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import feataug
from feataug.errors import ConfigError, DtypeError, ShapeError
from tests.support.teaching_runs import (
    Net,
    planted,
    teach,
    text_of,
)

pytestmark = pytest.mark.xdist_group("teaching")


def test_messages(loud):
    assert text_of(ConfigError, lambda: teach(loud, sources=("generator",))) == (
        "teaching_score: sources do not fit.\n"
        "  given:   ('generator',)\n"
        "  needed:  'real', to compare the others with, and any of 'generator', 'gaussians', each once"
    )
    assert text_of(ConfigError, lambda: teach(loud, sources=("real", "mine"))) == (
        "teaching_score: sources do not fit.\n"
        "  given:   ('real', 'mine')\n"
        "  needed:  'real', to compare the others with, and any of 'generator', 'gaussians', each once\n"
        "Pass your own sources as others={name: source}."
    )
    assert text_of(ConfigError, lambda: teach(loud, sources=("real", "generator"))) == (
        "teaching_score: there is no generator.\n"
        "  given:   generator=None\n"
        "  needed:  a FeatureGenerator trained for this cut\n"
        "Without one, leave it out: sources=('real', 'gaussians'), num_classes=..."
    )
    assert text_of(ConfigError, lambda: teach(loud, others={"real": 3})) == (
        "teaching_score: a source of others does not fit.\n"
        "  given:   'real': int 3\n"
        "  needed:  another name than those of our sources, and a function (masks, real, rng) -> features"
    )
    assert text_of(ConfigError, lambda: teach(loud, seeds=(1, 1))) == (
        "teaching_score: seeds must differ.\n  given:   (1, 1)\n  needed:  one or more different integers"
    )
    assert text_of(ConfigError, lambda: teach(loud, loader=planted("loud", 0))) == "teaching_score: loader takes no seed.\n" + (
        "  given:   list\n"
        "  needed:  a function of the seed that returns a loader, so that all sources see the same batches\n"
        "loader=lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)"
    )
    assert text_of(ConfigError, lambda: teach(loud, fresh=lambda seed: nn.Conv2d(3, 4, 1))).startswith(
        "teaching_score: fresh makes a model of another architecture.\n"
        "  given:   bias (4,), encoder.0.bias missing, encoder.0.weight missing, encoder.1.bias missing, "
        "encoder.1.num_batches_tracked missing and 13 more differences\n"
        "  needed:  bias none, encoder.0.bias (6,), "
    )
    assert text_of(ConfigError, lambda: teach(loud, fresh=lambda seed: None)) == (
        "teaching_score: fresh returns no model.\n  given:   NoneType None\n  needed:  a Net, untrained"
    )


def test_messages_of_sources(loud):
    wrong = {"short": lambda masks, real, rng: (real[0][:, :3],)}
    text = text_of(ShapeError, lambda: teach(loud, others=wrong))
    assert text.startswith(
        "teaching_score: source 'short': the features do not fit the spec.\n"
        '  given:   [4, 3, 16, 24] float32 on cpu   at level "encoder"\n'
        "  needed:  [B, 6, 16, 24]   (channels 6, reduction 1, for masks of 16 x 24)"
    )
    text = text_of(ShapeError, lambda: teach(loud, others={"few": lambda masks, real, rng: (real[0][:2],)}))
    assert text == (
        "teaching_score: source 'few': features and masks hold different numbers of samples.\n"
        "  given:   2 features, 4 masks\n"
        "  needed:  one mask for each sample"
    )
    text_of(DtypeError, lambda: teach(loud, others={"whole": lambda masks, real, rng: (real[0].long(),)}))


class Bare(Net):
    """A decoder with a weight that no ``reset_parameters`` makes new."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * super().forward(images)


def test_a_weight_that_cannot_be_made_new():
    assert text_of(ConfigError, lambda: teach(Bare())) == (
        "teaching_score: weights after the cut cannot be re-initialised.\n"
        "  given:   scale: their modules have no reset_parameters()\n"
        "  needed:  fresh=, a function of a seed that returns such a model before training\n"
        "fresh=lambda seed: MyModel(pretrained=True)"
    )
    assert teach(Bare(), steps=2, fresh=lambda seed: Bare())["score"]["real"]["after"] == 1


class Shared(Net):
    """One weight on both sides of the cut, used without its module."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Parameter(torch.ones(3))

    def forward(self, images):
        out = self.encoder(images * self.shared[:, None, None])
        return self.head(out) * self.shared.sum()


def test_a_weight_on_both_sides_of_the_cut():
    torch.manual_seed(0)
    assert text_of(feataug.errors.TrainingError, lambda: teach(Shared(), fresh=lambda seed: Shared(), steps=20)) == (
        "teaching_score: the encoder has changed while the decoder was trained.\n"
        '  given:   other features at level "encoder"\n'
        "  needed:  a cut where no weight or buffer is used on both sides\n"
        "Cut at another layer: feataug.cuts(model, images) lists them."
    )


def test_a_generator_for_another_cut_is_refused_before_anything_is_trained(loud, prototypes, tmp_path):
    with pytest.raises(ShapeError, match="teaching_score: the generator was made for another cut"):
        feataug.teaching_score(
            loud, "head.0", prototypes, lambda seed: planted("loud", 1), planted("loud", 2), feataug.FinetuneConfig(num_steps=2),
            output=tmp_path, device="cpu", progress=False,
        )  # fmt: skip
    assert not list(tmp_path.rglob("*.json*"))
