"""``feataug.feature_quality``: generators that copy, or emit class means, are caught."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import feataug
from feataug import FeatureGenerator, feature_quality, split
from feataug.errors import ConfigError, DataError, LabelError
from feataug.evaluation.quality.feature_quality import FEWEST
from feataug.io.results import quality_summary
from feataug.reporting.tables import quality_table
from tests.support.planted_features import (
    CHANNELS,
    CLASSES,
    MEANS,
    STRIDE,
    VOID,
    Planted,
    batches,
    copier,
    honest,
)


def test_an_honest_generator_gets_what_real_features_get(found):
    reference = found["reference"]
    assert found["precision"] == pytest.approx(reference["precision"], abs=0.05)
    assert found["recall"] == pytest.approx(reference["recall"], abs=0.05)
    assert found["frechet"] == pytest.approx(reference["frechet"], abs=0.05)
    assert found["cells"] == 48 * 64
    assert len(found["per_class"]) == CLASSES
    for row in found["per_class"]:
        assert row["precision"] > 0.5
        assert row["recall"] > 0.5
        assert row["cells"] >= 600
    memory = found["memory"]
    assert not memory["copies"]
    assert memory["cells"]["ratio"] == pytest.approx(1, abs=0.1)
    assert memory["maps"]["samples"] == 48
    assert memory["maps"]["ratio"] == pytest.approx(1, abs=0.1)
    assert json.loads(json.dumps(found)) == found
    assert found["levels"][0]["level"] == "encoder"
    assert found["levels"][0]["channels"] == CHANNELS
    assert {name: found["levels"][0][name] for name in ("frechet", "recall", "per_class")} == {
        name: found[name] for name in ("frechet", "recall", "per_class")
    }


@pytest.mark.parametrize("seed", range(4))
def test_no_false_alarm(cut, seed):
    found = feature_quality(cut, honest(cut), batches(10 + seed), batches(20 + seed), seed=seed)
    assert not found["memory"]["copies"]
    smooth = feature_quality(cut, honest(cut, 0.1), batches(10 + seed), batches(20 + seed), seed=seed)
    assert not smooth["memory"]["copies"]


def test_a_generator_that_copies_is_caught(cut):
    train = batches(0)
    found = feature_quality(cut, copier(cut, train), train, batches(1))
    assert found["memory"]["copies"]
    for kind in ("cells", "maps"):
        test = found["memory"][kind]
        assert test["copies"]
        assert test["copied"] > 0.99
        assert test["ratio"] < 0.01
        assert test["synthetic"] < 0.01 < test["real"]
    # All else praises it; that a third of the training images are drawn never and others twice or more costs a little recall.
    assert found["precision"] == pytest.approx(found["reference"]["precision"], abs=0.1)
    assert found["recall"] == pytest.approx(found["reference"]["recall"], abs=0.25)


def test_maps_tell_a_copy_that_has_other_masks(cut):
    """Whatever the mask is, it returns some training map: cells of the same places cannot tell."""
    train, later = batches(0), batches(3)
    other = [(images, masks) for (images, _), (_, masks) in zip(train, later, strict=True)]
    features = torch.cat([cut.encode(images)[0] for images, _ in train])
    thief = Planted(cut.spec, lambda masks, z: [features[(1000 * z[:, 0].abs()).long() % len(features)]])
    found = feature_quality(cut, thief, other, batches(1))
    assert found["memory"]["maps"]["copies"]


def test_a_generator_of_class_means_is_caught_by_recall(cut):
    found = feature_quality(cut, honest(cut, 0.0), batches(0), batches(1))
    assert found["precision"] > 0.95
    assert found["recall"] < 0.01
    assert found["reference"]["recall"] > 0.7
    assert all(row["recall"] < 0.01 and row["precision"] > 0.95 for row in found["per_class"])
    assert found["frechet"] > 10 * found["reference"]["frechet"]
    assert not found["memory"]["copies"]


def test_a_single_class_that_is_poor_shows_by_class(cut):
    def make(masks, z):
        good = honest(cut).make(masks, z)[0]
        flat = masks[:, None, ::STRIDE, ::STRIDE] == 2
        return [torch.where(flat, MEANS[2][:, None, None], good)]

    found = feature_quality(cut, Planted(cut.spec, make), batches(0), batches(1))
    assert [row["recall"] < 0.01 for row in found["per_class"]] == [False, False, True, False]


def test_void_cells_are_ignored(cut, found):
    def spoilt(loader):
        images, masks = (torch.cat(x) for x in zip(*loader, strict=True))
        images, masks = images.clone(), masks.clone()
        images[:, :, :8], masks[:, :8] = 1e6, VOID
        return [(images, masks)]

    got = feature_quality(cut, honest(cut), spoilt(batches(0)), spoilt(batches(1)))
    assert got["cells"] == 48 * 48
    assert got["frechet"] == pytest.approx(found["frechet"], abs=0.05)
    assert got["reference"]["frechet"] < 0.2


def test_the_class_that_covers_most_of_a_cell_is_its_class(cut):
    loader = batches(0)
    for _, masks in loader:
        masks[:, 1::STRIDE, :] = VOID
        masks[:, 2::STRIDE, ::4] = 3
    # A quarter of each cell is void and a sixteenth another class.
    labels = [feature_quality(cut, honest(cut), data, data)["per_class"] for data in (batches(0), loader)]
    assert [row["cells"] for row in labels[0]] == [row["cells"] for row in labels[1]]


def test_classes_that_are_absent_or_rare_have_no_figures(cut):
    got = feature_quality(cut, honest(cut), batches(0, classes=3), batches(1, classes=2))
    assert [row is None for row in got["per_class"]] == [False, False, True, True]
    # Class 2 is not in the training images: no reference.
    got = feature_quality(cut, honest(cut), batches(0, classes=2), batches(1, classes=3))
    assert [row is None or row["reference"] is None for row in got["per_class"]] == [False, False, True, True]
    assert got["per_class"][2]["recall"] > 0.5
    # Few cells for each channel make no Gaussian.
    few = feature_quality(cut, honest(cut), batches(0), batches(1), cells=FEWEST)
    assert few["cells"] == FEWEST
    assert few["per_class"] == [None] * CLASSES


def test_too_few_cells_for_a_gaussian_have_no_distance():
    wide = split(
        encoder=nn.Conv2d(CHANNELS, 40, 1, STRIDE), decoder=nn.Conv2d(40, CLASSES, 1), example=torch.zeros(1, CHANNELS, 32, 32)
    )
    generator = FeatureGenerator(CLASSES, wide.spec, width=4, depth=1)
    got = feature_quality(wide, generator, batches(0, 4), batches(1, 4), cells=79)
    assert got["frechet"] is None
    assert got["recall"] is not None
    assert got["memory"]["maps"] is None
    assert "-" in quality_table(quality_summary(got, list("abcd")))


def test_the_same_seed_gives_the_same_figures_in_batches_of_any_size(cut):
    one, other, far = (
        feature_quality(cut, honest(cut), batches(0, size=a), batches(1, size=b), cells=500, seed=s)
        for a, b, s in ((4, 4, 0), (7, 48, 0), (4, 4, 1))
    )
    assert one == other
    assert one["frechet"] != far["frechet"]
    generator, state = honest(cut), torch.get_rng_state()
    feature_quality(cut, generator, batches(0), batches(1), cells=100)
    assert torch.equal(state, torch.get_rng_state())


def test_loaders_are_read_no_farther_than_wanted(cut):
    def endless():
        while True:
            yield from batches(0, size=5)

    got = feature_quality(cut, honest(cut), endless(), endless(), images=12)
    assert got["cells"] == 12 * 64
    assert got["memory"]["maps"]["samples"] == 12
    assert got["settings"] == {"images": 12, "cells": 10_000, "ignore_index": VOID, "seed": 0, "neighbours": 3}


def test_several_levels():
    cut = split(Skips(), ["fine", "coarse"])
    generator = FeatureGenerator(CLASSES, cut.spec, width=4, depth=1)
    net = cut.model.train()
    net.coarse.eval()
    rng = torch.Generator().manual_seed(0)
    data = [(torch.randn(6, 3, 33, 47, generator=rng), torch.randint(CLASSES, (6, 33, 47), generator=rng)) for _ in range(4)]
    got = feature_quality(cut, generator.train(), data[:2], data[2:])
    assert [level["level"] for level in got["levels"]] == ["fine", "coarse"]
    assert [level["channels"] for level in got["levels"]] == [4, 6]
    assert got["recall"] == pytest.approx(sum(level["recall"] for level in got["levels"]) / 2)
    assert got["memory"]["cells"]["ratio"] == pytest.approx(sum(x["memory"]["cells"]["ratio"] for x in got["levels"]) / 2)
    assert got["cells"] == min(level["cells"] for level in got["levels"])
    # Every part is back in its mode.
    assert (net.training, net.fine.training, net.coarse.training, generator.training) == (True, True, False, True)


class Skips(nn.Module):
    """Two maps cross."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.head = nn.Conv2d(10, CLASSES, 1)

    def forward(self, images):
        fine = self.fine(images)
        coarse = nn.functional.interpolate(self.coarse(fine), fine.shape[-2:])
        return nn.functional.interpolate(self.head(torch.cat([fine, coarse], 1)), images.shape[-2:])


