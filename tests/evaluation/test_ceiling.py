"""The positive control: real features with their masks where synthetic ones go, resumable as other arms are."""

import copy

import pytest
import torch
from torch import nn

import feataug
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import DataError
from feataug.evaluation import train_arm
from feataug.evaluation.comparison.ceiling import EncodedImages, LabelledPairs
from feataug.training.batches import endless

pytestmark = pytest.mark.xdist_group("comparison")

SIZE, CLASSES = (32, 48), Scenes.num_classes


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images):
        return self.head(self.encoder(images))


@pytest.fixture
def parts():
    torch.manual_seed(0)
    model = Tiny()
    cut = feataug.split(model, "encoder", example=torch.zeros(1, 3, *SIZE))
    return model, cut, feataug.FeatureGenerator(CLASSES, cut.spec, width=4, depth=1)


def labelled(seed=0, count=7, batch=3):
    return seeded_loader(Scenes(count, SIZE, seed=5, transforms=train_transforms(SIZE)), batch, seed=seed)


def test_pairs_come_in_the_loaders_order_and_go_on_from_any_place():
    slow = endless(labelled())
    images, masks = (torch.cat(x) for x in zip(*(next(slow) for _ in range(8)), strict=True))
    rng = torch.Generator()
    pairs, place, states = LabelledPairs(labelled()), 0, []
    for n in (2, 0, 5, 1, 3, 4, 6):
        states.append((place, pairs.state_dict()))
        drawn = pairs.draw(n, rng)
        assert len(drawn) == n
        if n:
            assert torch.equal(drawn, masks[place : place + n])
            assert torch.equal(pairs.images, images[place : place + n])
        place += n
    for place, state in states:
        again = LabelledPairs(labelled())
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert torch.equal(again.draw(3, rng), masks[place : place + 3])
        assert torch.equal(again.images, images[place : place + 3])


def test_a_loader_without_batches():
    with pytest.raises(DataError) as error:
        LabelledPairs([]).draw(1, torch.Generator())
    assert str(error.value) == (
        "compare: the ceiling's loader yields no batch.\n  given:   list\n"
        "  needed:  an iterable of (images, masks) that can be read again and again"
    )


def test_features_are_the_encoders_of_now_in_eval_mode_without_gradients(parts):
    model, cut, generator = parts
    pairs = LabelledPairs(labelled())
    mixer = feataug.FeatureMixer(EncodedImages(cut, pairs, generator), pairs, 0.5, cut=cut, label_smoothing=0.0)
    model.train()
    modes, before = [m.training for m in model.modules()], copy.deepcopy(model.encoder.state_dict())
    features = [torch.zeros(4, 8, 8, 12, requires_grad=True)]
    with torch.no_grad():
        model.encoder[0].weight.add_(0.1)
        expected_encoder = copy.deepcopy(model.encoder).eval()
    batch = mixer(features, torch.zeros(4, *SIZE, dtype=torch.long))
    assert batch.num_synthetic == 4
    with torch.no_grad():
        expected = expected_encoder(pairs.images)
    torch.testing.assert_close(batch.features[0][4:], expected)
    first = LabelledPairs(labelled()).draw(4, torch.Generator())
    assert torch.equal(batch.masks[4:], first)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model.encoder[1].running_mean, before["1.running_mean"])
    model.head(batch.features[0]).sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert model.head.weight.grad.abs().sum() > 0


def train(model, generator, loader, folder=None, steps=7):
    config = feataug.FinetuneConfig(num_steps=steps, lr=0.05, save_every=2)
    trained, _ = train_arm(
        model, "encoder", loader, lambda trained: {"miou": 0.0}, config, generator=generator, ceiling=labelled(3), ratio=0.4,
        example=torch.zeros(1, 3, *SIZE), output=folder, device="cpu", progress=False,
    )  # fmt: skip
    return torch.cat([value.flatten().double() for value in trained.state_dict().values()])


def real():
    return seeded_loader(Scenes(8, SIZE, seed=0, transforms=train_transforms(SIZE)), 4, seed=1)


class Stops:
    """A loader that dies after some batches."""

    def __init__(self, loader, after):
        self.loader, self.batch_sampler, self.after, self.dataset = loader, loader.batch_sampler, after, loader.dataset

    def __iter__(self):
        for batch in self.loader:
            if not self.after:
                raise KeyboardInterrupt
            self.after -= 1
            yield batch


def test_an_arm_that_was_stopped_goes_on_as_if_it_had_not_been(parts, tmp_path):
    model, _, generator = parts
    whole = train(model, generator, real())
    with pytest.raises(KeyboardInterrupt):
        train(model, generator, Stops(real(), 5), tmp_path)
    assert torch.equal(train(model, generator, real(), tmp_path), whole)
    # It is not the control, and not what other images would give.
    config = feataug.FinetuneConfig(num_steps=7, lr=0.05)
    control, _ = train_arm(model, "encoder", real(), lambda trained: {}, config, device="cpu", progress=False)
    assert not torch.equal(torch.cat([value.flatten().double() for value in control.state_dict().values()]), whole)


def test_a_run_that_is_measured_again_is_not_measured_as_before(parts, tmp_path):
    """All steps are done, the figures' file is gone, and the way to measure is another one."""
    model, _, _ = parts
    config = feataug.FinetuneConfig(num_steps=3, lr=0.05)
    for value in (1.0, 2.0):
        _, figures = train_arm(
            model, "encoder", real(), lambda trained, value=value: {"miou": value}, config, output=tmp_path, device="cpu", progress=False
        )
        assert figures["as_trained"]["miou"] == figures["miou"] == value
