import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from feataug import DatasetMasks, FeatureMixer, HardNegativeSampler, evaluate, split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import CheckpointError, ConfigError, TrainingError
from feataug.losses import segmentation_loss
from feataug.training.config import FinetuneConfig
from feataug.training.finetuner import Finetuner
from tests.support.small_generators import small_generator

SIZE = (32, 48)
CLASSES = Scenes.num_classes


class TinyModel(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Dropout(0.1 if norm else 0.0), nn.Conv2d(16, CLASSES, 1)
        )

    def forward(self, images):
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:], mode="bilinear")


def scenes(count=7):
    return Scenes(count, SIZE, transforms=train_transforms(SIZE))


def loader(count=7, batch_size=3):
    return seeded_loader(scenes(count), batch_size, seed=1)


def make(mixed, norm=True):
    """The same model, mixer and cut every time."""
    torch.manual_seed(0)
    model = TinyModel(norm)
    if not mixed:
        return model, {}
    cut = split(model, at="encoder")
    generator = small_generator(CLASSES, cut.spec)
    masks = HardNegativeSampler(DatasetMasks(scenes()), candidates=6, keep=4, refresh_every=4)
    kept = {"bank": 5, "fresh": 0.4} if mixed == "bank" else {}
    return model, {"mixer": FeatureMixer(generator, masks, 0.4, cut=cut, **kept), "cut": cut}


def tuner(mixed=False, config=None, **kwargs):
    model, mixing = make(mixed)
    return Finetuner(model, config or FinetuneConfig(num_steps=2, lr=0.05), device="cpu", progress=False, **mixing, **kwargs)


def loss_on_scenes(model):
    images, masks = next(iter(seeded_loader(scenes(), 7)))
    training = model.training
    with torch.no_grad():
        loss = float(segmentation_loss(model.eval()(images), masks))
    model.train(training)
    return loss


@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_goes_down(mixed):
    run = tuner(mixed, FinetuneConfig(num_steps=40, lr=0.05))
    before = loss_on_scenes(run.model)
    run.fit(loader())
    assert loss_on_scenes(run.model) < 0.85 * before


def test_the_learning_rate_is_the_poly_formula_at_every_step():
    config = FinetuneConfig(num_steps=6, lr=0.1, power=0.9, lr_scale={"encoder.0": 0.5, "encoder": 0.1})
    run, seen = tuner(config=config), []
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}

    def look(optimizer, args, kwargs):
        seen.append({names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]})

    handle = register_optimizer_step_pre_hook(look)
    try:
        run.fit(loader())
    finally:
        handle.remove()
    assert len(seen) == 6
    for step, rates in enumerate(seen):
        assert rates.keys() == set(names.values())
        for name, rate in rates.items():
            scale = 0.5 if name.startswith("encoder.0") else 0.1 if name.startswith("encoder") else 1.0
            assert rate == pytest.approx(scale * 0.1 * (1 - step / 6) ** 0.9, rel=1e-12), name


