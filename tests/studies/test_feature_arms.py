"""Other features in the same mixing: what they mix in, and that nothing else differs."""

from types import SimpleNamespace

import pytest
import torch

from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, FinetuneConfig, split
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.evaluation import ClassGaussians
from feataug.models import PSPNet
from studies.lib import feature_arms
from studies.own import room

SIZE = (32, 48)


def model():
    torch.manual_seed(0)
    return PSPNet("tf_efficientnet_lite0", Scenes.num_classes, output_stride=16, width=16)


def study():
    train = Scenes(12, SIZE, transforms=train_transforms(SIZE))
    spec = split(model(), "encoder.blocks.4").spec
    generator = FeatureGenerator(train.num_classes, spec, width=16, depth=1)
    return SimpleNamespace(
        train=train, classes=train.classes, batch=4, at="encoder.blocks.4", further=FinetuneConfig(num_steps=2, lr=0.01),
        args=SimpleNamespace(device="cpu"), device=torch.device("cpu"), class_weights=lambda: torch.full((train.num_classes,), 2.0),
        feataug={"masks": "random", "filter": 0.0, "ratio": 0.5}, masks=lambda name: DatasetMasks(train), load_generator=lambda: generator,
        training_loader=lambda seed: seeded_loader(train, 4, seed=seed), cut=lambda: split(model(), "encoder.blocks.4"),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "weighted"), [("gaussians", False), ("features and weights", True)])
def test_an_arm_trains_on_its_own_features_of_the_same_masks(name, weighted, monkeypatch):
    one, net, mixers, loss = study(), model(), [], FeatureMixer.loss

    def noted(self, out, batch):
        mixers.append((self, batch.masks.clone()))
        return loss(self, out, batch)

    monkeypatch.setattr(FeatureMixer, "loss", noted)
    before = {key: value.clone() for key, value in net.named_parameters()}
    trained = feature_arms.FEATURE_ARMS[name](one)(net, one.training_loader(100), one.further, None)
    assert trained is net
    assert not torch.equal(net.head[2].weight, before["head.2.weight"])
    assert {type(mixer.generator) for mixer, _ in mixers} == {FeatureGenerator if weighted else feature_arms.GaussianFeatures}
    assert all((mixer.class_weights is not None) == weighted and mixer.ratio == 0.5 for mixer, _ in mixers)
    # What a plain mixer with this seed draws. (Later draws differ where noise takes other numbers.)
    assert torch.equal(mixers[0][1][4:], FeatureMixer(one.load_generator(), one.masks("random"), 0.5, seed=one.further.seed).plan(4, SIZE).masks)
    assert [len(masks) for _, masks in mixers] == [8, 8]


def test_a_sample_of_the_gaussians_follows_from_its_own_noise():
    spec = FeatureSpec((LevelSpec("a", 3, 4), LevelSpec("b", 2, 8)))
    fitted = ClassGaussians(spec, 2)
    for number, level in enumerate(spec):
        getattr(fitted, f"mean_{number}").copy_(torch.arange(3.0)[:, None].expand(-1, level.channels))
        getattr(fitted, f"root_{number}").copy_(0.5 * torch.eye(level.channels).expand(3, -1, -1))
    generator = feature_arms.GaussianFeatures(fitted)
    masks, z = torch.ones(40, 64, 64, dtype=torch.long), torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    made = generator(masks, z)
    assert [tuple(x.shape) for x in made] == [(40, 3, 16, 16), (40, 2, 8, 8)]
    for level, same, alone, other in zip(made, generator(masks, z), generator(masks[7:8], z[7:8]), generator(masks, z + 1), strict=True):
        assert torch.equal(level, same)
        assert torch.equal(level[7:8], alone)
        assert not torch.equal(level, other)
        assert not torch.equal(level[0], level[1])
        # Class 1: mean 1, deviation 0.5.
        assert float(level.mean()) == pytest.approx(1, abs=0.02)
        assert float(level.std()) == pytest.approx(0.5, abs=0.02)


def test_all_labels_leave_no_room(capsys):
    with pytest.raises(SystemExit):
        room.options(["--data", "x", "--dataset", "camvid", "--fraction", "1"])
    assert "--fraction below 1 is needed: the ceiling's images are those that are left out" in capsys.readouterr().err
    args = room.options(["--data", "x", "--dataset", "camvid", "--half"])
    assert (args.fraction, args.ceiling, args.result.name) == (0.1, True, "room-camvid-half-0.1.json")
