"""``recommend`` on the paper's table and on made-up ones."""

from __future__ import annotations

import math

from feataug.evaluation import recommend


def table(*rows):
    return [
        {"at": at, "decoder_share": share, "recognition": None if ratio is None else {"ratio": ratio}} for at, share, ratio in rows
    ]


# The paper's Table 4: PSPNet-score over that of real features, 86.15; the decoder shrinks from left to right.
PAPER = {
    "images": 2.22, "conv1_3": 9.76, "conv2_3": 26.97, "conv3_4": 56.77, "conv4_6": 70.66, "conv4_12": 74.33, "conv4_18": 61.54,
    "conv4_23": 83.78,
}  # fmt: skip


def test_the_rule_finds_the_papers_cut():
    rows = table(*((at, 1 - number / 10, score / 86.15) for number, (at, score) in enumerate(PAPER.items())))
    for shuffled in (rows, rows[::-1]):
        assert recommend(shuffled) == (
            "conv4_12",
            "Recommended: conv4_12. Its synthetic features are recognised 0.86 times as well as real ones (conv4_23, the best: 0.97), and 50% of "
            "the parameters lie after it. A rule of thumb: among the cuts with at least 0.85 times the best ratio (2 of 8), the one with "
            "the most parameters in the decoder.",
        )


def test_the_best_stage_may_be_the_earliest():
    best, why = recommend(table(("a", 0.9, 0.9), ("b", 0.4, 0.8)))
    assert best == "a"
    assert "0.90 times as well as real ones (the best of all)" in why


def test_a_ratio_above_one_counts_as_one():
    assert recommend(table(("a", 0.9, 0.9), ("b", 0.4, 1.6)))[0] == "a"


def test_stages_without_a_score_are_passed_over():
    assert recommend(table(("a", 0.9, None), ("b", 0.5, math.nan), (["c", "d"], 0.4, 0.8)))[0] == ["c", "d"]


def test_nothing_is_recommended_without_generators_or_with_raw_ones():
    assert recommend(table(("a", 0.9, None))) == (
        None,
        "No recommendation: entropy and overlap alone do not show which cut helps (in the paper's Table 4 they do not). Train "
        "generators as well: generator_images.",
    )
    assert recommend(table(("a", 0.9, 0.1), (["b", "c"], 0.5, 0.4))) == (
        None,
        "No recommendation: the best generator, at b, c, is recognised 0.40 times as well as real features. Train the generators on more "
        "images: below 0.5 they are not trained enough to be compared.",
    )
