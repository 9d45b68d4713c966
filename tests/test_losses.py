"""The losses against oracles that spell their formulas out pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from feataug import losses
from feataug.errors import ShapeError

VOID = 255


def oracle_pixel(logits: list[float], label: int, epsilon: float) -> float:
    """Eq. (3) at one pixel."""
    k = len(logits)
    log_sum = math.log(sum(math.exp(x) for x in logits))
    total = 0.0
    for c in range(k):
        q = 1 - (k - 1) / k * epsilon if c == label else epsilon / k
        total -= q * (logits[c] - log_sum)
    return total


def oracle_pixels(logits, masks, epsilon):
    """Eq. (3) at every valid pixel of ``(B, K, H, W)``; void pixels are left out."""
    batch, _, rows, columns = logits.shape
    return [
        oracle_pixel(logits[b, :, y, x].tolist(), int(masks[b, y, x]), epsilon)
        for b in range(batch)
        for y in range(rows)
        for x in range(columns)
        if masks[b, y, x] != VOID
    ]


def oracle_loss(logits, masks, num_real, epsilon, weight=1.0, real_epsilon=0.0):
    """Eq. (2) as a mean over all valid pixels, or as Eq. (1)'s sum of two means."""
    real = oracle_pixels(logits[:num_real], masks[:num_real], real_epsilon)
    synthetic = oracle_pixels(logits[num_real:], masks[num_real:], epsilon)
    if weight == "sum":
        return sum(real) / len(real) + sum(synthetic) / len(synthetic)
    return (sum(real) + weight * sum(synthetic)) / (len(real) + len(synthetic))


@pytest.fixture
def batch(rng):
    """Three real and two synthetic samples, four classes, some void."""
    logits = torch.randn(5, 4, 3, 6, generator=rng, dtype=torch.float64) * 3
    masks = torch.randint(4, (5, 3, 6), generator=rng)
    masks[torch.rand(masks.shape, generator=rng) < 0.2] = VOID
    assert (masks == VOID).any()
    return logits, masks


@settings(max_examples=15, deadline=None)
@given(classes=st.integers(2, 6), epsilon=st.floats(0, 1), seed=st.integers(0, 1000))
def test_smoothing_is_the_formula_at_every_pixel_and_zero_at_void(classes, epsilon, seed):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 2, 3, generator=rng, dtype=torch.float64) * 3
    masks = torch.randint(classes, (2, 2, 3), generator=rng)
    masks[0, 0, 0] = VOID
    ours = losses.smoothed_cross_entropy(logits, masks, epsilon)
    assert ours.shape == masks.shape
    assert ours[0, 0, 0] == 0
    expected = torch.tensor(oracle_pixels(logits, masks, epsilon))
    torch.testing.assert_close(ours[masks != VOID].double(), expected.double(), rtol=1e-5, atol=1e-5)


def test_smoothing_equals_torchs_label_smoothing(batch):
    logits, masks = batch
    ours = losses.smoothed_cross_entropy(logits, masks, 0.1)
    theirs = F.cross_entropy(logits, masks, label_smoothing=0.1, ignore_index=VOID)
    torch.testing.assert_close(ours.sum().double() / (masks != VOID).sum(), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0, "sum"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-4, 0.1])
def test_segmentation_loss_is_equation_2(batch, weight, epsilon):
    logits, masks = batch
    ours = losses.segmentation_loss(logits, masks, 3, label_smoothing=epsilon, synthetic_weight=weight)
    assert ours.item() == pytest.approx(oracle_loss(logits, masks, 3, epsilon, weight), rel=1e-5)


def test_smoothing_touches_synthetic_samples_only(batch):
    logits, masks = batch
    ours = losses.segmentation_loss(logits, masks, 3, label_smoothing=0.1).item()
    assert ours == pytest.approx(oracle_loss(logits, masks, 3, 0.1), rel=1e-5)
    # Planted faults that this check must find: smoothing everywhere, smoothing the real samples instead.
    for fault in (oracle_loss(logits, masks, 3, 0.1, real_epsilon=0.1), oracle_loss(logits, masks, 3, 0.0, real_epsilon=0.1)):
        assert ours != pytest.approx(fault, rel=1e-3)
    all_real = losses.segmentation_loss(logits, masks, label_smoothing=0.1).item()
    assert all_real == pytest.approx(oracle_loss(logits, masks, 3, 0.0), rel=1e-5)


