"""Convolution of label maps: lookups against a loop over pixels and taps, and against one-hot codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feataug.generation.layers import label_conv
from feataug.generation.layers.label_conv import LabelConv2d, label_conv2d, label_convs2d

K = 4


def label_conv_oracle(layer: LabelConv2d, labels):
    """Each tap inside the image adds the weight of the class that it sees."""
    size, reach = layer.weight.shape[-1], layer.dilation * (layer.weight.shape[-1] // 2)
    batch, rows, columns = labels.shape
    result = []
    for b in range(batch):
        for y in range(0, rows, layer.stride):
            for x in range(0, columns, layer.stride):
                total = layer.bias.clone()
                for i in range(size):
                    for j in range(size):
                        v, u = y + i * layer.dilation - reach, x + j * layer.dilation - reach
                        if 0 <= v < rows and 0 <= u < columns:
                            total = total + layer.weight[:, int(labels[b, v, u]), i, j]
                result.append(total)
    shape = (batch, -(-rows // layer.stride), -(-columns // layer.stride), -1)
    return torch.stack(result).view(shape).permute(0, 3, 1, 2)


def draw(kind, rows, columns, classes=K + 1, batch=2):
    """Every pixel of its own, or regions whose inside is looked up at once."""
    if kind == "noise":
        return torch.randint(classes, (batch, rows, columns))
    if kind == "one class":
        return torch.full((batch, rows, columns), classes - 1)
    labels = torch.zeros(batch, rows, columns, dtype=torch.long)
    labels[:, rows // 3 :, columns // 2 :] = 1
    labels[-1, : rows // 4] = classes - 1
    return labels


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5]), st.integers(1, 3), st.integers(1, 4),
    st.sampled_from(["noise", "regions", "one class"]), st.integers(0, 99),
)  # fmt: skip
def test_every_tap_adds_its_labels_row(rows, columns, kernel, stride, dilation, kind, seed):
    torch.manual_seed(seed)
    layer = LabelConv2d(K, 3, kernel, stride=stride, dilation=dilation).double()
    nn.init.normal_(layer.bias)
    labels = draw(kind, rows, columns)
    fast, slow = layer(labels), label_conv_oracle(layer, labels)
    torch.testing.assert_close(fast, slow)
    grad = torch.randn_like(fast)
    for ours, theirs in zip(*(torch.autograd.grad(out, list(layer.parameters()), grad) for out in (fast, slow)), strict=True):
        torch.testing.assert_close(ours, theirs)


def one_hot_conv(labels, weight, bias, stride, dilation):
    code = F.one_hot(labels, weight.shape[1]).permute(0, 3, 1, 2).to(weight.dtype)
    return F.conv2d(code, weight, bias, stride, dilation * (weight.shape[-1] // 2), dilation)


def relative(found, expected):
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("kind", ["noise", "regions"])
def test_errors_stay_within_rounding(kind, dtype, bound):
    torch.manual_seed(0)
    labels = draw(kind, 64, 96, classes=151)
    weight, bias = torch.randn(32, 151, 3, 3, dtype=torch.float64), torch.randn(32, dtype=torch.float64)
    grad = torch.randn(2, 32, 32, 48, dtype=torch.float64)
    results = []
    for own, function in ((dtype, label_conv2d), (torch.float64, one_hot_conv)):
        parameters = [weight.to(own).requires_grad_(), bias.to(own).requires_grad_()]
        out = function(labels, *parameters, stride=2, dilation=1)
        assert out.dtype == own
        results.append([out.detach(), *torch.autograd.grad(out, parameters, grad.to(own))])
    for found, expected in zip(*results, strict=True):
        assert relative(found, expected) < bound


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 3), st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from(["noise", "regions", "one class"]), st.sampled_from([1, 2, 128]), st.sampled_from([1, 100, 2**20]), st.integers(0, 99),
)  # fmt: skip
def test_convolutions_of_one_map_are_what_each_computes_alone(rows, columns, kernel, stride, dilations, kind, piece, budget, seed):
    """Also with labels that no pixel has, with taps outside the map, with short pieces, and with one tap at a time."""
    torch.manual_seed(seed)
    layers = [LabelConv2d(K, 3, kernel, stride=stride, dilation=dilation).double() for dilation in dilations]
    labels, parameters = draw(kind, rows, columns), [parameter for layer in layers for parameter in layer.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_conv, "PIECE", piece)
        patch.setattr(label_conv, "ROWS_AT_ONCE", budget)
        fast = label_convs2d(labels, [layer.weight for layer in layers], [layer.bias for layer in layers], stride=stride, dilations=dilations)
        slow = torch.cat([label_conv_oracle(layer, labels) for layer in layers], dim=1)
        torch.testing.assert_close(fast, slow)
        grad = torch.randn_like(fast)
        for ours, theirs in zip(*(torch.autograd.grad(out, parameters, grad) for out in (fast, slow)), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("budget", [1, 2 * 24 + 1, 10**6])
def test_the_budget_decides_how_many_taps_are_summed_at_once(budget, monkeypatch):
    """One tap, two of nine, so that the last group is smaller, and all; pixels are sorted once."""
    monkeypatch.setattr(label_conv, "ROWS_AT_ONCE", budget)
    sums, sorts = label_conv._Segments.sums, label_conv._Segments.of
    calls = []
    monkeypatch.setattr(label_conv._Segments, "sums", lambda *given: calls.append("sums") or sums(*given))
    monkeypatch.setattr(label_conv._Segments, "of", lambda *given: calls.append("sort") or sorts(*given))
    LabelConv2d(K, 3)(draw("noise", 3, 4)).sum().backward()
    assert calls == ["sort", *["sums"] * {1: 9, 2 * 24 + 1: 5, 10**6: 1}[budget]]


@pytest.mark.parametrize("classes", [64, 65, 9_000])
def test_keys_of_every_width_are_sorted_right(classes):
    """Four phases of 64 labels fill a byte, those of 65 do not, those of 9,000 do not fit into two bytes."""
    torch.manual_seed(0)
    # With the padding, which has a label of its own.
    labels = torch.randint(classes - 1, (1, 24, 24))
    labels[0, -1, -1] = classes - 2
    weight, bias = torch.randn(2, classes - 1, 3, 3, requires_grad=True), torch.randn(2, requires_grad=True)
    fast, slow = label_conv2d(labels, weight, bias, stride=2), one_hot_conv(labels, weight, bias, 2, 1)
    torch.testing.assert_close(fast, slow)
    for ours, theirs in zip(*(torch.autograd.grad(out.square().sum(), [weight, bias]) for out in (fast, slow)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["noise", "regions", "one class"])
def test_a_gpu_finds_the_same(kind):
    torch.manual_seed(0)
    labels, layer = draw(kind, 64, 96), LabelConv2d(K, 20, stride=2, dilation=2).double()
    results = []
    for device in ("cpu", "cuda"):
        layer.to(device).zero_grad()
        out = layer(labels.to(device))
        out.square().sum().backward()
        results.append([out.detach().cpu(), layer.weight.grad.cpu(), layer.bias.grad.cpu()])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_result_is_channels_last_and_follows_autocast():
    layer, labels = LabelConv2d(K, 8), draw("regions", 12, 12)
    assert layer(labels).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(labels)
    assert half.dtype == torch.bfloat16
    assert relative(half, layer(labels)) < 2e-2
    half.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_no_mask_at_all():
    layer = LabelConv2d(K, 3, stride=2)
    out = layer(torch.zeros(0, 6, 8, dtype=torch.long))
    assert out.shape == (0, 3, 3, 4)
    out.sum().backward()
    assert not layer.weight.grad.any()


def test_more_classes_than_a_short_integer_counts():
    torch.manual_seed(0)
    labels = torch.randint(40_000, (1, 12, 12))
    weight, bias = torch.randn(2, 40_000, 3, 3, requires_grad=True), torch.randn(2, requires_grad=True)
    fast, slow = label_conv2d(labels, weight, bias), one_hot_conv(labels, weight, bias, 1, 1)
    torch.testing.assert_close(fast, slow)
    for ours, theirs in zip(*(torch.autograd.grad(out.square().sum(), [weight, bias]) for out in (fast, slow)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
