"""Commands refuse to go on with another run, and options that contradict each other or have no effect."""

from __future__ import annotations

import json
import shutil

import pytest

from feataug.cli.commands import shared
from feataug.cli.main import main
from feataug.cli.parser import parse
from feataug.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning"),
    pytest.mark.xdist_group("cli runs"),  # what they share takes some seconds to make
]
TINY = ["--dataset", "scenes", "--size", "32", "48", "--batch-size", "8", "--quiet", "--device", "cpu"]
AT = ["--at", "encoder.layer3.0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models, and a generator for each cut of one."""
    folder = tmp_path_factory.mktemp("runs")
    scenes = shared.SCENES
    shared.SCENES = {"train": 24, "val": 8}
    try:
        for name, seed in (("base", "0"), ("other", "1")):
            options = ["--encoder", "test_resnet", "--steps", "2", "--seed", seed]
            assert main(["finetune", *TINY, *options, "--output", str(folder / name)]) == 0
        for name, seed in (("generator", "0"), ("generator2", "1")):
            options = ["--model", str(folder / "base"), *AT, "--images", "16", "--seed", seed]
            assert main(["fit-generator", *TINY, *options, "--output", str(folder / name)]) == 0
        yield folder
    finally:
        shared.SCENES = scenes


def refused(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_fit_generator_into_the_folder_of_another_cut(runs, tmp_path, capsys):
    shutil.copytree(runs / "generator", tmp_path / "generator")
    command = ["fit-generator", *TINY, "--model", str(runs / "base"), *AT, "--images", "16", "--output", str(tmp_path / "generator")]
    weights = (tmp_path / "generator" / "model.safetensors").read_bytes()
    assert main(command) == 0
    for change, given in (
        (["--at", "encoder.layer3"], "cut=['encoder.layer3']"),
        (["--model", str(runs / "other")], "model='"),
        (["--preset", "paper"], "architecture."),
        (["--size", "64", "48"], "data.dataset."),
        (["--batch-size", "4"], "data.batch_size=4"),
        (["--eval-split", "test", "--dataset", "scenes", "--seed", "1"], "data.seed=1"),
    ):
        text = refused([*command, *change], capsys)
        assert text.startswith("CheckpointError: feataug: the output folder holds a run with other settings.\n"), text
        assert given in text.splitlines()[1]
        assert (tmp_path / "generator" / "model.safetensors").read_bytes() == weights
    assert json.loads((tmp_path / "generator" / "result.json").read_text())["at"] == ["encoder.layer3.0"]


def test_finetune_and_compare_do_not_return_old_figures(runs, tmp_path, capsys):
    tuned, compared = str(tmp_path / "tuned"), str(tmp_path / "compared")
    common = [*TINY, "--model", str(runs / "base"), "--generator", str(runs / "generator"), "--steps", "2", "--preset", "random"]
    commands_given = {
        "finetune": ["finetune", *common, "--output", tuned],
        "compare": ["compare", *common, "--seeds", "1", "--output", compared],
    }
    for name, command in commands_given.items():
        assert main(command) == 0
        for change, given in (
            (["--model", str(runs / "other")], "model='"),
            (["--generator", str(runs / "generator2")], "generator='"),
            (["--size", "64", "48"], "data."),
            (["--eval-split", "train"], "val_data."),
            (["--preset", "paper"], "mask_source.class='HardNegativeSampler'"),
            (["--batch-size", "4"], "data.batch_size=4"),
        ):
            text = refused([*command, *change], capsys)
            if (name, *change) == ("compare", "--eval-split", "train"):
                assert text.startswith("DataError: compare: loader holds images of the validation set.\n")
                continue
            assert "the output folder holds a run with other settings.\n" in text.splitlines(keepends=True)[0], (name, change)
            assert given in text.splitlines()[1], (name, change, text)
        assert main(command) == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--model", "a", "--encoder", "b"],
            "feataug finetune: two models.\n  given:   --model a --encoder b\n"
            "  needed:  --model FOLDER to train a saved model further, or --encoder NAME for a new one",
        ),
        (
            ["--model", "a", "--ratio", "0.2", "--preset", "paper"],
            "feataug finetune: an option has no effect without --generator.\n  given:   --ratio 0.2, --preset paper\n"
            "  needed:  --generator with it, or none of these",
        ),
        (
            ["--encoder", "a", "--bank=64", "--label-smoothing", "0.1"],
            "feataug finetune: an option has no effect without --generator.\n  given:   --bank 64, --label-smoothing 0.1\n"
            "  needed:  --generator with it, or none of these",
        ),
        (
            ["--model", "a", "--pretrained", "--output-stride", "16"],
            "feataug finetune: an option has no effect without --encoder.\n  given:   --pretrained, --output-stride 16\n"
            "  needed:  --encoder with it, or none of these",
        ),
        # An explicit default is explicit, too.
        (
            ["--model", "a", "--preset", "recommended"],
            "feataug finetune: an option has no effect without --generator.\n  given:   --preset recommended\n"
            "  needed:  --generator with it, or none of these",
        ),
    ],
)
def test_options_that_contradict_each_other_or_have_no_effect(options, text):
    with pytest.raises(ConfigError) as error:
        parse(["finetune", *options])
    assert str(error.value) == text


def test_the_ceilings_split_is_one_that_no_other_arm_sees():
    for split, of in (("train", "--split"), ("val", "--eval-split")):
        with pytest.raises(ConfigError) as error:
            parse(["compare", "--model", "a", "--generator", "b", "--ceiling-split", split])
        assert str(error.value) == (
            "feataug compare: the ceiling's split is already in use.\n"
            f"  given:   --ceiling-split {split}, which is {of}\n"
            "  needed:  a split of labelled images that no other arm sees"
        )


def test_what_is_not_given_explicitly_is_no_contradiction(tmp_path):
    args, _ = parse(["finetune", "--model", "a"])
    assert (args.ratio, args.bank, args.preset, args.label_smoothing) == (None, 0, "recommended", 1e-4)
    parse(["finetune", "--model", "a", "--generator", "g", "--ratio", "0.2", "--bank", "4"])
    parse(["finetune", "--encoder", "a", "--pretrained", "--output-stride", "16"])
    parse(["finetune", "--model", "a", "--no-pretrained"])
    # A file may serve several commands.
    file = tmp_path / "settings.toml"
    file.write_text('ratio = 0.2\nbank = 64\n[finetune]\nmodel = "a"\npreset = "paper"\n')
    args, _ = parse(["finetune", "--config", str(file)])
    assert (args.model, args.bank, args.ratio) == ("a", 64, 0.2)
    with pytest.raises(ConfigError, match=r"^feataug finetune: two models\.\n  given:   --model a --encoder b\n"):
        parse(["finetune", "--config", str(file), "--encoder", "b"])
    with pytest.raises(ConfigError, match=r"\n  given:   --ratio 0\.3\n"):
        parse(["finetune", "--config", str(file), "--ratio", "0.3"])
