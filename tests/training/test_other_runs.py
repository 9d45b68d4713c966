"""A run never goes on with what another run left: cut, model, generator, data, masks and loss are part of its settings."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.errors import CheckpointError
from feataug.losses import segmentation_loss
from feataug.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from feataug.training.run_settings import EARLIER, IDENTITY, differences
from tests.support.small_generators import small_config, small_generator

pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
SIZE, CLASSES = (32, 48), Scenes.num_classes


def network(seed=0):
    """Two layers where the model can be cut, with the same spec."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, CLASSES, 1))


def scenes(seed=0, size=SIZE, count=6):
    return Scenes(count, SIZE, seed=seed, transforms=train_transforms(size))


def generator_for(cut, seed=0, preset="flow", **settings):
    torch.manual_seed(seed)
    return small_generator(CLASSES, cut.spec, preset, **settings)


def fit_generator(
    folder, *, preset="flow", at="0", model=0, network_settings=None, data=None, batch=3, seed=1, val=None, weights=0, **changes
):
    cut = feataug.split(network(model), at)
    generator = generator_for(cut, weights, preset, **network_settings or {})
    config = small_config(preset, num_images=6, stats_images=6, **changes)
    trainer = feataug.GeneratorTrainer(generator, cut, config, output=folder, device="cpu", progress=False)
    trainer.fit(seeded_loader(data or scenes(), batch, seed=seed), val)
    return generator.state_dict()


def finetune(folder, *, at="0", model=0, weights=0, masks=None, data=None, seed=1, val=None, loss=None, mixed=True, mixing_seed=0, **kwargs):
    net, mixing = network(model), {}
    if mixed:
        cut = feataug.split(net, at)
        masks = masks or feataug.DatasetMasks(scenes())
        mixing = {"mixer": feataug.FeatureMixer(generator_for(cut, weights), masks, 0.5, cut=cut, seed=mixing_seed, **kwargs), "cut": cut}
    config = feataug.FinetuneConfig(num_steps=2, lr=0.05)
    tuner = feataug.Finetuner(net, config, output=folder, device="cpu", progress=False, loss=loss, **mixing)
    tuner.fit(seeded_loader(data or scenes(), 3, seed=seed), val, num_classes=CLASSES if val else None)
    return net.state_dict()


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def val_loader(seed=5, size=SIZE):
    return seeded_loader(Scenes(3, SIZE, seed=seed, transforms=eval_transforms(size)), 3, shuffle=False)


def weighted(factor):
    return lambda out, masks: factor * segmentation_loss(out, masks)


def sampler(**kwargs):
    return feataug.HardNegativeSampler(scenes(), **({"candidates": 4, "keep": 2, "refresh_every": 1} | kwargs))


GENERATORS = {
    "cut=['1']": {"at": "1"},
    "model=": {"model": 1},
    "architecture.shapes=": {"network_settings": {"width": 12}},
    "architecture.steps=3": {"network_settings": {"steps": 3}},
    "noise_levels=1": {"noise_levels": 1},
    "objective='bicyclegan'": {"preset": "bicyclegan"},
    "data.dataset.seed=3": {"data": scenes(3)},
    "data.dataset.length=9, data.dataset.num_images=9": {"data": scenes(count=9)},
    "data.dataset.transforms.transforms.1.size=[16, 16]": {"data": scenes(size=(16, 16))},
    "data.batch_size=2": {"batch": 2},
    "data.seed=2": {"seed": 2},
    "val_data.dataset.seed=6": {"val": val_loader(6)},
    "val_data.dataset.transforms.transforms.1.size=[64, 96]": {"val": val_loader(size=(64, 96))},
    "val_data=None": {"val": None},
}


@pytest.mark.parametrize("given", GENERATORS)
def test_a_generators_run_is_not_anothers(tmp_path, given):
    first = fit_generator(tmp_path, val=val_loader())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CheckpointError) as error:
        fit_generator(tmp_path, **{"val": val_loader()} | GENERATORS[given])
    head, facts, needed, *advice = str(error.value).splitlines()
    assert head == "feataug: the output folder holds a run with other settings."
    assert re.search(rf"(:   |, ){re.escape(given)}", facts), facts
    assert needed.startswith("  needed:  ")
    assert advice[0] == "Use another output folder, or delete this one to start again."
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    # The same again is no other run, also from other first weights of the generator: the checkpoint has its weights.
    assert equal(first, fit_generator(tmp_path, val=val_loader(), weights=7))


