"""Models in folders: loaded whole, or an error of ours."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from feataug import FeatureGenerator, FeatureSpec, LevelSpec
from feataug.errors import CheckpointError


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    generator = FeatureGenerator(4, FeatureSpec((LevelSpec("a", 6, 4),)), mask_widths=(4,), width=4, depth=0)
    generator.save_pretrained(tmp_path / "saved")
    return generator, tmp_path / "saved"


def test_there_and_back_without_a_word(saved, capsys):
    generator, folder = saved
    found = FeatureGenerator.from_pretrained(folder)
    assert capsys.readouterr().out == ""
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in generator.state_dict().items())
    assert not found.training


def damaged(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda folder: damaged(folder, lambda t: t.pop("std_0")), "std_0"),
        (lambda folder: damaged(folder, lambda t: t.update(extra=torch.ones(1))), "extra"),
        (lambda folder: damaged(folder, lambda t: t.update(mean_0=torch.ones(7))), "mean_0"),
        (lambda folder: os.truncate(folder / "model.safetensors", 200), "SafetensorError"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / "config.json").unlink(), "TypeError"),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({"num_classes": -1, "spec": {"levels": []}})),
            "FeatureSpec",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(saved, spoil, text):
    _, folder = saved
    spoil(folder)
    with pytest.raises((CheckpointError, ValueError), match=text) as error:
        FeatureGenerator.from_pretrained(folder)
    assert type(error.value).__module__ == "feataug.errors"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError) as error:
        FeatureGenerator.from_pretrained(tmp_path / "nothing")
    assert str(error.value) == (
        f"FeatureGenerator: a model cannot be loaded.\n  given:   {tmp_path / 'nothing'} (HFValidationError: there is no such folder, "
        "and the hub has no such model)\n  needed:  a folder that save_pretrained left, with config.json and model.safetensors, or a hub id"
    )


def test_pickled_weights_are_refused():
    with pytest.raises(CheckpointError, match="the model's weights are pickled"):
        FeatureGenerator._load_as_pickle(None, "pytorch_model.bin", "cpu", True)
