"""A critic of one's own takes the place of ours, and is told when it returns no scores."""

import pytest
import torch
from torch import nn

from feataug import FeatureGenerator, GeneratorConfig, GeneratorTrainer, split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import CheckpointError, ConfigError, ShapeError
from feataug.generation.critics import Discriminator

pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
SIZE, CLASSES = (32, 48), Scenes.num_classes


class Plain(nn.Module):
    """Looks at features alone."""

    def __init__(self, num_classes, spec):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(level.channels, 1, 1) for level in spec)
        self.seen = []

    def forward(self, masks, features):
        self.seen.append((len(masks), len(features[0])))
        return [layer(level) for layer, level in zip(self.layers, features, strict=True)]


def make(tiny_net, output=None, num_images=16, **kwargs):
    torch.manual_seed(0)
    cut = split(tiny_net(CLASSES), at="body")
    generator = FeatureGenerator(CLASSES, cut.spec, "bicyclegan", mask_widths=(8,), width=8, depth=0, latent_dim=3)
    config = GeneratorConfig.bicyclegan(num_images=num_images, critic_width=8, critic_scales=1, stats_images=4, snapshot_images=8)
    return GeneratorTrainer(generator, cut, config, device="cpu", progress=False, output=output, **kwargs)


def loader():
    return seeded_loader(Scenes(8, SIZE, transforms=train_transforms(SIZE)), 4, seed=1)


def test_it_judges_both_branches_and_learns(tiny_net):
    trainer = make(tiny_net, critic=Plain)
    judges = [trainer.parts["judge_encoded"], trainer.parts["judge_random"]]
    assert all(isinstance(judge, Plain) for judge in judges)
    before = [judge.layers[0].weight.clone() for judge in judges]
    trainer.fit(loader())
    assert all(not torch.equal(judge.layers[0].weight, old) for judge, old in zip(judges, before, strict=True))
    # Four steps of two masks: to teach the generator, then on real and synthetic features at once, whose masks are the same or not.
    assert judges[0].seen == 4 * [(2, 2), (2, 4)]
    assert judges[1].seen == 4 * [(2, 2), (4, 4)]


def test_ours_given_by_hand_is_ours(tiny_net):
    """The argument changes who makes the critics, and nothing else."""
    found = make(tiny_net, critic=lambda classes, spec: Discriminator(classes, spec, width=8, scales=1, masks="shares"))
    expected = make(tiny_net)
    for trainer in (found, expected):
        trainer.fit(loader())
    for value, wanted in zip(found.generator.state_dict().values(), expected.generator.state_dict().values(), strict=True):
        assert torch.equal(value, wanted)


def test_a_stopped_run_goes_on_with_its_critic_alone(tiny_net, tmp_path):
    make(tiny_net, tmp_path, critic=Plain).fit(loader())
    with pytest.raises(CheckpointError) as error:
        make(tiny_net, tmp_path).fit(loader())
    assert str(error.value).startswith(
        "feataug: the output folder holds a run with other settings.\n  given:   critic=None\n  needed:  critic='Plain', as in "
    )
    make(tiny_net, tmp_path, critic=Plain).fit(loader())


@pytest.mark.parametrize(
    ("critic", "given"),
    [
        (lambda classes, spec: None, "a NoneType"),
        (lambda classes, spec: nn.ReLU(), "a ReLU without parameters"),
    ],
)
def test_refuses_what_is_no_critic(tiny_net, critic, given):
    with pytest.raises(ConfigError) as error:
        make(tiny_net, critic=critic)
    assert str(error.value) == (
        f"GeneratorTrainer: critic makes no critic.\n  given:   {given}\n"
        "  needed:  a function of (num_classes, spec) that returns a new torch.nn.Module with parameters"
    )


@pytest.mark.parametrize(
    ("returned", "given"),
    [
        (lambda scores: scores[0], "[2, 1, 8, 12] float32 on cpu"),
        (lambda scores: [], "list []"),
        (lambda scores: [scores[0][:1]], "[1, 1, 8, 12] float32 on cpu"),
        (lambda scores: [None], "NoneType None"),
    ],
)
def test_refuses_what_are_no_scores(tiny_net, returned, given):
    class Wrong(Plain):
        def forward(self, masks, features):
            return returned(super().forward(masks, features))

    with pytest.raises(ShapeError) as error:
        make(tiny_net, critic=Wrong).fit(loader())
    assert str(error.value) == (
        f"GeneratorTrainer: the critic returns no scores.\n  given:   {given}\n"
        "  needed:  a list of tensors with 2 rows each, one for each feature"
    )
