"""``feataug.feature_quality``: distances against closed forms and loops, and generators that copy, or emit class means, are caught."""

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
from feataug.evaluation.quality import fidelity
from feataug.evaluation.quality.feature_quality import FEWEST
from feataug.evaluation.quality.fidelity import frechet, kth_distance, nearest, precision_recall
from feataug.evaluation.quality.memory_test import memory_test
from feataug.io.results import quality_summary
from feataug.reporting.tables import quality_table

VOID, CLASSES, CHANNELS, STRIDE = 255, 4, 8, 4


# ---- distances -------------------------------------------------------------------------------------------------------------------------


def with_moments(n, mean, root, rng):
    """Vectors whose sample mean and covariance are exactly ``mean`` and ``root root^T``."""
    x = torch.randn(n, len(mean), generator=rng, dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return x @ root.T + mean


def test_frechet_is_the_closed_form(rng):
    # Covariances that commute: the sum over axes of (m1 - m2)^2 + (s1 - s2)^2, in any rotation.
    a, b = torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([1.0, 0.0, 3.0]).double()
    m1, m2 = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    q = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64)).Q
    x, y = (with_moments(50, q @ m, q @ s.diag(), rng) for m, s in ((m1, a), (m2, b)))
    assert frechet(x, y) == pytest.approx(float(((m1 - m2) ** 2 + (a - b) ** 2).sum()), abs=1e-6)
    # Any two covariances of two channels: tr (S1 S2)^(1/2) = sqrt(tr S1 S2 + 2 sqrt(det S1 S2)).
    r1, r2 = torch.tensor([[1.0, 0.0], [0.8, 0.5]]).double(), torch.tensor([[0.3, 0.0], [-2.0, 1.5]]).double()
    x, y = (with_moments(40, torch.zeros(2).double(), r, rng) for r in (r1, r2))
    s1, s2 = r1 @ r1.T, r2 @ r2.T
    root = torch.sqrt((s1 @ s2).trace() + 2 * torch.linalg.det(s1 @ s2).sqrt())
    assert frechet(x, y) == pytest.approx(float(s1.trace() + s2.trace() - 2 * root), abs=1e-9)
    assert frechet(y, x) == pytest.approx(frechet(x, y))
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, torch.zeros(5, 2)) == pytest.approx(float(s1.trace()), abs=1e-6)


def slow(real, synthetic, k):
    """Precision and recall by loops."""

    def share(points, manifold):
        hits = 0
        for point in points:
            for i, center in enumerate(manifold):
                others = sorted(math.dist(center, x) for j, x in enumerate(manifold) if j != i)
                if math.dist(point, center) <= others[k - 1]:
                    hits += 1
                    break
        return hits / len(points)

    real, synthetic = real.tolist(), synthetic.tolist()
    return share(synthetic, real), share(real, synthetic)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("n", "m"), [(30, 30), (17, 40)])
def test_precision_and_recall_agree_with_loops(n, m, k, rng, monkeypatch):
    real, synthetic = torch.randn(n, 3, generator=rng), 1.4 * torch.randn(m, 3, generator=rng) + 0.5
    expected = slow(real, synthetic, k)
    assert 0 < expected[0] < 1
    assert precision_recall(real, synthetic, k) == pytest.approx(expected)
    monkeypatch.setattr(fidelity, "_CHUNK", 100)  # several chunks of rows, the last one smaller
    assert precision_recall(real, synthetic, k, kth_distance(real, k)) == pytest.approx(expected)
    distances, places = nearest(real, synthetic)
    table = [[math.dist(a, b) for b in synthetic.tolist()] for a in real.tolist()]
    assert distances.tolist() == pytest.approx([min(row) for row in table])
    assert places.tolist() == [row.index(min(row)) for row in table]


@pytest.mark.parametrize(
    ("spread", "shift", "precise", "covering"),
    [(1.0, 0.0, True, True), (0.3, 0.0, True, False), (4.0, 0.0, False, True), (1.0, 30.0, False, False)],
)
def test_what_precision_and_recall_mean(spread, shift, precise, covering, rng):
    real, synthetic = torch.randn(2, 400, 6, generator=rng)
    precision, recall = precision_recall(real, spread * synthetic + shift)
    assert (precision > 0.5, recall > 0.5) == (precise, covering)


# ---- the memory test -------------------------------------------------------------------------------------------------------------------


def uneven(n, rng, channels=CHANNELS):
    """Vectors of classes whose spreads differ thirtyfold, as those of sky and of cars do; and the classes' means."""
    labels = torch.randint(3, (n,), generator=rng)
    means = 3 * torch.randn(3, channels, generator=torch.Generator().manual_seed(1))[labels]
    spread = torch.tensor([0.05, 0.5, 1.5])[labels][:, None]
    return means + spread * torch.randn(n, channels, generator=rng), means, spread


