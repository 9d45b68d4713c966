"""Distances between sets of features against closed forms and loops, and the test for copies."""

from __future__ import annotations

import math

import pytest
import torch

from feataug.evaluation.quality import fidelity
from feataug.evaluation.quality.fidelity import frechet, kth_distance, nearest, precision_recall
from feataug.evaluation.quality.memory_test import memory_test
from tests.support.planted_features import (
    CHANNELS,
)


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
    assert distances.tolist() == pytest.approx([min(row) for row in table], rel=1e-5)  # of float32
    assert places.tolist() == [row.index(min(row)) for row in table]


@pytest.mark.parametrize(
    ("spread", "shift", "precise", "covering"),
    [(1.0, 0.0, True, True), (0.3, 0.0, True, False), (4.0, 0.0, False, True), (1.0, 30.0, False, False)],
)
def test_what_precision_and_recall_mean(spread, shift, precise, covering, rng):
    real, synthetic = torch.randn(2, 400, 6, generator=rng)
    precision, recall = precision_recall(real, spread * synthetic + shift)
    assert (precision > 0.5, recall > 0.5) == (precise, covering)


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