def test_the_mean_is_over_pixels_and_not_over_samples(batch):
    logits, masks = batch
    masks[1] = VOID
    masks[1, 0, 0] = 2
    ours = losses.segmentation_loss(logits, masks, 3).item()
    per_sample = losses.per_sample_loss(logits, masks).mean().item()
    assert ours == pytest.approx(oracle_loss(logits, masks, 3, 0.0), rel=1e-5)
    assert ours != pytest.approx(per_sample, rel=1e-3)


def test_a_weight_of_real_over_synthetic_pixels_is_sum_times_the_real_share(batch):
    logits, masks = batch
    real, synthetic = int((masks[:3] != VOID).sum()), int((masks[3:] != VOID).sum())
    weighted = losses.segmentation_loss(logits, masks, 3, label_smoothing=0.1, synthetic_weight=real / synthetic)
    total = losses.segmentation_loss(logits, masks, 3, label_smoothing=0.1, synthetic_weight="sum")
    torch.testing.assert_close(weighted, total * real / (real + synthetic))


@pytest.mark.parametrize("form", ["dict", "logits", "tuple"])
def test_outputs_of_several_kinds(batch, form):
    logits, masks = batch
    aux = logits.flip(1)
    out = {"dict": {"out": logits, "aux": aux}, "logits": {"logits": logits}, "tuple": (logits, aux)}[form]
    expected = oracle_loss(logits, masks, 3, 0.1)
    if form != "logits":
        expected += 0.25 * oracle_loss(aux, masks, 3, 0.1)
    ours = losses.segmentation_loss(out, masks, 3, label_smoothing=0.1, aux_weight=0.25)
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_smaller_logits_are_resized(batch):
    logits, masks = batch
    small = logits[:, :, :2, :3]
    large = F.interpolate(small, (3, 6), mode="bilinear", align_corners=False)
    assert losses.segmentation_loss(small, masks, 3).item() == pytest.approx(oracle_loss(large, masks, 3, 0.0), rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, "sum"])
def test_all_void_is_zero_with_zero_gradient(weight):
    logits = torch.randn(3, 4, 2, 2, requires_grad=True)
    masks = torch.full((3, 2, 2), VOID)
    loss = losses.segmentation_loss(logits, masks, 2, label_smoothing=0.1, synthetic_weight=weight)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_single(batch):
    logits, masks = batch
    low = logits.bfloat16()
    loss = losses.segmentation_loss(low, masks, 3)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(oracle_loss(low.double(), masks, 3, 0.0), rel=1e-5)


def test_another_number_of_samples_is_an_error():
    with pytest.raises(ShapeError) as error:
        losses.segmentation_loss(torch.zeros(3, 4, 2, 2), torch.zeros(5, 2, 2, dtype=torch.long), 3)
    assert str(error.value) == (
        "segmentation_loss: logits and masks hold different numbers of samples.\n"
        "  given:   logits [3, 4, 2, 2] float32 on cpu, masks [5, 2, 2] int64 on cpu\n"
        "  needed:  one mask for each sample that the decoder saw\n"
        "Call the model inside `with mixer.on(...)`, or decode batch.features, not the real features alone."
    )


@pytest.mark.parametrize("out", ["logits", {"masks": torch.zeros(1)}, [], [1, 2]])
def test_no_logits_in_the_output_is_an_error(out):
    with pytest.raises(ShapeError, match=r"^feataug: cannot find the logits in the model's output\.\n  given: .*\n  needed: "):
        losses.segmentation_loss(out, torch.zeros(1, 2, 2, dtype=torch.long))


def test_per_sample_loss_is_each_samples_mean(batch):
    logits, masks = batch
    masks[4] = VOID
    expected = [oracle_pixels(logits[b : b + 1], masks[b : b + 1], 0.0) for b in range(5)]
    ours = losses.per_sample_loss(logits, masks)
    assert ours.tolist() == pytest.approx([sum(p) / len(p) if p else 0.0 for p in expected], rel=1e-5)
    assert ours[4] == 0


