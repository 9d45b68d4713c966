"""Options from a file, and dry runs, which print such a file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from feataug.cli.main import COMMANDS, main
from feataug.cli.parser import parse
from feataug.training.config import FinetuneConfig

FIT = ["fit-generator", "--model", "runs/base", "--at", "encoder.layer3.0"]
MINIMAL = {
    "demo": ["demo"],
    "doctor": ["doctor", "--samples", "8", "--all"],
    "inspect": ["inspect", "timm/test_resnet", "--size", "64x96"],
    "stages": ["stages", "--model", "a", "--at", "b", "c,d", "--generator-images", "8"],
    "fit-generator": [*FIT, "--preset", "paper"],
    "finetune": ["finetune", "--encoder", 'a "quoted"\tname'],
    "fit-bias": ["fit-bias", "--model", "a", "--measure", "class_acc", "--crop-size", "96", "128"],
    "compare": ["compare", "--model", "a", "--generator", "b", "--seed", "4"],
    "teach": ["teach", "--model", "a", "--generator", "b", "--pretrained"],
    "report": ["report", "runs/demo"],
    "evaluate": ["evaluate", "--model", "a", "--scales", "0.5", "1", "--flip"],
}


def test_every_command_is_tried():
    assert set(COMMANDS) == set(MINIMAL)


TOML = """\
data = "CamVid"
batch-size = 4
size = [120, 160]

[fit-generator]
model = "runs/base"
at = "encoder.layer3.0"
preset = "bicyclegan"
images = 500

[fit-generator.config]
l1_weight = 7
trackers = ["tensorboard"]