def test_a_run_of_bicyclegan_is_not_that_of_a_flow_or_of_another_generator(tmp_path):
    first = fit_generator(tmp_path, preset="bicyclegan")
    with pytest.raises(CheckpointError, match=r"objective='flow'.*\n  needed:  .*objective='bicyclegan'"):
        fit_generator(tmp_path)
    for given, change in {"architecture.latent_dim=3": {"latent_dim": 3}, "architecture.modulation='none'": {"modulation": "none"}}.items():
        with pytest.raises(CheckpointError, match=rf"(:   |, ){re.escape(given)}"):
            fit_generator(tmp_path, preset="bicyclegan", network_settings=change)
    assert equal(first, fit_generator(tmp_path, preset="bicyclegan", weights=7))


FINETUNES = {
    "cut=['1']": {"at": "1"},
    "model=": {"model": 1},
    "generator=": {"weights": 1},
    "data.seed=2": {"seed": 2},
    "data.dataset.seed=3": {"data": scenes(3)},
    "mask_source.dataset.seed=3": {"masks": feataug.DatasetMasks(scenes(3))},
    "mask_source.dataset.transforms.transforms.1.size=[64, 96]": {"masks": feataug.DatasetMasks(scenes(size=(64, 96)))},
    "mask_source.class='HardNegativeSampler'": {"masks": sampler()},
    "mixing_seed=4": {"mixing_seed": 4},
    "val_data.dataset.seed=6": {"val": val_loader(6)},
    "mixed=False": {"mixed": False},
    "mixed.bank=8": {"bank": 8},
}


@pytest.mark.parametrize("given", FINETUNES)
def test_a_finetuning_is_not_anothers(tmp_path, given):
    first = finetune(tmp_path, val=val_loader())
    with pytest.raises(CheckpointError) as error:
        finetune(tmp_path, **{"val": val_loader()} | FINETUNES[given])
    facts = str(error.value).splitlines()[1]
    assert re.search(rf"(:   |, ){re.escape(given)}", facts), facts
    assert equal(first, finetune(tmp_path, val=val_loader()))


@pytest.mark.parametrize(
    ("given", "change"),
    [("mask_source.keep=3", {"keep": 3}), ("mask_source.refresh_every=2", {"refresh_every": 2})],
)
def test_settings_of_a_sampler_count_also_in_a_mixture(tmp_path, given, change):
    finetune(tmp_path / "alone", masks=sampler())
    with pytest.raises(CheckpointError, match=re.escape(f"  given:   {given}\n")):
        finetune(tmp_path / "alone", masks=sampler(**change))
    mixture = [feataug.MaskMixture([scenes(), sampler(**kwargs)], (1, 1)) for kwargs in ({}, change)]
    finetune(tmp_path / "mixed", masks=mixture[0])
    given = given.replace("mask_source.", "mask_source.sources.1.")
    with pytest.raises(CheckpointError, match=re.escape(f"  given:   {given}\n")):
        finetune(tmp_path / "mixed", masks=mixture[1])


def test_the_loss_counts(tmp_path):
    finetune(tmp_path, mixed=False, loss=weighted(1.0))
    with pytest.raises(CheckpointError, match=r"given:   loss\.closure\.factor=2\.0\n  needed:  loss\.closure\.factor=1\.0, as in "):
        finetune(tmp_path, mixed=False, loss=weighted(2.0))
    with pytest.raises(CheckpointError, match=r"given:   loss=None\n"):
        finetune(tmp_path, mixed=False)
    finetune(tmp_path, mixed=False, loss=weighted(1.0))


def test_one_error_lists_all_that_differs(tmp_path):
    finetune(tmp_path, mixed=False)
    path = checkpoints(tmp_path)[0]
    model = load_checkpoint(path)[1]["settings"]["model"]
    with pytest.raises(CheckpointError) as error:
        finetune(tmp_path, mixed=False, model=1, seed=2, data=scenes(3))
    other = re.search(r"model='(\w{16})'", str(error.value))[1]
    assert str(error.value) == (
        "feataug: the output folder holds a run with other settings.\n"
        f"  given:   data.dataset.seed=3, data.seed=2, model='{other}'\n"
        f"  needed:  data.dataset.seed=0, data.seed=1, model='{model}', as in {path}\n"
        "Use another output folder, or delete this one to start again.\n"
        "A model with random first weights must start from the same ones: call torch.manual_seed(...) before you make it. If it was\n"
        "not seeded, Finetuner(..., same_start=False) continues with the weights of the run."
    )


def fit_bicyclegan(folder, **kwargs):
    return fit_generator(folder, preset="bicyclegan", **kwargs)