def test_lsgan_sums_the_scales_means(rng):
    scores = [torch.randn(2, 1, 3, 3, generator=rng), torch.randn(2, 1, 2, 2, generator=rng)]
    expected = sum(sum((v - 1.0) ** 2 for v in s.flatten().tolist()) / s.numel() for s in scores)
    assert losses.lsgan(scores, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert losses.lsgan([torch.full((2, 1, 2, 2), 0.5)] * 3, 0.5) == 0


def test_lsgan_has_a_target_for_each_part_of_a_batch(rng):
    scores = [torch.randn(4, 1, 3, 3, generator=rng), torch.randn(4, 2, generator=rng)]
    halves = [[score[:2] for score in scores], [score[2:] for score in scores]]
    expected = 0.5 * (losses.lsgan(halves[0], 1.0) + losses.lsgan(halves[1], 0.0))
    torch.testing.assert_close(losses.lsgan(scores, 1.0, 0.0), expected)
    assert not torch.isclose(losses.lsgan(scores, 0.0, 1.0), expected)


def test_kl_divergence_is_torchs(rng):
    mean, log_variance = torch.randn(6, 8, generator=rng), torch.randn(6, 8, generator=rng)
    ours = losses.kl_divergence(mean, log_variance)
    found = torch.distributions.Normal(mean, (log_variance / 2).exp())
    theirs = torch.distributions.kl_divergence(found, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(ours, theirs.sum(1).mean())
    assert losses.kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    # Our difference from BicycleGAN: the batch size does not matter.
    torch.testing.assert_close(losses.kl_divergence(mean.repeat(3, 1), log_variance.repeat(3, 1)), ours)


def test_reconstruction_is_the_mean_over_levels(rng):
    a = [torch.randn(2, 3, 4, 4, generator=rng), torch.randn(2, 5, 2, 2, generator=rng)]
    b = [torch.randn(2, 3, 4, 4, generator=rng), torch.randn(2, 5, 2, 2, generator=rng)]
    per_level = [
        sum(abs(x - y) for x, y in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True)) / p.numel()
        for p, q in zip(a, b, strict=True)
    ]
    assert losses.reconstruction(a, b).item() == pytest.approx(sum(per_level) / 2, rel=1e-5)


def test_mode_seeking_is_the_ratio_of_differences(rng):
    f1, f2 = ([torch.randn(3, 2, 4, 4, generator=rng), torch.randn(3, 4, 2, 2, generator=rng)] for _ in range(2))
    z1, z2 = torch.randn(3, 8, generator=rng), torch.randn(3, 8, generator=rng)
    expected = 0.0
    for b in range(3):
        apart = sum((p[b] - q[b]).abs().mean().item() for p, q in zip(f1, f2, strict=True)) / 2
        expected += (z1[b] - z2[b]).abs().mean().item() / (apart + 1e-5) / 3
    assert losses.mode_seeking(f1, f2, z1, z2).item() == pytest.approx(expected, rel=1e-5)
    farther = [p + 5 * (p - q) for p, q in zip(f1, f2, strict=True)]
    assert losses.mode_seeking(farther, f2, z1, z2) < losses.mode_seeking(f1, f2, z1, z2)
    assert losses.mode_seeking(f1, f1, z1, z2).isfinite()


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balanced_cross_entropy_weights_classes_by_a_power_of_their_inverse_area(balance):
    masks = torch.zeros(2, 8, 8, dtype=torch.long)
    masks[0, :2, :3], masks[1, 5, 5], masks[1, 7] = 1, 2, 255
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")
    areas = {k: int((masks == k).sum()) for k in (0, 1, 2)}
    weights = {k: area**-balance for k, area in areas.items()}
    total = sum(weights[k] * pixels[masks == k].sum() for k in areas)
    expected = total / sum(weights[k] * areas[k] for k in areas)
    assert losses.balanced_cross_entropy(logits, masks, balance).item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.balanced_cross_entropy(logits, torch.full_like(masks, 255), balance) == 0
