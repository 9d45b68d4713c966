"""``feataug.compare``: paired runs, intervals, and that it can say no."""

from __future__ import annotations

import copy
import json
import re
import warnings

import pytest
import torch
from torch import nn

from feataug.core.measures import MEASURES
from feataug.data import Scenes, seeded_loader
from feataug.errors import ConfigError
from feataug.evaluation import verdict
from feataug.reporting.plots import save_comparison
from feataug.reporting.tables import comparison_table, table
from tests.support.comparison_runs import CLASSES, SIZE, WEIGHTS, TinyModel, compare

pytestmark = pytest.mark.xdist_group("comparison")


class Noise(nn.Module):
    """The planted fault: a generator that ignores its masks. It has no base class of ours: ``latent_dim`` tells how much noise it takes."""

    latent_dim = 2

    def __init__(self, generator):
        super().__init__()
        self.spec, self.num_classes, self.ignore_index = generator.spec, generator.num_classes, generator.ignore_index
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, masks, z):
        rows, columns = self.spec[0].size(masks.shape[-2:])
        rng = torch.Generator().manual_seed(int(z.abs().sum() * 1000))
        return (10 * torch.randn(len(masks), self.spec[0].channels, rows, columns, generator=rng),)


def test_the_result_holds_what_it_promises(trained, tmp_path):
    before = copy.deepcopy(trained[0].state_dict())
    result = compare(trained, seeds=(3, 4), classes=Scenes.classes, output=tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in trained[0].state_dict().items())
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    assert [entry["seed"] for entry in result["seeds"]] == [3, 4]
    assert set(result["arms"]) == {"control", "feataug"}
    for name in MEASURES:
        for arm in ("control", "feataug"):
            runs = [entry[arm][name] for entry in result["seeds"]]
            assert result["arms"][arm][name] == pytest.approx(sum(runs) / 2)
        gaps = [entry["feataug"][name] - entry["control"][name] for entry in result["seeds"]]
        gap = result["difference"][name]
        assert gap["mean"] == pytest.approx(sum(gaps) / 2)
        assert gap["low"] <= gap["mean"] <= gap["high"]
    road = result["difference"]["per_class"]["road"]["iou"]
    pairs = [
        entry["feataug"]["per_class"]["road"]["iou"] - entry["control"]["per_class"]["road"]["iou"] for entry in result["seeds"]
    ]
    assert road["mean"] == pytest.approx(sum(pairs) / 2)
    text = comparison_table(result)
    assert "feataug minus control, 95 % intervals over 2 seeds: PixelAcc" in text
    assert text.endswith(result["verdict"])
    assert save_comparison(tmp_path / "x.png", result).read_bytes().startswith(b"\x89PNG")


def test_columns_are_apart_whatever_the_arms_are_called():
    figures = dict.fromkeys(MEASURES, 50.0) | {"per_class": {"road": {"iou": 50.0}, "sky": {"iou": None}}}
    lines = table({"base": figures, "class weights": figures, "features alone, both": figures}).splitlines()
    head, road, sky = (next(line for line in lines if line.startswith(name)) for name in ("IoU", "road", "sky"))
    assert re.split(r"\s{2,}", head) == ["IoU", "base", "class weights", "features alone, both"]
    assert road.split() == ["road", "50.00", "50.00", "50.00"]
    assert sky.split() == ["sky", "-", "-", "-"]
    assert len(head) == len(road) == len(sky)


def test_arms_are_paired(trained):
    seen: dict[str, list[torch.Tensor]] = {}

    def spy(name):
        def arm(model, loader, config, folder):
            seen[f"{name} {config.seed}"] = [images for images, _ in loader]
            return model

        return arm

    result = compare(trained, seeds=(0, 1), baselines={"one": spy("one"), "two": spy("two")}, update_bn=False)
    for seed in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(seen[f"one {seed}"], seen[f"two {seed}"], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen["one 0"], seen["one 1"], strict=True))
    # A baseline that does nothing stays where the base was, and stands in the table with its own difference.
    for entry in result["seeds"]:
        assert entry["one"]["miou"] == pytest.approx(result["base"]["miou"])
    assert set(result["differences"]) == {"feataug", "one", "two"}


def test_ratio_zero_is_the_control(trained):
    result = compare(trained, seeds=(0,), ratio=0.0)
    assert all(result["difference"][name]["mean"] == 0 for name in MEASURES)
    assert result["verdict"] == "Nothing can be said from a single seed: run more of them."
    assert "feataug minus control, one seed: PixelAcc +" in comparison_table(result)


