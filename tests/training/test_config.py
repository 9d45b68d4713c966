import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from feataug.errors import ConfigError
from feataug.training.config import ONLY, FinetuneConfig, GeneratorConfig
from feataug.training.finetuner import Finetuner

CONFIGS = [FinetuneConfig, GeneratorConfig]
COUNTS = {  # setting: the least that is allowed
    FinetuneConfig: {"num_steps": 1, "eval_every": 0, "save_every": 0, "seed": 0},
    GeneratorConfig: {
        "num_images": 1, "stats_images": 1, "critic_width": 1, "critic_scales": 1, "log_images": 1, "ema_images": 0,
        "eval_images": 0, "snapshot_images": 0, "seed": 0, "noise_levels": 1,
    },
}  # fmt: skip
AMOUNTS = {
    FinetuneConfig: ["lr", "power", "weight_decay", "aux_weight"],
    GeneratorConfig: ["lr", "weight_decay", "gan_weight", "l1_weight", "latent_weight", "kl_weight", "task_weight", "diversity_weight"],
}
SHARES = {FinetuneConfig: ["momentum"], GeneratorConfig: ["beta1", "beta2", "distill_share"]}
OTHERS = {
    FinetuneConfig: {"lr_scale", "mixed_precision", "channels_last"},
    GeneratorConfig: {"objective", "trackers", "mixed_precision", "critic_masks", "task_balance", "colored_noise"},
}
# None is the objective's value.
CHOSEN = {FinetuneConfig: (), GeneratorConfig: ("lr", "beta1", "distill_share")}

COUNT_CASES = [(c, name, low, bad) for c in CONFIGS for name, low in COUNTS[c].items() for bad in (low - 1, 1.5, True, "3", None)]
BAD_AMOUNTS, BAD_SHARES = (-1e-9, math.nan, math.inf, "1", True, None), (-0.1, 1, 1.0, math.nan, None)
AMOUNT_CASES = [(c, x, bad) for c in CONFIGS for x in AMOUNTS[c] for bad in BAD_AMOUNTS if bad is not None or x not in CHOSEN[c]]
SHARE_CASES = [(c, x, bad) for c in CONFIGS for x in SHARES[c] for bad in BAD_SHARES if bad is not None or x not in CHOSEN[c]]


def refused(config, settings, *, name, given, needed):
    with pytest.raises(ConfigError) as error:
        config(**settings)
    assert str(error.value) == f"{config.__name__}: {name} is out of range.\n  given:   {given!r}\n  needed:  {needed}"


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_is_tested_below(config):
    names = {field.name for field in dataclasses.fields(config)}
    assert names == {*COUNTS[config], *AMOUNTS[config], *SHARES[config], *OTHERS[config]}


@pytest.mark.parametrize(("config", "others"), [(FinetuneConfig, ()), (GeneratorConfig, "bicyclegan"), (GeneratorConfig.bicyclegan, "flow")])
def test_defaults_and_bounds_are_valid(config, others):
    kind = FinetuneConfig if config is FinetuneConfig else GeneratorConfig
    config()
    least = COUNTS[kind] | dict.fromkeys(AMOUNTS[kind], 0) | dict.fromkeys(SHARES[kind], 0.0)
    config(**{name: value for name, value in least.items() if not others or name not in ONLY[others]})


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
    assert GeneratorConfig.bicyclegan(critic_masks="shares", task_balance=1).task_balance == 1
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
        GeneratorConfig(noise_levels=1, weight_decay=0.0),
        GeneratorConfig.bicyclegan(critic_width=8),
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


def test_each_objective_has_its_own_learning_rate_and_momentum():
    flow, bicyclegan, paper = (GeneratorConfig.for_preset(name) for name in ("flow", "bicyclegan", "paper"))
    assert (flow, bicyclegan, paper) == (GeneratorConfig(), GeneratorConfig.bicyclegan(), GeneratorConfig.paper())
    assert [(config.objective, config.lr, config.beta1) for config in (flow, bicyclegan, paper)] == [
        ("flow", 4e-3, 0.9), ("bicyclegan", 5e-4, 0.5), ("bicyclegan", 2e-4, 0.5),
    ]  # fmt: skip
    for name in ("flow", "bicyclegan", "paper"):
        given = {"lr": 0.1, "beta1": 0.2, "seed": 3}
        assert {key: getattr(GeneratorConfig.for_preset(name, **given), key) for key in given} == given


def test_refuses_objectives_and_presets_that_there_are_not():
    for make, objective in ((GeneratorConfig, "paper"), (GeneratorConfig, None), (GeneratorConfig, 3), (GeneratorConfig.for_preset, "default")):
        with pytest.raises(ConfigError) as error:
            make(objective)
        assert str(error.value) == (
            f"GeneratorConfig: no such objective.\n  given:   {objective!r}\n  needed:  'flow' or 'bicyclegan'"
        )


# For each setting of one objective alone, a value that is not the default.
IDLE = {
    "bicyclegan": {
        "gan_weight": 0.0, "l1_weight": 10.0, "latent_weight": 1.0, "kl_weight": 0.1, "task_weight": 0.0, "task_balance": 0.0,
        "diversity_weight": 0.0, "critic_masks": "aspp", "critic_width": 32, "critic_scales": 1,
    },
    "flow": {"weight_decay": 0.1, "noise_levels": 1, "distill_share": 0.5, "colored_noise": True},
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "mine", "other", "needed"),
    [
        (GeneratorConfig, "flow", "bicyclegan", "GeneratorConfig.bicyclegan(...)"),
        (GeneratorConfig.bicyclegan, "bicyclegan", "flow", "GeneratorConfig(...)"),
        (GeneratorConfig.paper, "bicyclegan", "flow", "GeneratorConfig(...)"),
    ],
)
def test_settings_of_the_other_objective_are_refused(make, mine, other, needed):
    assert set(IDLE[other]) == set(ONLY[other])
    assert make(**IDLE[mine]).objective == mine
    for name, value in IDLE[other].items():
        with pytest.raises(ConfigError) as error:
            make(**{name: value})
        assert str(error.value) == (
            f"GeneratorConfig: settings of {other!r} have no effect on {mine!r}.\n  given:   {name}={value!r}\n"
            f"  needed:  {needed}, or without these settings"
        )
    with pytest.raises(ConfigError) as error:
        make(**IDLE[other])
    given = ", ".join(f"{name}={IDLE[other][name]!r}" for name in ONLY[other])
    assert str(error.value).splitlines()[1] == f"  given:   {given}"


def test_a_file_from_before_flow_matching_is_bicyclegans():
    new = ("objective", *ONLY["flow"])
    for config in (GeneratorConfig.bicyclegan(num_images=9, lr=1e-4), GeneratorConfig.paper()):
        old = {name: value for name, value in config.to_dict().items() if name not in new}
        assert GeneratorConfig.from_dict(json.loads(json.dumps(old))) == config
    # One setting is enough, and a file without any is no old one.
    assert GeneratorConfig.from_dict({"task_weight": 2.0}) == GeneratorConfig.bicyclegan(task_weight=2.0)
    assert GeneratorConfig.from_dict({"num_images": 9}) == GeneratorConfig(num_images=9)
    with pytest.raises(ConfigError, match="settings of 'bicyclegan' have no effect on 'flow'"):
        GeneratorConfig.from_dict({"objective": "flow", "task_weight": 2.0})


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
