import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feataug.core.measures import MEASURES
from feataug.errors import LabelError, ShapeError
from feataug.metrics import SegmentationMetrics, scores

VOID = 255


def oracle(pairs, num_classes):
    """The definitions of Long et al., class by class over lists of (predicted, true) pixels."""
    pairs = [(p, t) for p, t in pairs if t != VOID]
    accs, ious, weighted = [], [], 0.0
    for k in range(num_classes):
        hits = sum(1 for p, t in pairs if p == k and t == k)
        true = sum(1 for _, t in pairs if t == k)
        union = sum(1 for p, t in pairs if p == k or t == k)
        accs.append(100 * hits / true if true else None)
        ious.append(100 * hits / union if union else None)
        weighted += true * (100 * hits / union if union else 0.0)

    def mean(values):
        values = [value for value in values if value is not None]
        return sum(values) / len(values) if values else math.nan

    total = len(pairs)
    return {
        "pixel_acc": 100 * sum(1 for p, t in pairs if p == t) / total if total else math.nan,
        "class_acc": mean(accs),
        "miou": mean(ious),
        "fw_iou": weighted / total if total else math.nan,
        "per_class": {"acc": accs, "iou": ious},
        "absent": [k for k in range(num_classes) if not any(t == k for _, t in pairs)],
    }


def assert_same(found, expected):
    assert set(found) == set(expected) == {*MEASURES, "per_class", "absent"}
    assert found["absent"] == expected["absent"]
    for name in MEASURES:
        assert found[name] == pytest.approx(expected[name], rel=1e-12, nan_ok=True), name
    for name in ("acc", "iou"):
        assert found["per_class"][name] == [pytest.approx(x) if x is not None else None for x in expected["per_class"][name]]


def pairs_of(confusion):
    return [(p, t) for t, row in enumerate(confusion.tolist()) for p, count in enumerate(row) for _ in range(count)]


@st.composite
def matrices(draw):
    k = draw(st.integers(1, 5))
    rows = draw(st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k), min_size=k, max_size=k))
    matrix = np.array(rows)
    for absent in draw(st.sets(st.integers(0, k - 1), max_size=k)):
        matrix[absent] = 0  # absent from the masks
        if draw(st.booleans()):
            matrix[:, absent] = 0  # and from the predictions
    return torch.from_numpy(matrix)


@settings(max_examples=100, deadline=None)
@given(matrices())
def test_scores_agree_with_the_definitions(confusion):
    assert_same(scores(confusion), oracle(pairs_of(confusion), len(confusion)))


