"""Each warning is there when its fault is planted, and not when it is not."""

import json
import re
from pathlib import Path

import pytest

from feataug.reporting.page import write_page
from feataug.reporting.page.findings import comparison as arms
from feataug.reporting.page.findings import findings
from feataug.reporting.page.findings import generator as features
from feataug.reporting.page.run_reader import read_run
from feataug.training.generator_trainer import DIVERSITY_ALARM
from tests.support.planted_runs import GENERATOR, Page, comparison, measured, qualities, score, write

HEALTHY = [1.0, 1.2, 1.1, 0.9]


def names(folder):
    return [finding.name for finding in findings(read_run(folder))]


def generator(folder, changes=None, **scores):
    lines = [GENERATOR | (changes or {}) for _ in range(8)]
    return write(folder, {"recognition": score(**scores), "config": {"num_images": 80}}, {"run": lines})


def test_healthy_runs_have_none(tmp_path):
    assert names(generator(tmp_path / "a")) == []
    assert names(write(tmp_path / "b", comparison(HEALTHY), {"seed-0/control": [{"loss": 1.0}] * 3})) == []
    assert names(write(tmp_path / "c", measured(50) | {"config": {"num_steps": 30}}, {"run": [{"loss": 1.0}] * 3})) == []
    page = Page(write_page(tmp_path / "a").read_text())
    assert "No value crosses a threshold." in page.texts["warnings"]


@pytest.mark.parametrize(
    ("name", "changes", "scores", "seen"),
    [
        ("z", {"latent": 0.8}, {"diversity": 0.05}, "diversity ratio 0.050, latent L1 0.80"),
        ("critics", {"critics": 0.05, "gan": 3.9}, {}, "critics' loss 0.050, generator's GAN loss 3.90"),
        ("recognition", {}, {"ratio": 0.4}, "recognition ratio 0.40: mIoU 20.00 on synthetic features, 50.00 on real ones"),
        ("easy", {}, {"ratio": 1.2}, "recognition ratio 1.20"),
        ("reconstruction", {"l1": 0.79}, {}, "reconstruction L1 0.79"),
        ("kl", {"kl": 0.001}, {}, "KL 0.001"),
        ("kl", {"kl": 35.0}, {}, "KL 35"),
        ("bad", {"bad_samples": 3}, {}, "bad_samples 3"),
    ],
)
def test_a_generators(name, changes, scores, seen, tmp_path):
    folder = generator(tmp_path / "run", changes, **scores)
    assert names(folder) == [name]
    text = Page(write_page(folder).read_text()).texts["warnings"]
    assert seen in text
    for words in ("Threshold:", "What to do:"):
        assert words in text


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({"latent": 0.9}, {"diversity": 0.1}),  # the ratio is trusted
        ({"critics": 0.4, "gan": 3.9}, {}),
        ({"critics": 0.0, "gan": 0.0}, {}),  # there are no critics
        ({}, {"ratio": 0.5}),
        ({}, {"ratio": 1.05}),
        ({"l1": 0.74}, {}),
        ({"kl": 0.01}, {}),
        ({"kl": 20.0}, {}),
        ({"bad_samples": 0}, {}),
    ],
)
def test_at_their_thresholds_they_are_silent(changes, scores, tmp_path):
    assert names(generator(tmp_path / "run", changes, **scores)) == []


@pytest.mark.parametrize(
    ("changes", "name", "seen"),
    [
        ({"copies": True}, "copies", "cells: 0.01 from training features, 0.72 from held-out ones for held-out masks"),
        ({"recall": 0.06}, "narrow", "Synthetic features lack variety recall 0.060; real features get 0.70"),
        (
            {"recall": 0.06, "precision": 0.01},
            "narrow",
            "Synthetic features are unlike real ones recall 0.060; real features get 0.70; precision 0.010, real features get 0.80",
        ),
        ({"precision": 0.01}, None, None),
        ({"recall": 0.08}, None, None),
    ],
)
def test_a_generators_features(changes, name, seen, tmp_path):
    folder = write(tmp_path / "run", {"recognition": score(), "config": {}, "quality": qualities(**changes)})
    assert names(folder) == ([name] if name else [])
    if seen:
        assert seen in " ".join(Page(write_page(folder).read_text()).texts["warnings"].split())


