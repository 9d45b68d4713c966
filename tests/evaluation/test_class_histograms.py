"""Histograms of activations by class: against pixel loops, and on features whose figures are known."""

from __future__ import annotations

import pytest
import torch

from feataug.evaluation.stage_selection.class_histograms import ClassHistograms, activations
from tests.support.stage_runs import VOID, slow


def fast(batches, reduction, stride, num_classes, bins, min_cells):
    histograms = ClassHistograms(num_classes, batches[0][0].shape[1], bins)
    found = [activations(features, reduction, masks, stride) for features, masks in batches]
    for values, _ in found:
        histograms.see(values)
    histograms.open()
    for values, labels in found:
        histograms.count(values, labels)
    classes = (histograms.cells >= min_cells).nonzero().flatten()
    return float(histograms.entropy(classes).mean()), float(histograms.overlap(classes).mean())


def drawn(seed, size=(32, 48), reduction=4, channels=5, num_classes=4, count=3):
    """Batches whose features depend on the class a little, with void, a heavy tail and a constant channel."""
    rng = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        masks = torch.randint(num_classes, (2, *size), generator=rng)
        masks[:, :5] = VOID
        h, w = -(-size[0] // reduction), -(-size[1] // reduction)
        features = torch.randn(2, channels, h, w, generator=rng) + 0.5 * masks[:, ::reduction, ::reduction][:, None].clamp(max=4)
        features[:, 1] = features[:, 1].relu()
        features[:, 2] = features[:, 2] ** 5
        features[:, 3] = 0
        batches.append((features, masks))
    return batches


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("size", "reduction", "stride"), [((32, 48), 4, 4), ((32, 48), 1, 8), ((33, 47), 4, 4), ((33, 47), 2, 16), ((5, 7), 4, 4)]
)
def test_histograms_agree_with_pixel_loops(size, reduction, stride, seed):
    batches = drawn(seed, size, reduction)
    if size == (5, 7):
        batches[0][1][:] = 1
    expected = slow(batches, reduction, stride, 4, 12, 1)
    assert fast(batches, reduction, stride, 4, 12, 1) == pytest.approx(expected, nan_ok=True)
    assert expected[0] > 0


@pytest.mark.parametrize("fault", ["labels of the corner", "norm of the batch", "range of the class", "not shares", "void counts"])
def test_the_oracle_notices_planted_faults(fault, monkeypatch):
    batches = drawn(0)
    for number, (features, masks) in enumerate(batches):
        features *= 1 + number
        masks[:, :, :20] = 3  # classes of different areas
    batches[0][0][0] *= 7
    expected = slow(batches, 4, 4, 4, 12, 1)
    assert fast(batches, 4, 4, 4, 12, 1) == pytest.approx(expected)
    if fault == "labels of the corner":
        batches = [(features, masks.roll((2, 2), (1, 2))) for features, masks in batches]
    elif fault == "norm of the batch":
        monkeypatch.setattr(torch.linalg, "vector_norm", lambda x, dim, dtype: x.double().square().sum().sqrt().expand(len(x)))
    elif fault == "range of the class":
        monkeypatch.setattr("feataug.evaluation.stage_selection.class_histograms.SPREAD", 1.0)
    elif fault == "not shares":
        monkeypatch.setattr(ClassHistograms, "_shares", lambda self, classes: self.counts[classes].double() / self.counts.max())
    else:
        batches = [(features, masks.masked_fill(masks == VOID, 0)) for features, masks in batches]
    assert fast(batches, 4, 4, 4, 12, 1) != pytest.approx(expected, rel=1e-3)


def halves(left, right, channels=2):
    """Two classes side by side, with a value each."""
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, :, 4:] = 1
    features = torch.where(masks[:, None] == 0, left, right).expand(1, channels, 8, 8).float().contiguous()
    return features, masks


def test_features_that_tell_the_classes_apart_do_not_overlap():
    entropy, overlap = fast([halves(-1.0, 1.0)], 1, 1, 2, 8, 1)
    assert (entropy, overlap) == (0, 0)


def test_classes_with_equal_features_overlap_whole():
    features = torch.randn(1, 3, 8, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 1, 2)
    _, masks = halves(0.0, 0.0)
    entropy, overlap = fast([(features, masks)], 1, 1, 2, 8, 1)
    assert overlap == 1
    assert entropy > 1


def test_a_constant_channel_has_no_entropy_also_where_the_norm_rounds():
    rng = torch.Generator().manual_seed(0)
    # 0.1 times 100 / norm: the same number in every patch but for rounding.
    features = torch.full((5, 1, 8, 8), 0.1) * torch.rand(5, 1, 1, 1, generator=rng)
    masks = torch.randint(3, (5, 8, 8), generator=rng)
    assert fast([(features, masks)], 1, 1, 3, 16, 1) == (0, 1)
    assert fast([(torch.zeros(5, 2, 8, 8), masks)], 1, 1, 3, 16, 1) == (0, 1)


def test_an_even_spread_has_the_greatest_entropy():
    features = torch.arange(64.0).view(1, 1, 8, 8)
    assert fast([(features, torch.zeros(1, 8, 8, dtype=torch.long))], 1, 1, 1, 16, 1)[0] == 4


def test_the_scale_of_a_patch_does_not_matter():
    batches = drawn(1)
    plain = fast(batches, 4, 4, 4, 12, 1)
    scaled = [(features * torch.tensor([0.25, 1024.0]).view(2, 1, 1, 1), masks) for features, masks in batches]
    assert fast(scaled, 4, 4, 4, 12, 1) == plain
    # Channels among themselves do: they are of one patch.
    louder = [(features * torch.tensor([1.0, 1, 1, 1, 50]).view(1, 5, 1, 1), masks) for features, masks in batches]
    assert fast(louder, 4, 4, 4, 12, 1) != pytest.approx(plain)


def test_the_order_of_batches_does_not_matter():
    batches = drawn(2)
    assert fast(batches[::-1], 4, 4, 4, 12, 1) == pytest.approx(fast(batches, 4, 4, 4, 12, 1))
    joined = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    assert fast(joined, 4, 4, 4, 12, 1) == pytest.approx(fast(batches, 4, 4, 4, 12, 1))


def test_half_precision_is_counted_in_double():
    batches = [(features.half(), masks) for features, masks in drawn(3)]
    assert fast(batches, 4, 4, 4, 12, 1) == pytest.approx(slow(batches, 4, 4, 4, 12, 1))
