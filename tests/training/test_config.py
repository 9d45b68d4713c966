import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from feataug.errors import ConfigError
from feataug.training.config import FinetuneConfig, GeneratorConfig
from feataug.training.finetuner import Finetuner

CONFIGS = [FinetuneConfig, GeneratorConfig]
COUNTS = {  # setting: the least that is allowed
    FinetuneConfig: {"num_steps": 1, "eval_every": 0, "save_every": 0, "seed": 0},
    GeneratorConfig: {
        "num_images": 1, "stats_images": 1, "critic_width": 1, "critic_scales": 1, "log_images": 1, "ema_images": 0,
        "eval_images": 0, "snapshot_images": 0, "seed": 0,
    },
}  # fmt: skip
AMOUNTS = {
    FinetuneConfig: ["lr", "power", "weight_decay", "aux_weight"],
    GeneratorConfig: ["lr", "gan_weight", "l1_weight", "latent_weight", "kl_weight", "task_weight", "diversity_weight"],
}
SHARES = {FinetuneConfig: ["momentum"], GeneratorConfig: ["beta1", "beta2"]}
OTHERS = {
    FinetuneConfig: {"lr_scale", "mixed_precision", "channels_last"},
    GeneratorConfig: {"trackers", "mixed_precision", "critic_masks", "task_balance"},
}

COUNT_CASES = [(c, name, low, bad) for c in CONFIGS for name, low in COUNTS[c].items() for bad in (low - 1, 1.5, True, "3", None)]
AMOUNT_CASES = [(c, name, bad) for c in CONFIGS for name in AMOUNTS[c] for bad in (-1e-9, math.nan, math.inf, "1", None, True)]
SHARE_CASES = [(c, name, bad) for c in CONFIGS for name in SHARES[c] for bad in (-0.1, 1, 1.0, math.nan, None)]


def refused(config, settings, *, name, given, needed):
    with pytest.raises(ConfigError) as error:
        config(**settings)
    assert str(error.value) == f"{config.__name__}: {name} is out of range.\n  given:   {given!r}\n  needed:  {needed}"


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_is_tested_below(config):
    names = {field.name for field in dataclasses.fields(config)}
    assert names == {*COUNTS[config], *AMOUNTS[config], *SHARES[config], *OTHERS[config]}


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_and_bounds_are_valid(config):
    config()
    config(**COUNTS[config], **dict.fromkeys(AMOUNTS[config], 0), **dict.fromkeys(SHARES[config], 0.0))


@pytest.mark.parametrize(("config", "name", "low", "bad"), COUNT_CASES)
def test_refuses_counts(config, name, low, bad):
    refused(config, {name: bad}, name=name, given=bad, needed=f"an integer in [{low}, inf)")


@pytest.mark.parametrize(("config", "name", "bad"), AMOUNT_CASES)
def test_refuses_amounts(config, name, bad):
    refused(config, {name: bad}, name=name, given=bad, needed="a number in [0, inf)")


@pytest.mark.parametrize(("config", "name", "bad"), SHARE_CASES)
def test_refuses_shares(config, name, bad):
    refused(config, {name: bad}, name=name, given=bad, needed="a number in [0, 1)")


def test_refuses_factors_of_the_learning_rate():
    settings = {"lr_scale": {"head": 1.0, "encoder": -0.1}}
    refused(FinetuneConfig, settings, name="lr_scale['encoder']", given=-0.1, needed="a number in [0, inf)")


@pytest.mark.parametrize("config", CONFIGS)
def test_refuses_a_precision_that_is_not_offered(config):
    for known in ("no", "bf16", "fp16"):
        assert config(mixed_precision=known).mixed_precision == known
    with pytest.raises(ConfigError) as error:
        config(mixed_precision="fp8")
    assert str(error.value) == (
        f"{config.__name__}: mixed_precision is not offered.\n  given:   'fp8'\n  needed:  'no', 'bf16', 'fp16'"
    )


def test_refuses_unknown_encodings_and_balances():
    assert GeneratorConfig(critic_masks="shares", task_balance=1).task_balance == 1
    with pytest.raises(ConfigError) as error:
        GeneratorConfig(critic_masks="one-hot")
    assert str(error.value) == (
        "GeneratorConfig: critic_masks is not offered.\n  given:   'one-hot'\n  needed:  'aspp' or 'shares'"
    )
    refused(GeneratorConfig, {"task_balance": 1.1}, name="task_balance", given=1.1, needed="a number in [0, 1]")


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_cannot_be_changed(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().lr = 1.0


@pytest.mark.parametrize(
    "config",
    [
        FinetuneConfig(),
        FinetuneConfig(num_steps=7, lr=0.1, lr_scale={"encoder": 0.1, "head": 2}, channels_last=False, seed=3),
        GeneratorConfig(),
        GeneratorConfig.paper(num_images=9, trackers=("tensorboard",)),
    ],
)
def test_round_trip_through_json(config):
    data = json.loads(json.dumps(config.to_dict()))
    assert set(data) == {field.name for field in dataclasses.fields(config)}
    assert type(config).from_dict(data) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_from_dict_takes_defaults_and_checks(config):
    assert config.from_dict({}) == config()
    assert config.from_dict({"lr": 0.5}) == config(lr=0.5)
    with pytest.raises(ConfigError):
        config.from_dict({"lr": -1})


@pytest.mark.parametrize("config", CONFIGS)
def test_from_dict_refuses_unknown_settings(config):
    with pytest.raises(ConfigError) as error:
        config.from_dict({"lr": 0.1, "zeal": 1, "epochs": 3})
    known = ", ".join(field.name for field in dataclasses.fields(config))
    assert str(error.value) == f"{config.__name__}: unknown settings.\n  given:   epochs, zeal\n  needed:  {known}"


def test_the_papers_objective():
    paper = GeneratorConfig.paper()
    assert (paper.task_weight, paper.diversity_weight, paper.ema_images) == (0, 0, 0)
    assert (paper.gan_weight, paper.l1_weight, paper.latent_weight, paper.kl_weight) == (1.0, 10.0, 0.5, 0.01)
    assert GeneratorConfig.paper(task_weight=2.0, seed=5) == dataclasses.replace(paper, task_weight=2.0, seed=5)
    with pytest.raises(ConfigError):
        GeneratorConfig.paper(seed=-1)


def test_the_default_learning_rate_moves_a_model_and_the_papers_hardly_does():
    assert FinetuneConfig().lr == 1e-3
    assert FinetuneConfig.paper() == FinetuneConfig(lr=1e-6)
    assert FinetuneConfig.paper(lr=1e-7, num_steps=5) == FinetuneConfig(lr=1e-7, num_steps=5)
    moved = {}
    images, masks = torch.rand(4, 3, 8, 8), torch.randint(3, (4, 8, 8))
    for name, config in (("ours", FinetuneConfig(num_steps=20)), ("paper", FinetuneConfig.paper(num_steps=20))):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 3, 1)
        before = model.weight.detach().clone()
        Finetuner(model, config, device="cpu", progress=False).fit([(images, masks)])
        moved[name] = float((model.weight.detach() - before).abs().max())
    assert moved["paper"] < 1e-4 < 1e-3 < moved["ours"]