def one_plain_step(mixed):
    """Changes of every parameter by one step of plain SGD with learning rate 1, and what was drawn."""
    model, mixing = make(mixed, norm=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = []
    if mixed:
        source = mixing["mixer"].masks
        draw = source.draw
        source.draw = lambda n, generator: drawn.append(draw(n, generator)) or drawn[-1]
    config = FinetuneConfig(num_steps=1, lr=1.0, momentum=0.0, weight_decay=0.0, channels_last=False)
    Finetuner(model, config, device="cpu", progress=False, **mixing).fit(loader())
    return {name: before[name] - value for name, value in model.state_dict().items()}, drawn


def gradients_on_real_samples(num_synthetic_pixels):
    model, _ = make(False, norm=False)
    images, masks = next(iter(loader()))
    valid = int((masks != 255).sum()) + num_synthetic_pixels
    (F.cross_entropy(model(images), masks, ignore_index=255, reduction="sum") / valid).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_the_encoder_learns_from_real_samples_only():
    changes, drawn = one_plain_step(mixed=True)
    assert sum(len(masks) for masks in drawn) == 2
    expected = gradients_on_real_samples(sum(int((masks != 255).sum()) for masks in drawn))
    for name, value in expected.items():
        if name.startswith("encoder"):
            torch.testing.assert_close(changes[name], value, rtol=1e-3, atol=1e-6)
        else:  # the head learns from both
            assert not torch.allclose(changes[name], value, rtol=1e-2, atol=1e-6), name


def test_the_control_is_plain_sgd():
    changes, drawn = one_plain_step(mixed=False)
    assert not drawn
    for name, value in gradients_on_real_samples(0).items():
        torch.testing.assert_close(changes[name], value, rtol=1e-3, atol=1e-6)


def statistics(folder):
    """``stats.jsonl`` without the clock."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def measure(model):
    assert not any(module.training for module in model.modules())
    return {"weight": float(model.head[0].weight.detach().double().sum())}


@pytest.mark.parametrize("mixed", [False, True, "bank"])
@pytest.mark.parametrize(("stop", "save_every"), [(4, 5), (4, 3), (8, 3)])  # before the first checkpoint, after it, after another
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, mixed, stop, save_every):
    config = FinetuneConfig(num_steps=10, lr=0.05, eval_every=2, save_every=save_every)
    undisturbed = tuner(mixed, config, output=tmp_path / "a")
    results = undisturbed.fit(loader(), measure)
    passes = []

    def interrupt(model):
        passes.append(1)
        if 2 * len(passes) == stop:
            raise KeyboardInterrupt
        return measure(model)

    stopped = tuner(mixed, config, output=tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(loader(), interrupt)
    torch.rand(3)  # whatever happens in between
    with open(tmp_path / "b" / "stats.jsonl", "a") as file:
        file.write('{"progress": 4, "wei')  # a line that a kill cut short
    again = tuner(mixed, config, output=tmp_path / "b")
    assert again.fit(loader(), measure) == results
    assert_equal_weights(again.model.state_dict(), undisturbed.model.state_dict())
    assert statistics(tmp_path / "b") == statistics(tmp_path / "a")
    # And a run that is over does nothing.
    over = tuner(mixed, config, output=tmp_path / "b")
    assert over.fit(loader(), measure) == results
    assert_equal_weights(over.model.state_dict(), undisturbed.model.state_dict())


def test_another_loader_seed_gives_other_weights():
    # A test of the test above: its comparison can fail.
    first, second = tuner(), tuner()
    first.fit(loader())
    second.fit(seeded_loader(scenes(), 3, seed=2))
    with pytest.raises(AssertionError):
        assert_equal_weights(first.model.state_dict(), second.model.state_dict())


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    tuner(config=FinetuneConfig(num_steps=2, lr=0.05), output=tmp_path).fit(loader())
    with pytest.raises(CheckpointError) as error:
        tuner(mixed=True, config=FinetuneConfig(num_steps=3, lr=0.05), output=tmp_path).fit(loader())
    assert str(error.value) == (
        "feataug: the output folder holds a run with other settings.\n"
        "  given:   mixed={'ratio': 0.4, 'label_smoothing': 0.0001, 'synthetic_weight': 1.0, "
        "'aux_weight': 0.4, 'ignore_index': 255, 'masks': 'HardNegativeSampler'}, num_steps=3\n"
        f"  needed:  mixed=False, num_steps=2, as in {tmp_path / 'checkpoint-0000000002.safetensors'}\n"
        "Use another output folder, or delete this one to start again."
    )


def test_results_and_statistics(tmp_path):
    run = tuner(config=FinetuneConfig(num_steps=5, lr=0.05, eval_every=2), output=tmp_path)
    val = seeded_loader(scenes(3), 2, shuffle=False)
    results = run.fit(loader(), val, num_classes=CLASSES)
    assert [result["progress"] for result in results] == [2, 4, 5]
    assert results[-1] == {"progress": 5} | evaluate(run.model, val, CLASSES)
    every = run.run.history()
    assert [line["progress"] for line in every] == [1, 2, 3, 4, 5]
    assert [line.keys() for line in every if "miou" not in line] == [{"progress", "loss", "seconds"}] * 2
    lines = [line for line in every if "miou" in line]
    assert [line.keys() - result.keys() for line, result in zip(lines, results, strict=True)] == [{"loss", "seconds"}] * 3
    assert all(line["miou"] == result["miou"] for line, result in zip(lines, results, strict=True))


def test_frozen_parameters_stay():
    run = tuner()
    run.model.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.fit(loader())
    same = {name: torch.equal(value, before[name]) for name, value in run.model.named_parameters()}
    assert all(value == name.startswith("encoder") for name, value in same.items())
    run.model.requires_grad_(False)
    with pytest.raises(ConfigError) as error:
        run.fit(loader())
    assert str(error.value) == ("Finetuner: nothing to train.\n  given:   no parameter requires a gradient\n  needed:  one")


@pytest.mark.parametrize(("whose", "given"), [("none", "no cut"), ("another", "a cut of another TinyModel")])
def test_the_cut_must_be_the_models(whose, given):
    model, mixing = make(True)
    cut = None if whose == "none" else split(TinyModel(), at="encoder")
    with pytest.raises(ConfigError) as error:
        Finetuner(model, mixer=mixing["mixer"], cut=cut)
    assert str(error.value) == (
        f"Finetuner: the cut does not belong to the model.\n  given:   {given}\n"
        "  needed:  Finetuner(cut.model, mixer=mixer, cut=cut)"
    )


def test_a_validation_loader_needs_the_number_of_classes():
    with pytest.raises(ConfigError) as error:
        tuner().fit(loader(), loader())
    assert str(error.value) == ("Finetuner: num_classes is missing.\n  given:   a validation loader\n  needed:  num_classes=")


@pytest.mark.parametrize(("empty", "given"), [([], "list after 0 passes"), (iter(()), "tuple_iterator after 0 passes")])
def test_a_loader_that_yields_nothing(empty, given):
    with pytest.raises(TrainingError) as error:
        tuner().fit(empty)
    assert str(error.value) == (
        "feataug: the loader yields no batch.\n"
        f"  given:   {given}\n"
        "  needed:  an iterable of (images, masks) that can be read again and again\n"
        "Is the data set empty, or smaller than a batch while drop_last is set? Pass a DataLoader, not an iterator."
    )


def test_a_loss_that_is_not_finite(tmp_path):
    images, masks = next(iter(loader()))
    batches = [(images, masks), (images, masks), (images * float("nan"), masks)]
    run = tuner(config=FinetuneConfig(num_steps=6, lr=0.05, save_every=2), output=tmp_path)
    with pytest.raises(TrainingError) as error:
        run.fit(batches)
    assert str(error.value) == (
        "feataug: the loss is not finite.\n  given:   nan at 3\n  needed:  a finite loss\n"
        "Lower lr, or train without mixed_precision. The last checkpoint is untouched."
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "checkpoint-0000000002.safetensors", "stats.jsonl"]


def test_a_loss_of_ones_own_is_what_is_minimised():
    calls = []

    def loss(out, masks):
        calls.append(tuple(out.shape))
        return 0.0 * out.sum() + segmentation_loss(out, masks)

    own, plain = tuner(loss=loss), tuner()
    own.fit(loader())
    plain.fit(loader())
    assert calls == [(3, CLASSES, *SIZE)] * 2
    for a, b in zip(own.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ConfigError) as error:
        tuner(mixed=True, loss=loss)
    assert str(error.value) == (
        "Finetuner: two losses.\n  given:   a mixer and a loss\n  needed:  one of them\n"
        "For your own loss on mixed batches, override loss(out, batch) in a subclass of the mixer."
    )