def test_it_says_no_to_a_generator_that_emits_noise(trained):
    result = compare(trained, steps=12, lr=0.1, generator=Noise(trained[1]), seeds=(0, 1, 2), ratio=0.5, update_bn=False)
    assert "ahead" not in result["verdict"]
    assert result["difference"]["miou"]["mean"] < 0


def test_it_says_yes_to_an_arm_that_is_better(trained):
    model, _, data = trained
    torch.manual_seed(5)
    untrained = TinyModel()

    def better(copy_, loader, config, folder):
        copy_.load_state_dict(model.state_dict())
        return copy_

    # At learning rate 0 the control stays untrained.
    result = compare((untrained, trained[1], data), lr=0.0, seeds=(0, 1, 2), baselines={"trained": better}, update_bn=False)
    assert "trained is ahead in" in verdict(result["differences"]["trained"], "trained")
    assert result["differences"]["trained"]["miou"]["low"] > 0


def test_what_features_add_to_the_class_weights(trained, tmp_path):
    result = compare(trained, seeds=(0, 1), class_weights=WEIGHTS, classes=Scenes.classes, output=tmp_path)
    assert list(result["arms"]) == ["control", "feataug", "class weights"]
    for name in MEASURES:
        gaps = [entry["feataug"][name] - entry["class weights"][name] for entry in result["seeds"]]
        assert result["beyond_weights"][name]["mean"] == pytest.approx(sum(gaps) / 2)
    assert set(result["beyond_weights"]["per_class"]) == set(result["difference"]["per_class"])
    ours, beyond = verdict(result["difference"]), verdict(result["beyond_weights"])
    assert result["verdict"] == f"{ours} Over the class weights alone: {beyond}"
    assert "feataug minus class weights, 95 % intervals over 2 seeds: PixelAcc" in comparison_table(result)
    # Control and weights do not see the same loss.
    assert result["arms"]["class weights"] != result["arms"]["control"]
    assert compare(trained, seeds=(0, 1), class_weights=WEIGHTS, classes=Scenes.classes, output=tmp_path) == result


def test_the_weights_alone_are_ours_without_synthetic_samples(trained):
    result = compare(trained, seeds=(0,), ratio=0.0, class_weights=WEIGHTS)
    assert all(result["beyond_weights"][name]["mean"] == 0 for name in MEASURES)
    # With weights of one they are the control.
    plain = compare(trained, seeds=(0,), class_weights=torch.ones(CLASSES))
    assert all(plain["differences"]["class weights"][name]["mean"] == 0 for name in MEASURES)
    assert plain["verdict"] == "Nothing can be said from a single seed: run more of them."


def test_the_arm_of_the_weights_can_be_left_out(trained):
    baselines = {"class weights": lambda model, loader, config, folder: model}
    result = compare(trained, seeds=(0,), class_weights=WEIGHTS, weights_arm=False, baselines=baselines)
    assert list(result["arms"]) == ["control", "feataug", "class weights"]
    assert "beyond_weights" not in result
    assert "beyond_weights" not in compare(trained, seeds=(0,))
    with pytest.raises(ConfigError) as error:
        compare(trained, seeds=(0,), class_weights=WEIGHTS, baselines=baselines)
    assert str(error.value) == (
        "compare: a baseline has the name of a built-in arm.\n"
        "  given:   class weights\n"
        "  needed:  another name\n"
        "Or leave the built-in arm out: weights_arm=False."
    )


def test_with_a_bank(trained):
    result = compare(trained, seeds=(0,), bank=8)
    assert result["settings"]["bank"] == 8
    with pytest.raises(ConfigError, match="the bank holds fewer samples than a step takes"):
        compare(trained, seeds=(0,), bank=1)


def test_what_cannot_be_compared(trained):
    with pytest.raises(ConfigError) as error:
        compare(trained, loader=seeded_loader(trained[2], 8))
    assert str(error.value) == (
        "compare: loader takes no seed.\n"
        "  given:   DataLoader\n"
        "  needed:  a function of the seed that returns a loader, so that the arms of a pair see the same batches\n"
        "loader=lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)"
    )
    with pytest.raises(ConfigError, match=r"^compare: seeds must differ\.\n  given:   \(1, 1\)\n"):
        compare(trained, seeds=(1, 1))
    with pytest.raises(ConfigError, match=r"^compare: a baseline has the name of a built-in arm\.\n  given:   control\n"):
        compare(trained, baselines={"control": lambda *args: args[0]})


def test_a_model_with_old_weight_norm_is_compared(trained):
    model, generator, data = trained
    normed = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(normed.head)
    normed(torch.rand(1, 3, *SIZE)).sum().backward()
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly"):
        copy.deepcopy(normed)
    result = compare((normed, generator, data), seeds=(0,))
    assert set(result["arms"]) == {"control", "feataug"}
