"""Models in folders: loaded whole, or an error of ours; and for which cut they were made."""

import copy
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, FeatureSpec, LevelSpec, split
from feataug.core.crop_sizes import note_size, noted_size
from feataug.errors import CheckpointError, ConfigError, FeatAugWarning, ShapeError
from feataug.generation import presets
from tests.support.small_generators import PRESETS, small_generator

SPEC = FeatureSpec((LevelSpec("a", 6, 4),))


@pytest.fixture(params=PRESETS)
def saved(tmp_path, request):
    torch.manual_seed(0)
    generator = small_generator(4, SPEC, request.param)
    generator.save_pretrained(tmp_path / "saved")
    return generator, tmp_path / "saved"


def test_there_and_back_without_a_word(saved, capsys):
    generator, folder = saved
    found = FeatureGenerator.from_pretrained(folder)
    assert capsys.readouterr().out == ""
    assert found.preset == generator.preset
    assert equal(generator, found)
    assert not found.training
    masks = torch.randint(4, (2, 8, 12))
    z = generator.draw_z(2, image_size=(8, 12))
    with torch.no_grad():
        assert torch.equal(found(masks, z)[0], generator.eval()(masks, z)[0])


def equal(one, other):
    """Whether two models have the same weights."""
    return one.state_dict().keys() == other.state_dict().keys() and all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )


# What a file says of settings that the user left to the preset.
RESOLVED = {
    "flow": {"depth": 4, "steps": 2, "latent_dim": None, "mask_widths": None, "modulation": None},
    "bicyclegan": {"depth": 2, "steps": None, "latent_dim": 8, "mask_widths": [48, 96, 192], "modulation": "latent"},
    "paper": {"depth": 3, "steps": None, "latent_dim": 8, "mask_widths": [96, 192, 384], "modulation": "none"},
}


@pytest.mark.parametrize("preset", RESOLVED)
def test_settings_are_saved_as_numbers_so_that_other_presets_do_not_change_a_generator(tmp_path, monkeypatch, preset):
    torch.manual_seed(0)
    generator = FeatureGenerator(4, SPEC, preset, width=8)
    generator.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {name: config[name] for name in RESOLVED[preset]} == RESOLVED[preset]
    assert (config["preset"], config["width"], config["num_classes"]) == (preset, 8, 4)
    # As a later version might have them.
    others = {"depth": 1, "steps": 7, "latent_dim": 3, "mask_widths": (5,), "modulation": "class"}
    changed = {name: others.get(name, value) for name, value in presets.PRESETS[preset].items()}
    monkeypatch.setitem(presets.PRESETS, preset, changed)
    with pytest.raises(RuntimeError):
        FeatureGenerator(4, SPEC, preset, width=8).load_state_dict(generator.state_dict())
    found = FeatureGenerator.from_pretrained(tmp_path)
    assert equal(generator, found)
    assert getattr(found, "steps", None) == getattr(generator, "steps", None)


def test_a_setting_that_was_given_is_saved(tmp_path):
    FeatureGenerator(4, SPEC, depth=1, steps=5, width=8).save_pretrained(tmp_path)
    assert FeatureGenerator.from_pretrained(tmp_path).steps == 5


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


class OtherArguments(FeatureGenerator):
    """One of ones own whose arguments have names of FeatureGenerator's, and other meanings."""

    def __init__(self, labels, spec, width=2, depth=None, gain=1.0):
        super().__init__(len(labels), FeatureSpec.from_dict(spec) if isinstance(spec, dict) else spec, width=8 * width, depth=1, steps=3)
        self.labels, self.gain = labels, gain


class SameArguments(FeatureGenerator):
    """One of ones own without a constructor."""


@pytest.mark.parametrize("arguments", [{}, {"width": 1, "gain": 0.5}])
def test_a_class_of_ones_own_with_other_arguments(tmp_path, arguments):
    generator = OtherArguments(["sky", "road"], SPEC, **arguments)
    generator.save_pretrained(tmp_path, card={"images": 3})
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"width": config["width"], "gain": config["gain"]} == {"width": 2, "gain": 1.0} | arguments
    again = OtherArguments.from_pretrained(tmp_path, spec=SPEC, num_classes=2)
    assert equal(generator, again)
    assert (again.labels, again.gain, again.steps, again.card["images"]) == (["sky", "road"], generator.gain, 3, 3)


def test_a_class_of_ones_own_without_a_constructor(tmp_path):
    generator = SameArguments(3, SPEC, width=8)
    generator.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 2
    assert equal(generator, SameArguments.from_pretrained(tmp_path))


@pytest.mark.parametrize("preset", [{}, {"preset": "bicyclegan"}], ids=str)
def test_the_size_of_the_training_images_and_the_card_come_back(tmp_path, preset):
    generator = FeatureGenerator(3, SPEC, **preset, width=8, depth=1)
    note_size(generator, (48, 64))
    generator.save_pretrained(tmp_path, card={"images": 120})
    found = FeatureGenerator.from_pretrained(tmp_path)
    assert noted_size(found) == (48, 64)
    assert found.card["images"] == 120


class AnyKeyword(FeatureGenerator):
    """As one's own generators are written: what it does not know it passes on."""

    def __init__(self, num_classes, spec, **settings):
        super().__init__(num_classes, spec, **settings)


@pytest.mark.parametrize("kind", [FeatureGenerator, AnyKeyword, SameArguments])
@pytest.mark.parametrize("given", [{}, {"steps": 3, "ignore_index": 250}], ids=str)
@pytest.mark.parametrize(
    "assigned", [{}, {"steps": 7}, {"ignore_index": 254}, {"steps": 5, "distilled_steps": 5}, {"steps": 2, "ignore_index": 255}], ids=str
)
def test_what_was_assigned_after_construction_is_saved(tmp_path, kind, given, assigned):
    generator = kind(3, FeatureSpec((LevelSpec("body", 8, 4),)), width=8, depth=1, **given)
    for name, value in assigned.items():
        setattr(generator, name, value)
    # A copy, such as a moving average, knows of it as well.
    copy.deepcopy(generator).save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    expected = {"steps": 2, "distilled_steps": None, "ignore_index": 255} | given | assigned
    assert {name: getattr(again, name) for name in expected} == expected
    # And once more, from what was loaded.
    again.steps = again.distilled_steps = 9
    again.save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path).distilled_steps == 9


class Named(FeatureGenerator):
    """One of ones own whose argument is no number of steps."""

    def __init__(self, spec, steps="few"):
        super().__init__(3, spec, width=8, depth=1, steps={"few": 2, "many": 8}[steps])


def test_an_argument_that_means_something_else_is_saved_as_it_was_given(tmp_path):
    generator = Named(SPEC, "many")
    generator.steps = 4
    generator.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == "many"
    assert Named.from_pretrained(tmp_path).steps == 8


@pytest.mark.parametrize("preset", [{}, {"preset": "bicyclegan"}], ids=str)
def test_a_class_of_ones_own_that_takes_any_keyword(tmp_path, preset):
    generator = AnyKeyword(3, FeatureSpec((LevelSpec("body", 8, 4),)), width=8, depth=1, **preset)
    generator.save_pretrained(tmp_path, card={"images": 120})
    again = AnyKeyword.from_pretrained(tmp_path)
    assert again.card["images"] == 120
    assert equal(generator, again)
