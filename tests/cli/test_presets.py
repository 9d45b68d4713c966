"""Presets of ``fit-generator``, on the command line and in files."""

from __future__ import annotations

import json
import tomllib

import pytest

from feataug.cli.main import main
from feataug.cli.parser import parse
from feataug.errors import ConfigError
from feataug.training.config import GeneratorConfig

FIT = ["fit-generator", "--model", "runs/base", "--at", "encoder.layer3.0"]


def dry(argv, capsys):
    assert main([*argv, "--dry-run"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("preset", ["flow", "bicyclegan", "paper"])
def test_a_dry_run_holds_every_setting_of_the_training_and_goes_round(preset, tmp_path, capsys):
    options = [] if preset == "flow" else ["--preset", preset]
    text = dry([*FIT, *options, "--images", "400", "--seed", "3"], capsys)
    fit = tomllib.loads(text)["fit-generator"]
    expected = GeneratorConfig.for_preset(preset, num_images=400, seed=3, snapshot_images=20)
    assert GeneratorConfig.from_dict(fit["config"]) == expected
    assert (fit["preset"], fit["lr"]) == (preset, expected.lr)
    (tmp_path / "run.toml").write_text(text)
    (tmp_path / "run.json").write_text(json.dumps(tomllib.loads(text)))
    for file in (tmp_path / "run.toml", tmp_path / "run.json"):
        assert dry(["fit-generator", "--config", str(file)], capsys) == text


def test_settings_of_another_objective_than_the_presets(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("[fit-generator.config]\nl1_weight = 7\ncritic_scales = 1\n")
    given = [*FIT, "--config", str(tmp_path / "run.toml")]
    assert main([*given, "--dry-run"]) == 1
    assert capsys.readouterr().err == (
        "ConfigError: feataug fit-generator --preset flow: GeneratorConfig: settings of 'bicyclegan' have no effect on 'flow'.\n"
        "  given:   l1_weight=7, critic_scales=1\n  needed:  GeneratorConfig.bicyclegan(...), or without these settings\n"
    )
    assert tomllib.loads(dry([*given, "--preset", "bicyclegan"], capsys))["fit-generator"]["config"]["l1_weight"] == 7
    (tmp_path / "run.toml").write_text("[fit-generator.config]\nnoise_levels = 3\n")
    assert tomllib.loads(dry(given, capsys))["fit-generator"]["config"]["noise_levels"] == 3
    assert main([*given, "--preset", "paper", "--dry-run"]) == 1
    assert capsys.readouterr().err == (
        "ConfigError: feataug fit-generator --preset paper: GeneratorConfig: settings of 'flow' have no effect on 'bicyclegan'.\n"
        "  given:   noise_levels=3\n  needed:  GeneratorConfig(...), or without these settings\n"
    )


def test_all_that_a_preset_decides_is_in_a_saved_dry_run_and_another_preset_beside_it_is_refused(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(dry([*FIT, "--preset", "paper"], capsys))
    assert main(["fit-generator", "--config", str(file), "--preset", "flow"]) == 1
    assert capsys.readouterr().err == (
        f"ConfigError: feataug: {file}: its settings are of another preset.\n  given:   --preset flow\n"
        "  needed:  --preset paper, or no [fit-generator.config], which holds what that preset decides\n"
    )


def test_a_preset_beside_the_settings_of_another_one_in_an_earlier_file(tmp_path, capsys):
    (tmp_path / "paper.toml").write_text(dry([*FIT, "--preset", "paper"], capsys))
    (tmp_path / "more.toml").write_text('[fit-generator]\npreset = "bicyclegan"\n')
    files = ["--config", str(tmp_path / "paper.toml"), "--config", str(tmp_path / "more.toml")]
    with pytest.raises(ConfigError, match="its settings are of another preset"):
        parse(["fit-generator", *files])


def test_a_preset_that_is_none(tmp_path, capsys):
    (tmp_path / "run.toml").write_text('[fit-generator]\npreset = "default"\n')
    assert main([*FIT, "--config", str(tmp_path / "run.toml")]) == 1
    assert capsys.readouterr().err == (
        f"ConfigError: feataug: {tmp_path / 'run.toml'}, [fit-generator]: preset does not fit.\n"
        "  given:   'default'\n  needed:  'flow' or 'bicyclegan' or 'paper'\n"
    )
