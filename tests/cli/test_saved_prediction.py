"""Commands predict as training images decided: finetune writes inference.json, fit-bias writes it later, evaluate goes by it."""

import json
import shutil

import pytest
import torch

from feataug import Inference, evaluate
from feataug.cli.commands import shared
from feataug.cli.main import main
from feataug.cli.saved_prediction import describe_settings, fit_or_default, spread_subset, table_rows
from feataug.core.crop_sizes import noted_size
from feataug.core.measures import MEASURES
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.errors import FeatAugWarning
from feataug.models import PSPNet
from feataug.reporting.page import write_page

SIZE, LARGE = (32, 48), (64, 80)
TINY = ["--dataset", "scenes", "--batch-size", "8", "--quiet", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained on small crops and measured on larger images, by the command."""
    folder = tmp_path_factory.mktemp("predicting") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "SCENES", {"train": 24, "val": 8})
        sizes = ["--size", *map(str, SIZE), "--eval-size", *map(str, LARGE)]
        assert main(["finetune", *TINY, *sizes, "--encoder", "test_resnet", "--steps", "30", "--lr", "0.05", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shared, "SCENES", {"train": 24, "val": 8})


def result(folder):
    return json.loads((folder / "result.json").read_text())


def loader(split="val"):
    data = Scenes(shared.SCENES[split], LARGE, seed=int(split != "train"), transforms=eval_transforms(LARGE))
    return seeded_loader(data, 8, shuffle=False)


def copied(folder, tmp_path):
    """The model's folder, to be written into."""
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def test_finetune_measures_and_says_how(trained):
    stored, settings = result(trained), json.loads((trained / "inference.json").read_text())
    assert stored["inference"] == settings
    assert len(settings["class_bias"]) == 10
    model = PSPNet.from_pretrained(trained)
    assert noted_size(model) == SIZE
    window = settings.get("window")
    assert ("whole" in stored) == (window is not None)
    assert stored["miou"] == pytest.approx(evaluate(Inference(model, window=window), loader(), 10)["miou"])
    assert stored["after_bias"]["miou"] == pytest.approx(evaluate(Inference.load(model, trained), loader(), 10)["miou"])
    card = (trained / "README.md").read_text()
    assert f"mIoU {stored['miou']:.2f}, " in card
    assert "- A class bias, fitted on training images." in card
    # The bias is that of the training images, not of those that are measured on.
    whole, windows = (evaluate(how, loader("train"), 10, crop_size=None)["miou"] for how in (model, Inference(model, window=SIZE)))
    assert (window is not None) == (windows > whole + 1)


def test_windows_are_taken_where_the_model_needs_them(trained, tmp_path, capsys, monkeypatch):
    folder = copied(trained, tmp_path)
    forward = PSPNet.forward

    def spoiled(self, images):
        out = forward(self, images)
        if images.shape[-2:] != SIZE:
            out[:, 0] += 100
        return out

    monkeypatch.setattr(PSPNet, "forward", spoiled)
    output = tmp_path / "bias"
    assert main(["fit-bias", *TINY, "--size", *map(str, LARGE), "--model", str(folder), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert [" ".join(line[:-4]) for line in lines[1:4]] == ["whole images", "windows", "with class bias"]
    assert f"fitted on 24 images of train: windows of 32 x 48, class bias\nwritten: {output / 'inference.json'}, {output / 'result.json'}\n" in out
    stored, settings = result(output), json.loads((output / "inference.json").read_text())
    assert settings["window"] == [32, 48]
    assert stored["whole"]["miou"] < stored["miou"]
    assert stored["fitted"] == {"split": "train", "images": 24, "measure": "miou"}
    assert [row[-4:] for row in lines[1:4]] == [
        [f"{stored[name][m] if name else stored[m]:.2f}" for m in MEASURES] for name in ("whole", None, "after_bias")
    ]
    # What it wrote elsewhere, the model's folder does not know.
    assert "window" not in json.loads((folder / "inference.json").read_text()) or (trained / "inference.json").read_text() == (
        folder / "inference.json"
    ).read_text()
    # Without --output it goes beside the model, and evaluate goes by it.
    monkeypatch.chdir(tmp_path)
    assert main(["fit-bias", *TINY, "--size", *map(str, LARGE), "--model", str(folder)]) == 0
    assert json.loads((folder / "inference.json").read_text()) == settings
    assert result(tmp_path / "runs" / "fit-bias") == stored
    assert json.loads((tmp_path / "runs" / "fit-bias" / "command.json").read_text())["finished"]
    assert "- Windows of 32 x 48:" in (folder / "README.md").read_text()
    capsys.readouterr()
    common = ["evaluate", *TINY, "--size", *map(str, LARGE), "--model", str(folder), "--output", str(tmp_path / "measured")]
    assert main(common) == 0
    assert (
        f"\npredicted as {folder / 'inference.json'} says: windows of 32 x 48, class bias; --plain ignores the file\n"
        in capsys.readouterr().out
    )
    found = result(tmp_path / "measured")
    assert found["inference"] == settings
    assert found["miou"] == pytest.approx(stored["after_bias"]["miou"])
    assert main([*common, "--window", "64", "80", "--flip"]) == 0
    assert result(tmp_path / "measured")["inference"] == settings | {"window": [64, 80], "flip": True}
    assert "inference.json and the options say: windows of 64 x 80, mirror images, class bias; --plain ignores the file\n" in capsys.readouterr().out
    with pytest.warns(FeatAugWarning, match="does worse on whole images than with windows"):
        assert main([*common, "--plain"]) == 0
    assert "inference" not in result(tmp_path / "measured")
    assert result(tmp_path / "measured")["miou"] == pytest.approx(stored["whole"]["miou"])
    # Both pages render, with every row.
    page = write_page(output, tmp_path / "page.html").read_text()
    for figure in (stored, stored["whole"], stored["after_bias"]):
        assert f">{figure['miou']:.2f}<" in page


def test_a_model_that_does_not_know_its_crops(trained, tmp_path):
    folder = copied(trained, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("trained_size") == list(SIZE)
    (folder / "config.json").write_text(json.dumps(config))
    output = tmp_path / "bias"
    command = ["fit-bias", *TINY, "--size", *map(str, LARGE), "--model", str(folder), "--output", str(output), "--images", "5"]
    assert main(command) == 0
    assert "whole" not in result(output)
    assert result(output)["fitted"]["images"] == 5
    assert main([*command, "--crop-size", "16", "16"]) == 0


def test_a_damaged_file_is_one_message(trained, tmp_path, capsys):
    folder = copied(trained, tmp_path)
    (folder / "inference.json").write_text('{"class_bias": [1, 2]}')
    common = ["evaluate", *TINY, "--size", *map(str, LARGE), "--model", str(folder), "--output", str(tmp_path / "measured")]
    assert main(common) == 1
    assert capsys.readouterr().err.startswith(
        f"CheckpointError: Inference: inference.json cannot be used.\n  given:   {folder / 'inference.json'} (class_bias of 2 classes)\n"
    )
    assert main([*common, "--plain"]) == 0


def test_without_a_bias_and_at_one_size_there_is_no_file(trained, tmp_path):
    output = tmp_path / "plain"
    sizes = ["--size", *map(str, SIZE)]
    command = ["finetune", *TINY, *sizes, "--model", str(trained), "--steps", "2", "--skip-bias", "--output", str(output)]
    assert main(command) == 0
    assert not (output / "inference.json").exists()
    assert result(output).keys() == {*MEASURES, "per_class", "absent", "config"}


def test_images_that_decide_nothing_do_not_end_a_training():
    model = torch.nn.Conv2d(3, 3, 1)
    dull = [(torch.zeros(2, 3, 8, 8), torch.full((2, 8, 8), 255))]
    text = "feataug finetune: training images could not decide how to predict: fit_class_bias: there is no labelled"
    with pytest.warns(FeatAugWarning, match=text):
        predict = fit_or_default(model, dull, 3, crop_size="noted", class_bias=True, device="cpu")
    assert predict.settings() == {}
    assert fit_or_default(torch.nn.Conv2d(3, 1, 1), dull, 1, crop_size="noted", class_bias=True, device="cpu").settings() == {}


def test_a_subset_is_spread_over_the_data_set():
    assert list(spread_subset(list(range(100)), 4)) == [0, 25, 50, 75]
    assert spread_subset([1, 2], 4) == [1, 2]


def test_settings_in_words_and_rows():
    assert describe_settings({}) == "whole images"
    assert describe_settings({"window": [4, 5], "scales": [0.5, 1.0], "flip": True, "class_bias": [0, 1]}) == (
        "windows of 4 x 5, scales 0.5, 1, mirror images, class bias"
    )
    assert table_rows("run", {"miou": 1}) == {"run": {"miou": 1}}