@pytest.mark.parametrize("run", [fit_generator, fit_bicyclegan, finetune])
def test_a_checkpoint_from_before_is_gone_on_with(tmp_path, run):
    first = run(tmp_path)
    path = checkpoints(tmp_path)[0]
    progress, content = load_checkpoint(path)
    assert IDENTITY & content["settings"].keys()
    content["settings"] = {name: value for name, value in content["settings"].items() if name not in IDENTITY}
    save_checkpoint(tmp_path, progress, content)
    assert equal(first, run(tmp_path))
    # What it did store is compared as before.
    content["settings"]["seed"] = 5
    save_checkpoint(tmp_path, progress, content)
    with pytest.raises(CheckpointError, match=r"\n  given:   seed=0\n  needed:  seed=5, as in "):
        run(tmp_path)


def test_a_checkpoint_from_before_flow_matching_is_that_of_bicyclegan(tmp_path):
    first = fit_bicyclegan(tmp_path)
    progress, content = load_checkpoint(checkpoints(tmp_path)[0])
    whole = content["settings"]
    assert EARLIER.items() <= whole.items()
    content["settings"] = {name: value for name, value in whole.items() if name not in EARLIER}
    save_checkpoint(tmp_path, progress, content)
    assert equal(first, fit_bicyclegan(tmp_path))
    with pytest.raises(CheckpointError, match=r"objective='flow'.*\n  needed:  .*objective='bicyclegan'"):
        fit_generator(tmp_path)
    # What it did not store counts as what it was then, not as anything.
    assert differences(whole | {"weight_decay": 0.5}, content["settings"]) == [("weight_decay", 0.5, 0.01)]
    assert differences(whole | {"lr": 0.5}, content["settings"]) == [("lr", 0.5, 5e-4)]
    # Inner settings of these names are compared as all others.
    assert differences({"a": {"weight_decay": 0.01}}, {"a": {}}) == [("a.weight_decay", 0.01, None)]


def test_loaders_that_say_nothing_are_not_compared(tmp_path):
    pairs = list(seeded_loader(scenes(), 3))
    for loader in (pairs, pairs[::-1], seeded_loader(scenes(), 3)):
        net = network()
        config = feataug.FinetuneConfig(num_steps=2, lr=0.05)
        feataug.Finetuner(net, config, output=tmp_path, device="cpu", progress=False).fit(loader)


def test_a_second_fit_of_the_same_finetuner_is_the_same_run(tmp_path):
    net, loader = network(), seeded_loader(scenes(), 3)
    tuner = feataug.Finetuner(net, feataug.FinetuneConfig(num_steps=2, lr=0.05), output=tmp_path, device="cpu", progress=False)
    tuner.fit(loader)
    first = {name: value.clone() for name, value in net.state_dict().items()}
    tuner.fit(loader)
    assert equal(first, net.state_dict())


def test_differences_are_named_by_their_place():
    given = {"a": 1, "b": {"c": [1, {"d": 2}]}, "model": "x", "data": {"seed": 1, "new": 2}, "bank": 4, "val_data": {}}
    assert differences(given, given) == []
    stored = {"a": 1, "b": {"c": [1, {"d": 3}]}, "data": {"seed": 2}, "lr": 1, "val_data": {"seed": 1}, "generator": "y"}
    found = [("b.c.1.d", 2, 3), ("bank", 4, None), ("data.new", 2, None), ("data.seed", 1, 2), ("lr", None, 1)]
    assert sorted(differences(given, stored), key=lambda entry: entry[0]) == sorted(found)
    assert differences({"a": [1, 2]}, {"a": [1, 3]}) == [("a", [1, 2], [1, 3])]
    assert differences({"a": [1]}, {"a": {}}) == [("a", [1], {})]
    # What was None is known, and what says nothing of itself is not.
    assert differences({"val_data": None}, {"val_data": {"seed": 1}}) == [("val_data", None, {"seed": 1})]
    assert differences({"val_data": None}, {"val_data": {}}) == []


def test_a_run_from_weights_that_nobody_seeded_goes_on_where_that_is_said(tmp_path):
    def run(folder, start, same_start, seed=1):
        net = network(start)
        tuner = feataug.Finetuner(
            net, feataug.FinetuneConfig(num_steps=2, lr=0.05), output=folder, device="cpu", same_start=same_start, progress=False
        )
        tuner.fit(seeded_loader(scenes(), 3, seed=seed))
        return net.state_dict()

    first = run(tmp_path, 0, True)
    with pytest.raises(CheckpointError, match="same_start=False"):
        run(tmp_path, 1, True)
    assert equal(run(tmp_path, 1, False), first)
    assert equal(run(tmp_path, 0, True), first)
    # Everything else still has to agree.
    with pytest.raises(CheckpointError, match="data"):
        run(tmp_path, 1, False, seed=2)
    # A run that was begun so is known by no weights.
    begun = run(tmp_path / "other", 3, False)
    assert equal(run(tmp_path / "other", 4, False), begun)