def flow(folder, held_out=(0.8, 0.7), quality=None, **scores):
    lines = [{"flow": 0.6}] * 6 + [{"held_out": value, "ratio": 0.8, "diversity": 0.9} for value in held_out]
    quality = {} if quality is None else {"quality": qualities(**quality)}
    return write(folder, {"recognition": score(**scores), "config": {"objective": "flow", "num_images": 80}} | quality, {"run": lines})


@pytest.mark.parametrize(
    ("given", "name", "seen"),
    [
        ({"held_out": (0.8, 0.5, 0.52)}, "memory", "loss on held-out images 0.520, 0.500 at its lowest"),
        ({"diversity": 0.05}, "z", "What to do: Train longer."),
        ({"ratio": 0.4}, "recognition", "Train the generator longer (--images), or cut the model later."),
        ({"ratio": 1.2}, "easy", "Such features teach little. If the mIoU on real ones is low"),
        ({"quality": {"recall": 0.06}}, "narrow", "a decoder learns little from such samples. Train longer."),
        ({"held_out": (0.8, 0.5, 0.509)}, None, "No value crosses a threshold."),
        ({"held_out": (0.5,)}, None, "No value crosses a threshold."),
    ],
)
def test_a_flows(given, name, seen, tmp_path):
    folder = flow(tmp_path / "run", **given)
    assert names(folder) == ([name] if name else [])
    text = " ".join(Page(write_page(folder).read_text()).texts["warnings"].split())
    assert seen in text
    # No advice about settings that a flow does not have.
    assert "_weight" not in text


def test_z_without_a_measured_ratio(tmp_path):
    assert names(write(tmp_path / "a", None, {"run": [GENERATOR | {"latent": 0.8}] * 4})) == ["z"]
    assert names(write(tmp_path / "b", None, {"run": [GENERATOR | {"latent": 0.7}] * 4})) == []


def test_only_the_end_of_training_counts(tmp_path):
    early = [GENERATOR | {"critics": 0.0, "l1": 0.9}] * 6 + [GENERATOR] * 2
    assert names(write(tmp_path / "run", {"recognition": score(), "config": {}}, {"run": early})) == []


@pytest.mark.parametrize(
    ("name", "result", "seen"),
    [
        ("seeds", comparison([1.0]), "1 seed; differences of about one point are noise"),
        ("zero", comparison([1.0, -1.2, 1.1, 0.4]), "PixelAcc"),
        ("traded", comparison(HEALTHY, miou=-3.0), "ClassAcc +1.05 [+0.84, +1.26], mIoU -1.95 [-2.16, -1.74] points"),
        ("pixels", comparison(HEALTHY, pixel_acc=-3.0), "PixelAcc -1.95 [-2.16, -1.74] points"),
    ],
)
def test_a_comparisons(name, result, seen, tmp_path):
    folder = write(tmp_path / "run", result)
    assert names(folder) == [name]
    assert seen in Page(write_page(folder).read_text()).texts["warnings"]


def test_features_that_add_nothing_to_the_weights(tmp_path):
    def beyond(*shifts):
        return comparison(HEALTHY) | {"beyond_weights": comparison(shifts)["differences"]["feataug"]}

    folder = write(tmp_path / "run", beyond(1.0, -1.2, 1.1, 0.4))
    assert names(folder) == ["weights"]
    texts = Page(write_page(folder).read_text()).texts
    assert "points over the weights alone" in texts["warnings"]
    assert "feataug − class weights" in texts["metrics"]
    assert "Over the class weights alone: No difference is shown" in texts["metrics"]
    assert names(write(tmp_path / "better", beyond(*HEALTHY))) == []
    assert names(write(tmp_path / "worse", beyond(-1.0, -1.2, -1.1, -0.9))) == ["weights"]
    # Not of a single pair, nor of what is no figure.
    assert "weights" not in names(write(tmp_path / "single", comparison([1.0]) | {"beyond_weights": {"miou": {"mean": 1.0}}}))
    assert names(write(tmp_path / "damaged", comparison(HEALTHY) | {"beyond_weights": "many"})) == []