[finetune]
ratio = 0.25
"""


def both_formats(tmp_path: Path, text: str) -> list[Path]:
    (tmp_path / "run.toml").write_text(text)
    (tmp_path / "run.json").write_text(json.dumps(tomllib.loads(text)))
    return [tmp_path / "run.toml", tmp_path / "run.json"]


def test_options_from_a_file(tmp_path):
    for file in both_formats(tmp_path, TOML):
        args, _ = parse(["fit-generator", "--config", str(file)])
        assert (args.data, args.batch_size, args.size, args.images) == (Path("CamVid"), 4, [120, 160], 500)
        assert (args.model, args.at) == ("runs/base", ["encoder.layer3.0"])
        assert args.settings == {"l1_weight": 7, "trackers": ["tensorboard"]}
        assert args.lr is None
        # An option of another command's section is none of this one's.
        args, _ = parse(["finetune", "--config", str(file)])
        assert (args.ratio, args.batch_size, args.settings) == (0.25, 4, {})
        # A file for all commands may hold what this one does not know.
        args, _ = parse(["evaluate", "--model", "a", "--config", str(file)])
        assert args.size == [120, 160]


@pytest.mark.parametrize("before", [True, False])
def test_the_command_line_wins(tmp_path, before):
    file = tmp_path / "run.toml"
    file.write_text('[evaluate]\nmodel = "a"\nflip = true\nbatch-size = 4\nscales = [0.5, 1]\n')
    own = ["--batch-size", "16", "--no-flip", "--scales", "2"]
    config = ["--config", str(file)]
    args, _ = parse(["evaluate", *(own + config if before else config + own)])
    # 16 is the default, too: that it was given counts.
    assert (args.batch_size, args.flip, args.scales, args.model) == (16, False, [2.0], "a")


def test_an_argument_without_a_name_and_two_files(tmp_path):
    (tmp_path / "a.toml").write_text('[inspect]\nmodel = "timm/resnet18"\nsize = "64x96"\nchannels = 1\n')
    (tmp_path / "b.json").write_text('{"inspect": {"channels": 4}}')
    files = ["--config", str(tmp_path / "a.toml"), "--config", str(tmp_path / "b.json")]
    args, _ = parse(["inspect", *files])
    assert (args.model, args.size, args.channels) == ("timm/resnet18", (64, 96), 4)
    assert parse(["inspect", *files, "timm/resnet50"])[0].model == "timm/resnet50"
    assert parse(["inspect", "timm/resnet50", *files])[0].model == "timm/resnet50"


def test_what_a_file_does_not_say_is_still_required(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("images = 5\n")
    with pytest.raises(SystemExit) as stopped:
        main(["fit-generator", "--config", str(tmp_path / "run.toml")])
    assert stopped.value.code == 2
    assert "the following arguments are required: --model, --at" in capsys.readouterr().err


CANNOT = "feataug: the configuration file cannot be read.\n  given:   {file} (%s)\n  needed:  TOML, or JSON in a file that ends in .json\n"
CANNOT += "The same command with --dry-run prints such a file."
ERRORS = {
    "unknown key": (
        "batch_size = 4",
        "feataug: {file}: batch_size is unknown.\n  given:   'batch_size'\n  needed:  an option or a section: batch-size, eval-size, crop-size",
    ),
    "unknown key of a section": (
        "[finetune]\nstep = 4",
        "feataug: {file}, [finetune]: step is unknown.\n  given:   'step'\n  needed:  an option of `feataug finetune`: steps",
    ),
    "option of another command": (
        "[demo]\nworkers = 4",
        "feataug: {file}, [demo]: workers is unknown.\n  given:   'workers'\n"
        "  needed:  an option of `feataug demo`: check, device, output, quiet, seed, traceback",
    ),
    "no section": ("demo = 4", "feataug: {file}: demo is not a section.\n  given:   4\n  needed:  [demo]"),
    "type": (
        '[finetune]\nsteps = "many"',
        "feataug: {file}, [finetune]: steps does not fit.\n  given:   'many'\n  needed:  an integer of at least 1",
    ),
    "range": (
        "ratio = 1.0",
        "feataug: {file}: ratio does not fit.\n  given:   1.0\n  needed:  a number in [0, 1)\n"
        "Write values that differ between commands into sections, such as [finetune].",
    ),
    "fraction": (
        "[finetune]\nseed = 0.5",
        "feataug: {file}, [finetune]: seed does not fit.\n  given:   0.5\n  needed:  an integer of at least 0",
    ),
    "length": (
        "[finetune]\nsize = [240]",
        "feataug: {file}, [finetune]: size does not fit.\n  given:   [240]\n  needed:  a list of 2; each item is an integer of at least 1",
    ),
    "items": (
        "[evaluate]\nscales = [1.0, 0]",
        "feataug: {file}, [evaluate]: scales does not fit.\n  given:   [1.0, 0]\n  needed:  a list; each item is a number above 0",
    ),
    "choice": (
        '[finetune]\ndevice = "tpu"',
        "feataug: {file}, [finetune]: device does not fit.\n  given:   'tpu'\n  needed:  'auto' or 'cpu' or 'cuda'",
    ),
    "flag": ("[evaluate]\nflip = 1", "feataug: {file}, [evaluate]: flip does not fit.\n  given:   1\n  needed:  true or false"),
    "text": ("[finetune]\nmodel = 3", "feataug: {file}, [finetune]: model does not fit.\n  given:   3\n  needed:  a text"),
    "size": (
        '[inspect]\nsize = "64"',
        "feataug: {file}, [inspect]: size does not fit.\n  given:   '64'\n  needed:  a text such as \"512x1024\"",
    ),
    "setting": (
        "[finetune.config]\nmomentun = 0.5",
        "feataug: {file}, [finetune.config]: momentun is unknown.\n  given:   'momentun'\n"
        "  needed:  a setting of FinetuneConfig: momentum",
    ),
    "range of a setting": (
        "[fit-generator.config]\nbeta1 = 1.5",
        "feataug: {file}, [fit-generator.config]: GeneratorConfig: beta1 is out of range.\n  given:   1.5\n"
        "  needed:  a number in [0, 1)",
    ),
    "twice": (
        "[finetune]\nsteps = 4\n[finetune.config]\nnum_steps = 5",
        "feataug: {file}, [finetune]: steps is given twice.\n  given:   steps = 4 and config.num_steps = 5\n"
        "  needed:  one of them, or the same in both",
    ),
    "no table": (
        "[finetune]\nconfig = 4",
        "feataug: {file}, [finetune.config] is not a table.\n  given:   4\n  needed:  settings by name",
    ),
    "a command without settings": (
        "[demo.config]\nlr = 4",
        "feataug: {file}, [demo]: config is unknown.\n  given:   'config'\n"
        "  needed:  an option of `feataug demo`: check, device, output, quiet, seed, traceback",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_file_the_key_and_what_was_needed(tmp_path, capsys, name):
    text, expected = ERRORS[name]
    for file in both_formats(tmp_path, text):
        assert main(["finetune", "--config", str(file)]) == 1
        out, err = capsys.readouterr()
        assert err == f"ConfigError: {expected.format(file=file)}\n"
        assert out == ""


def test_files_that_cannot_be_read(tmp_path, capsys):
    absent, torn, listed = tmp_path / "none.toml", tmp_path / "torn.json", tmp_path / "list.json"
    torn.write_text('{"steps": ')
    listed.write_text("[1]")
    for file, why in (
        (absent, f"FileNotFoundError: [Errno 2] No such file or directory: '{absent}'"),
        (torn, "JSONDecodeError: Expecting value: line 1 column 11 (char 10)"),
        (listed, "ValueError: a list, not a table"),
    ):
        assert main(["demo", "--config", str(file)]) == 1
        assert capsys.readouterr().err == f"ConfigError: {(CANNOT % why).format(file=file)}\n"
    assert main(["demo", "--config", str(absent), "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def dry(argv: list[str], capsys) -> str:
    assert main([*argv, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("name", MINIMAL)
def test_a_dry_run_goes_round_and_does_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(COMMANDS[name], "run", lambda args: pytest.fail("a dry run"))
    text = dry(MINIMAL[name], capsys)
    assert list(tmp_path.iterdir()) == []
    args, _ = parse(MINIMAL[name])
    file = tmp_path / "again.toml"
    file.write_text(text)
    section = tomllib.loads(text)[name]
    for file in both_formats(tmp_path, text):
        assert dry([name, "--config", str(file)], capsys) == text
    again, _ = parse([name, "--config", str(file)])
    decided = {"settings", "lr"}
    for key, value in vars(args).items():
        given = vars(again)[key]
        assert key in decided or given == (list(value) if isinstance(given, list) else value), key
    # Every option is there: as a value, or as a line that says that it is not set.
    options = {key.replace("_", "-") for key in vars(args)} - {"command", "settings"}
    unset = {line.split()[1] for line in text.splitlines() if line.endswith(tuple(" ")) or " is not set: " in line}
    assert set(section) - {"config"} | unset >= options - ({"device"} if name == "inspect" else set())


def test_a_dry_run_of_a_comparison_holds_every_setting(capsys):
    compared = tomllib.loads(dry(["compare", "--model", "a", "--generator", "b", "--steps", "40", "--lr", "1e-7"], capsys))
    config = FinetuneConfig.from_dict(compared["compare"]["config"])
    assert config == FinetuneConfig(num_steps=40, lr=1e-7, save_every=2)


def test_a_saved_dry_run_is_overridden_by_the_command_line(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(dry([*FIT, "--preset", "paper"], capsys))
    changed = tomllib.loads(dry(["fit-generator", "--config", str(file), "--images", "60", "--lr", "0.5"], capsys))
    assert changed["fit-generator"]["config"]["num_images"] == changed["fit-generator"]["images"] == 60
    assert changed["fit-generator"]["config"]["lr"] == 0.5


def test_settings_of_a_file_reach_the_training(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("[finetune.config]\nnum_steps = 7\nlr_scale = {encoder = 0.1}\nmomentum = 0\n")
    found = tomllib.loads(dry(["finetune", "--encoder", "a", "--config", str(tmp_path / "run.toml")], capsys))["finetune"]
    assert found["steps"] == 7
    assert found["config"]["lr_scale"] == {"encoder": 0.1}
    assert found["config"]["momentum"] == 0


def test_the_name_of_the_option_for_files_is_not_abbreviated(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("seed = 1\n")
    assert parse(["demo", "--config", str(tmp_path / "run.toml")])[0].seed == 1
    with pytest.raises(SystemExit):
        parse(["demo", "--conf", str(tmp_path / "run.toml")])
    assert "error: write --config in full" in capsys.readouterr().err