@pytest.mark.parametrize("seed", range(8))
def test_honest_samples_raise_no_alarm(seed):
    rng = torch.Generator().manual_seed(seed)
    (train, mean, spread), (val, other, other_spread) = (uneven(400, rng) for _ in range(2))
    noise = torch.randn(2, 400, CHANNELS, generator=rng)
    honest = {
        "other real features": (uneven(400, rng)[0], uneven(400, rng)[0]),
        "noise around the means": (mean + spread * noise[0], other + other_spread * noise[1]),
        "means": (mean, other),
        "smooth": (mean + 0.2 * spread * noise[0], other + 0.2 * other_spread * noise[1]),
        "pulled to their own feature": ((mean + train) / 2, (other + val) / 2),
    }
    for name, (mine, theirs) in honest.items():
        found = memory_test((mine, train), (theirs, val))
        assert not found["copies"], name
        assert found["copied"] < 0.05, name
    # Splits that differ: an honest generator is nearer to what it learnt, also where held-out features are all alike.
    mine, theirs = honest["noise around the means"]
    for shifted in (val + 0.3, other + 0.01 * noise[1] + 2):
        assert not memory_test((mine, train), (theirs, shifted))["copies"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("noise", "share"), [(0.0, 1.0), (0.1, 1.0), (0.0, 0.3)])
def test_copies_are_found(seed, noise, share):
    rng = torch.Generator().manual_seed(seed)
    (train, _, spread), (val, *_) = (uneven(400, rng) for _ in range(2))
    mine = train + noise * spread * torch.randn(400, CHANNELS, generator=rng)
    fresh = int(400 * (1 - share))
    mine[:fresh] = uneven(fresh, rng)[0]
    # Of masks that it has not seen it makes training features, too.
    found = memory_test((mine, train), (train[torch.randperm(400, generator=rng)], val))
    assert found["copies"]
    assert found["copied"] > 0.8 * share
    assert found["nearer"] > 0.5 + 0.4 * share
    if share == 1:
        assert found["ratio"] < 0.35
        assert found["synthetic"] < 0.35 * found["real"]


def test_a_single_value_everywhere_is_no_error():
    same = torch.zeros(20, 3)
    assert memory_test((same, same), (same, same)) == {
        "synthetic": 0.0, "held_out": 0.0, "real": 0.0, "ratio": None, "nearer": 0.5, "copied": 0.0, "copies": False, "samples": 20,
    }  # fmt: skip


# ---- the whole -------------------------------------------------------------------------------------------------------------------------

MEANS = 2 * torch.randn(CLASSES + 1, CHANNELS, generator=torch.Generator().manual_seed(5))


def drawn(masks, rng, spread=1.0):
    """Features of masks: the class's mean and noise, a vector for each cell."""
    cells = masks[:, ::STRIDE, ::STRIDE].clamp(max=CLASSES)
    noise = torch.randn(*cells.shape, CHANNELS, generator=rng)
    return (MEANS[cells] + spread * noise).movedim(-1, 1)


def batches(seed, count=48, size=4, classes=CLASSES, side=8):
    """Images that are their features enlarged, and their masks."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(classes, (count, side // 2, side), generator=rng)
    masks = torch.cat([masks, masks], 1).repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    images = drawn(masks, rng).repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)
    return list(zip(images.split(size), masks.split(size), strict=True))


@pytest.fixture(scope="module")
def cut():
    encoder, decoder = nn.AvgPool2d(STRIDE), nn.Conv2d(CHANNELS, CLASSES, 1)
    return split(encoder=encoder, decoder=decoder, example=torch.zeros(1, CHANNELS, 32, 32))


class Planted(FeatureGenerator):
    """A generator whose features are those of a function of masks and noise."""

    def __init__(self, spec, make):
        super().__init__(CLASSES, spec, width=4, mask_widths=(4,), depth=0)
        self.make = make

    def forward(self, masks, z=None, **kwargs):
        return tuple(self.make(masks, z))


def honest(cut, spread=1.0):
    def make(masks, z):
        # Noise of the sample's own z, so that batches do not matter.
        seeds = [torch.Generator().manual_seed(abs(hash(tuple(row.tolist())))) for row in z]
        return [torch.cat([drawn(mask[None], rng, spread) for mask, rng in zip(masks, seeds, strict=True)])]

    return Planted(cut.spec, make)


def copier(cut, loader):
    """Training features of the mask, if it is known, else of any."""
    known = {
        tuple(mask.flatten().tolist()): cut.encode(image[None])
        for images, masks in loader
        for image, mask in zip(images, masks, strict=True)
    }
    every = list(known.values())

    def make(masks, z):
        found = [
            known.get(tuple(mask.flatten().tolist()), every[int(1000 * abs(x[0])) % len(every)])
            for mask, x in zip(masks, z, strict=True)
        ]
        return [torch.cat(levels) for levels in zip(*found, strict=True)]

    return Planted(cut.spec, make)


@pytest.fixture(scope="module")
def found(cut):
    return feature_quality(cut, honest(cut), batches(0), batches(1))


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
    # All else praises it.
    assert found["precision"] == pytest.approx(found["reference"]["precision"], abs=0.1)
    assert found["recall"] == pytest.approx(found["reference"]["recall"], abs=0.1)


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
    generator = FeatureGenerator(CLASSES, wide.spec, width=4, mask_widths=(4,))
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
    generator = FeatureGenerator(CLASSES, cut.spec, width=4, mask_widths=(4, 4))
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
    generator = FeatureGenerator(CLASSES, spec, width=4, mask_widths=(4,), depth=0)
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