def test_rows_and_columns_swapped_are_found_out():
    # A test of the test: the same check, on the transposed matrix, must fail.
    confusion = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 5, 0]])
    assert_same(scores(confusion), oracle(pairs_of(confusion), 3))
    with pytest.raises(AssertionError):
        assert_same(scores(confusion.T), oracle(pairs_of(confusion), 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_batches_agree_with_the_definitions(seed, num_classes, batches, crowded):
    rng = np.random.default_rng(seed)
    metrics, pairs = SegmentationMetrics(num_classes), []
    for _ in range(batches):
        # In half of the runs only the first half of the classes occurs in the masks.
        masks = rng.integers(0, num_classes if crowded else -(-num_classes // 2), (2, 4, 5))
        masks[rng.random(masks.shape) < 0.2] = VOID
        predictions = rng.integers(0, num_classes, masks.shape)
        pairs += zip(predictions.ravel().tolist(), masks.ravel().tolist(), strict=True)
        metrics.update(torch.from_numpy(predictions), torch.from_numpy(masks))
    assert_same(metrics.compute(), oracle(pairs, num_classes))


def test_absent_classes():
    # Class 1 is absent from masks and predictions, class 2 from the masks only.
    result = scores(torch.tensor([[6, 0, 2], [0, 0, 0], [0, 0, 0]]))
    assert result["per_class"] == {"acc": [75.0, None, None], "iou": [75.0, None, 0.0]}
    assert (result["class_acc"], result["miou"], result["fw_iou"], result["pixel_acc"]) == (75.0, 37.5, 75.0, 75.0)


@pytest.mark.parametrize("num_classes", [1, 4])
def test_everything_void_is_nan(num_classes):
    metrics = SegmentationMetrics(num_classes)
    metrics.update(torch.zeros(2, 3, 3, dtype=torch.long), torch.full((2, 3, 3), VOID))
    result = metrics.compute()
    assert all(math.isnan(result[name]) for name in MEASURES)
    assert result["per_class"] == {"acc": [None] * num_classes, "iou": [None] * num_classes}


def test_one_class_is_always_right():
    metrics = SegmentationMetrics(1)
    metrics.update(torch.randn(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))
    assert {name: metrics.compute()[name] for name in MEASURES} == dict.fromkeys(MEASURES, 100.0)


def test_smaller_logits_are_resized():
    masks = torch.arange(3).repeat_interleave(8)[None, None].expand(2, 12, 24).contiguous()
    logits = nn.functional.one_hot(masks[:, ::4, ::4], 3).permute(0, 3, 1, 2).float()
    assert logits.shape == (2, 3, 3, 6)
    small, full = SegmentationMetrics(3), SegmentationMetrics(3)
    small.update(logits, masks)
    resized = nn.functional.interpolate(logits, (12, 24), mode="bilinear", align_corners=False)
    full.update(resized.argmax(1), masks)
    assert small.compute() == full.compute()
    assert small.compute()["pixel_acc"] == 100.0


def test_reset_forgets():
    metrics = SegmentationMetrics(2)
    metrics.update(torch.ones(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long))
    metrics.reset()
    metrics.update(torch.ones(1, 2, 2, dtype=torch.long), torch.ones(1, 2, 2, dtype=torch.long))
    assert metrics.compute()["pixel_acc"] == 100.0


def test_refuses_predictions_of_another_shape():
    with pytest.raises(ShapeError) as error:
        SegmentationMetrics(11).update(torch.zeros(2, 5, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))
    assert str(error.value) == (
        "SegmentationMetrics: predictions do not fit the masks.\n"
        "  given:   [2, 5, 8, 8] float32 on cpu for masks [2, 8, 8]\n"
        "  needed:  logits [B, 11, h, w] or classes [2, 8, 8]"
    )
    with pytest.raises(ShapeError):
        SegmentationMetrics(11).update(torch.zeros(3, 11, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))


def test_refuses_labels_that_are_no_class():
    masks = torch.zeros(2, 8, 8, dtype=torch.long)
    masks[1, 3, 5] = 40
    with pytest.raises(LabelError) as error:
        SegmentationMetrics(11).update(torch.zeros(2, 11, 8, 8), masks)
    assert str(error.value) == (
        "SegmentationMetrics: a mask holds labels that are no class.\n"
        "  given:   [40] in [2, 8, 8] int64 on cpu, first at sample 1, row 3, column 5\n"
        "  needed:  0 .. 10, or ignore_index (255) for void\n"
        "Map the data set's own ids to 0 .. num_classes - 1 first, or raise num_classes if these are classes."
    )


def test_refuses_predicted_classes_that_are_none():
    # Counted by position in the matrix, class 3 for class 0 of 2 would pass for a hit of class 1.
    masks = torch.zeros(1, 2, 2, dtype=torch.long)
    predictions = torch.tensor([[[0, 0], [0, 3]]])
    metrics = SegmentationMetrics(2)
    with pytest.raises(LabelError) as error:
        metrics.update(predictions, masks)
    assert str(error.value) == (
        "SegmentationMetrics: predictions hold labels that are no class.\n"
        "  given:   [3] in [1, 2, 2] int64 on cpu\n"
        "  needed:  0 .. 1"
    )
    masks[0, 1, 1] = VOID  # what is predicted for void does not matter
    metrics.update(predictions, masks)
    assert metrics.compute()["pixel_acc"] == 100.0