def test_gains_that_a_bias_gives_and_a_ceiling_without_room(tmp_path):
    before, after = comparison(HEALTHY), comparison([0.1, -0.2, 0.3, -0.1])
    result = after | {"differences_before_bias": before["differences"], "arms_before_bias": before["arms"]}
    folder = write(tmp_path / "a", result)
    assert names(folder) == ["bias", "zero"]
    page = Page(write_page(folder).read_text())
    assert "feataug: nothing beyond the class bias" in page.texts["warnings"]
    assert "feataug shows nothing beyond the bias in PixelAcc: +1.05 [" in page.texts["metrics"]
    assert any(caption.startswith("Before the class bias, percent") for caption in page.tables)
    # A gain after the bias is one beyond it.
    assert names(write(tmp_path / "b", before | {"differences_before_bias": before["differences"]})) == []
    ceiling = {"differences": before["differences"] | {"ceiling": after["difference"]}}
    narrow = write(tmp_path / "c", before | ceiling)
    assert names(narrow) == ["room"]
    assert "There is no room in PixelAcc, ClassAcc, mIoU, fwIoU" in Page(write_page(narrow).read_text()).texts["metrics"]
    wide = before | {"differences": before["differences"] | {"ceiling": comparison([2.0, 2.2, 2.1, 1.9])["difference"]}}
    shares = {"ceiling": {"share_of_ceiling": {"feataug": {"miou": 0.512, "class_acc": None}}}}
    folder = write(tmp_path / "d", wide | shares)
    assert names(folder) == []
    rows = [row for table in Page(write_page(folder).read_text()).tables.values() for row in table]
    assert ["feataug: share of the ceiling's gain", "-", "-", "51%", "-"] in rows


def test_two_seeds_are_too_few(tmp_path):
    assert "seeds" in names(write(tmp_path / "run", comparison([1.0, 1.1])))
    assert "seeds" not in names(write(tmp_path / "more", comparison([1.0, 1.1, 1.2])))


@pytest.mark.parametrize(
    ("shifts", "advice"),
    [
        ([1.0, -0.5, 1.1, 0.4], "about 11 seeds would show it"),
        ([1.0, -1.0, 0.5, -0.45], "so small that 50 seeds would not show it"),
    ],
)
def test_how_many_seeds_might_do(shifts, advice, tmp_path):
    folder = write(tmp_path / "run", comparison(shifts))
    assert advice in Page(write_page(folder).read_text()).texts["warnings"]


def test_classes_that_lose_and_that_are_never_found(tmp_path):
    result = comparison(HEALTHY)
    gaps = result["differences"]["feataug"]["per_class"]
    gaps["pole"]["iou"] = {"mean": -2.0, "low": -3.0, "high": -1.0}
    gaps["sky"]["iou"] = {"mean": -2.0, "low": -5.0, "high": 1.0}
    result["arms"]["feataug"]["per_class"]["road"]["iou"] = 0.4
    folder = write(tmp_path / "run", result)
    assert names(folder) == ["lost", "unseen"]
    text = Page(write_page(folder).read_text()).texts["warnings"]
    assert "IoU of pole -2.00 [-3.00, -1.00] points" in text
    assert "sky" not in text


def test_losses_that_are_not_finite_and_runs_that_stopped(tmp_path):
    broken = [{"loss": 1.0}, {"loss": float("nan")}]
    assert names(write(tmp_path / "a", measured(50) | {"config": {}}, {"run": broken})) == ["finite"]
    folder = write(tmp_path / "b", measured(50) | {"config": {"num_steps": 100}}, {"run": [{"loss": 1.0}]})
    assert names(folder) == []
    (folder / "command.json").write_text(json.dumps({"command": "finetune", "finished": False}))
    assert names(folder) == ["stopped"]
    assert "10 of 100" in Page(write_page(folder).read_text()).texts["warnings"]


def test_the_docs_state_the_thresholds():
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    table = text[text.index("| warning | threshold |") :]
    stated = [features.LATENT, features.CRITICS, features.RECOGNITION, features.EASY, features.AVERAGE, *features.KL, arms.SEEDS]
    for value in (*stated, DIVERSITY_ALARM, arms.POINTS, 2 * arms.POINTS, arms.LOST, arms.UNSEEN):
        assert re.search(rf"\b{value:g}\b", table), value


def test_measures_beside_the_main_ones_do_not_warn(tmp_path):
    clear, unclear = comparison(HEALTHY)["difference"], comparison([0.1, -0.2, 0.3, -0.1])["difference"]
    for main, expected in ((clear, []), (unclear, ["zero"])):
        gaps = unclear | {name: main[name] for name in ("miou", "class_acc")}
        folder = write(tmp_path / str(len(expected)), comparison(HEALTHY) | {"difference": gaps, "differences": {"feataug": gaps}})
        assert names(folder) == expected
