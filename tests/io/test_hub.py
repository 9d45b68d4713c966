"""Models in folders: loaded whole, or an error of ours; and for which cut they were made."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, FeatureSpec, LevelSpec, split
from feataug.errors import CheckpointError, ConfigError, FeatAugWarning, ShapeError


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
        "and the hub has no such model)\n  needed:  a folder written by save_pretrained, with config.json and model.safetensors, or a hub id"
    )


def test_pickled_weights_are_refused():
    with pytest.raises(CheckpointError, match="the model's weights are pickled"):
        FeatureGenerator._load_as_pickle(None, "pytorch_model.bin", "cpu", True)


MADE_FOR = "FeatureSpec(levels=(LevelSpec(name='a', channels=6, reduction=4),))"
ADVICE = "Cut the model where the generator's was cut, or train a generator for this cut with GeneratorTrainer."


def test_a_generator_for_another_cut_or_other_classes_is_refused(saved, tiny_net):
    _, folder = saved
    cut = split(tiny_net(), "body")
    expected = (
        "FeatureGenerator: the generator was made for another cut.\n"
        f"  given:   {MADE_FOR}\n"
        "  needed:  FeatureSpec(levels=(LevelSpec(name='body', channels=16, reduction=4),))\n" + ADVICE
    )
    for wanted in ({"cut": cut}, {"spec": cut.spec}):
        with pytest.raises(ShapeError) as error:
            FeatureGenerator.from_pretrained(folder, **wanted)
        assert str(error.value) == expected
    with pytest.raises(ConfigError) as error:
        FeatureGenerator.from_pretrained(folder, num_classes=7)
    assert str(error.value) == (
        "FeatureGenerator: the generator was made for other classes.\n"
        "  given:   a generator for 4 classes\n"
        "  needed:  one for 7, as the masks have\n"
        "Train a generator on masks with these classes."
    )


def test_a_generator_that_fits_is_loaded(saved):
    _, folder = saved
    for name in ("a", "backbone.a"):
        spec = FeatureSpec((LevelSpec(name, 6, 4),))
        assert FeatureGenerator.from_pretrained(folder, spec=spec, num_classes=4).num_classes == 4
    with pytest.warns(FeatAugWarning, match="made for a cut at a, and this is one at b: features of another layer"):
        FeatureGenerator.from_pretrained(folder, spec=FeatureSpec((LevelSpec("b", 6, 4),)))


def test_the_mixer_refuses_a_generator_for_another_cut(saved, tiny_net):
    generator, _ = saved
    cut = split(tiny_net(), "body")
    masks = DatasetMasks(torch.zeros(3, 16, 16, dtype=torch.long))
    expected = (
        "FeatureMixer: the generator was made for another cut.\n"
        f"  given:   {MADE_FOR}\n"
        "  needed:  FeatureSpec(levels=(LevelSpec(name='body', channels=16, reduction=4),))\n" + ADVICE
    )
    with pytest.raises(ShapeError) as error:
        FeatureMixer(generator, masks, cut=cut)
    assert str(error.value) == expected
    mixer = FeatureMixer(generator, masks)
    with pytest.raises(ShapeError) as error, mixer.on(cut.model, torch.zeros(2, 16, 16, dtype=torch.long)):
        pass
    assert str(error.value) == expected


class AnyKeyword(FeatureGenerator):
    """As one's own generators are written: what it does not know it passes on."""

    def __init__(self, num_classes, spec, **settings):
        super().__init__(num_classes, spec, **settings)


def test_a_class_of_ones_own_that_takes_any_keyword(tmp_path):
    generator = AnyKeyword(3, FeatureSpec((LevelSpec("body", 8, 4),)), width=8, depth=1)
    generator.save_pretrained(tmp_path, card={"images": 120})
    again = AnyKeyword.from_pretrained(tmp_path)
    assert again.card["images"] == 120
    assert all(torch.equal(a, b) for a, b in zip(generator.state_dict().values(), again.state_dict().values(), strict=True))