def test_tokens_are_left_out(cut):
    spec = feataug.FeatureSpec((feataug.LevelSpec("body.prefix", CHANNELS, 0, tokens=2), *cut.spec))
    generator = FeatureGenerator(CLASSES, spec, width=4, depth=1)
    both = SimpleNamespace(model=cut.model, encode=lambda images: (torch.zeros(len(images), CHANNELS, 1, 2), *cut.encode(images)))
    got = feature_quality(both, generator, batches(0), batches(1))
    assert [level["level"] for level in got["levels"]] == ["encoder"]


def test_what_cannot_be_compared_is_an_error(cut):
    generator, good = honest(cut), batches(0)
    for wrong, text in (
        ({"cells": 49}, "feature_quality: cells is out of range.\n  given:   49\n  needed:  an integer in [50, inf)"),
        ({"images": 0}, "feature_quality: images is out of range.\n  given:   0\n  needed:  an integer in [1, inf)"),
        ({"neighbours": 50}, "feature_quality: neighbours is out of range.\n  given:   50\n  needed:  an integer in [1, 49]"),
        ({"seed": -1}, "feature_quality: seed is out of range.\n  given:   -1\n  needed:  an integer in [0, inf)"),
    ):
        with pytest.raises(ConfigError) as raised:
            feature_quality(cut, generator, good, good, **wrong)
        assert str(raised.value) == text
    void = [(images, torch.full_like(masks, VOID)) for images, masks in good[:2]]
    odd = [(images * math.nan, masks) for images, masks in good[:2]]
    few = [(images[:1, :, :16, :16], masks[:1, :16, :16]) for images, masks in good[:2]]
    for train, val, text in (
        ([], good, "feature_quality: train_loader has no cell with a class.\n  given:   0 images\n  needed:  labelled images"),
        (
            good,
            void,
            "feature_quality: val_loader has no cell with a class.\n  given:   8 images, all of them void in the cells of 'encoder'\n"
            "  needed:  labelled images",
        ),
        (
            odd,
            good,
            "feature_quality: real features are not finite.\n  given:   512 of 512 cells at level 'encoder'\n  needed:  finite numbers",
        ),
        (
            good,
            few,
            "feature_quality: too few cells have a class at level 'encoder'.\n  given:   3072 in train_loader, 32 in val_loader\n"
            "  needed:  50\nPass loaders of more or larger images.",
        ),
        (
            good,
            5,
            "feature_quality: the loader cannot be read.\n  given:   int 5\n  needed:  an iterable of (images, masks), such as a DataLoader",
        ),
    ):
        with pytest.raises(DataError) as raised:
            feature_quality(cut, generator, train, val)
        assert str(raised.value) == text
    with pytest.raises(LabelError, match="a mask holds labels that are no class"):
        feature_quality(cut, generator, good, [(images, masks + 1) for images, masks in good])
    with pytest.raises(ConfigError, match="ignore_index is also a class"):
        feature_quality(cut, generator, good, good, ignore_index=0)


def test_the_table(found):
    summary = quality_summary(found, ["sky", "road", "pole", "car"])
    assert list(summary["per_class"]) == ["sky", "road", "pole", "car"]
    assert "levels" not in summary
    text = quality_table(summary)
    lines = text.splitlines()
    assert lines[0].split() == ["cells", "Fréchet", "(real)", "precision", "(real)", "recall", "(real)"]
    first, reference = found["frechet"], found["reference"]["frechet"]
    assert lines[1].split()[:5] == ["all", "classes", "3072", f"{first:.2f}", f"{reference:.2f}"]
    assert lines[2].split()[0] == "sky"
    assert "no sign of copying" in lines[-1]
    copied = summary | {"memory": summary["memory"] | {"copies": True}}
    assert "copies training features" in quality_table(copied).splitlines()[-1]
    assert feataug.feature_quality is feature_quality
