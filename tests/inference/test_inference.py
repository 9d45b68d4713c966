"""Scales, mirror images and windows: against loops over pixels in double precision, and with faults planted."""

import types

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feataug.core import windows
from feataug.inference import inference
from feataug.inference.inference import Inference, _window_counts
from tests.support.predictors import Placed, draw_images

PSPNET_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def crop_by_crop(model, image, window, stride):
    """Mean softmax at each pixel of one image ``(C, H, W)``, in float64: for every pixel, a loop over all windows that hold it."""
    rows, columns = image.shape[-2:]
    height, width = window
    above, before = max(height - rows, 0) // 2, max(width - columns, 0) // 2
    padded = image.new_zeros(len(image), max(height, rows), max(width, columns))
    padded[:, above : above + rows, before : before + columns] = image

    def begins(side, size, step):
        # As mmsegmentation counts them.
        return [min(i * step, side - size) for i in range(max(side - size + step - 1, 0) // step + 1)]

    outputs = {
        (top, left): model(padded[None, :, top : top + height, left : left + width])[0].double().softmax(0)
        for top in begins(padded.shape[1], height, stride[0])
        for left in begins(padded.shape[2], width, stride[1])
    }
    mean = []
    for y in range(above, above + rows):
        for x in range(before, before + columns):
            seen = [
                out[:, y - top, x - left]
                for (top, left), out in outputs.items()
                if top <= y < top + height and left <= x < left + width
            ]
            mean.append(torch.stack(seen).sum(0) / len(seen))
    return torch.stack(mean, 1).reshape(-1, rows, columns)


def oracle(model, images, scales, flip, window, stride):
    size = images.shape[-2:]
    means = []
    for scale in scales:
        scaled = [max(1, round(scale * side)) for side in size]
        views = F.interpolate(images, scaled, mode="bilinear", align_corners=False, antialias=True)
        for mirrored in (False, True) if flip else (False,):
            found = torch.stack(
                [
                    crop_by_crop(model, view.flip(-1) if mirrored else view, window or scaled, stride or window or scaled)
                    for view in views
                ]
            )
            found = found.flip(-1) if mirrored else found
            means.append(F.interpolate(found, size, mode="bilinear", align_corners=False))
    return torch.stack(means).mean(0)


@st.composite
def cases(draw):
    side = st.integers(1, 11)
    window = draw(st.none() | st.tuples(st.integers(1, 8), st.integers(1, 8)))
    stride = window and draw(st.tuples(st.integers(1, window[0]), st.integers(1, window[1])))
    return {
        "shape": (draw(st.integers(1, 2)), 3, draw(side), draw(side)),
        "scales": tuple(draw(st.lists(st.sampled_from(PSPNET_SCALES), min_size=1, max_size=3))),
        "flip": draw(st.booleans()),
        "window": window,
        "stride": stride,
        "batch_size": draw(st.none() | st.integers(1, 5)),
    }


def agrees(shape, batch_size, seed=0, module=inference, **arguments):
    images = draw_images(seed, *shape)
    found = module.Inference(Placed(), batch_size=batch_size, **arguments)(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().double(), oracle(Placed(), images, **arguments), rtol=0, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**31))
def test_the_mean_is_that_of_loops_over_pixels(case, seed):
    agrees(**case, seed=seed)


HARD = {"shape": (2, 3, 11, 10), "scales": (0.75, 1.0), "flip": True, "window": (5, 4), "stride": (3, 3), "batch_size": 3}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            ", left : left + width] for n",
            ", left - (left > 0) : left + width - (left > 0)] for n",
        ),  # not from where its output is put
        ("self._slide(scaled.flip(-1)).flip(-1)", "self._slide(scaled.flip(-1))"),  # a mirror image that is not mirrored back
        ("self._slide(scaled.flip(-1)).flip(-1)", "self._slide(scaled).flip(-1)"),
        (
            "total /= _window_counts(tops, height, total)[:, None] * _window_counts(lefts, width, total)",
            "total /= len(tops) * len(lefts)",
        ),
        (
            "total[n, :, top : top + height, left : left + width] += one",
            "total[n, :, top : top + height, left : left + width] = one",
        ),
        ("len(self.scales) * (1 + self.flip)", "len(self.scales)"),
        ("images.shape[-2:]).softmax(1)", "images.shape[-2:])"),
        ("antialias=True", "antialias=False"),
    ],
)
def test_planted_faults_are_found(right, wrong):
    agrees(**HARD)
    with open(inference.__file__) as file:
        source = file.read()
    assert source.count(right) == 1
    broken = types.ModuleType("broken")
    exec(compile(source.replace(right, wrong), "broken", "exec"), broken.__dict__)
    with pytest.raises((AssertionError, RuntimeError)):
        agrees(**HARD, module=broken)


@pytest.mark.parametrize(
    "starts",
    [
        lambda side, window, stride: [*range(0, side - window, stride), side - window - 1],  # the last window one pixel too early
        lambda side, window, stride: [*range(stride, side - window, stride), side - window],  # the first one left out
    ],
)
def test_windows_in_the_wrong_places_are_found(monkeypatch, starts):
    monkeypatch.setattr(inference, "window_starts", starts)
    with pytest.raises((AssertionError, RuntimeError)):
        agrees(**HARD)


def test_padding_on_one_side_only_is_found():
    small = HARD | {"shape": (1, 3, 3, 2), "window": (6, 6)}
    agrees(**small)
    broken = types.ModuleType("broken")
    with open(inference.__file__) as file:
        exec(
            compile(file.read().replace("above, before = missing[0] // 2, missing[1] // 2", "above, before = 0, 0"), "", "exec"),
            vars(broken),
        )
    with pytest.raises(AssertionError):
        agrees(**small, module=broken)


@given(st.integers(1, 300), st.integers(1, 100), st.data())
def test_windows_lie_inside_and_cover_each_place(side, window, data):
    side = max(side, window)
    stride = data.draw(st.integers(1, window))
    starts = windows.window_starts(side, window, stride)
    assert starts == sorted(set(starts))
    assert (starts[0], starts[-1]) == (0, side - window)
    counts = [sum(start <= place < start + window for start in starts) for place in range(side)]
    assert min(counts) >= 1
    assert _window_counts(starts, window, torch.zeros(())).tolist() == counts


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 2**31))
def test_probabilities_sum_to_one_and_are_the_softmax(case, seed):
    images = draw_images(seed, *case.pop("shape"))
    found = Inference(Placed(), **case)(images)
    assert found.shape == (len(images), 4, *images.shape[-2:])
    torch.testing.assert_close(found.exp().sum(1), torch.ones(()).expand(found[:, 0].shape), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.softmax(1), found.exp(), rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 2**31))
def test_the_mirror_image_gives_the_mirror_image(case, seed):
    images = draw_images(seed, *case.pop("shape"))
    predict = Inference(Placed(), **case | {"flip": True})
    there, back = predict(images), predict(images.flip(-1)).flip(-1)
    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-5)
    at_one = Inference(Placed(), **case | {"flip": True, "scales": (1.0,)})
    assert torch.equal(at_one(images), at_one(images.flip(-1)).flip(-1))
    assert case["scales"] != (1.0,) or torch.equal(there, back)


def test_without_flip_the_mirror_image_gives_another():
    images = draw_images(0, 1, 3, 6, 7)
    predict = Inference(Placed())
    assert not torch.allclose(predict(images), predict(images.flip(-1)).flip(-1), atol=0.1)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 2**31))
def test_where_only_the_pixel_counts_windows_change_nothing(case, seed):
    images = draw_images(seed, *case.pop("shape"))
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 1)
    whole = Inference(model, scales=case["scales"])(images)
    torch.testing.assert_close(Inference(model, **case)(images), whole, rtol=0, atol=1e-5)


def test_the_order_of_windows_does_not_matter(monkeypatch):
    images = draw_images(0, 2, 3, 13, 17)
    predict = Inference(Placed(), scales=(0.75, 1.25), window=(5, 6), stride=(2, 5), flip=True)
    expected = predict(images)

    def reversed_starts(*sizes):
        *others, last = windows.window_starts(*sizes)
        return [*others[::-1], last]  # _window_counts expects the rightmost start at the end

    monkeypatch.setattr(inference, "window_starts", reversed_starts)
    torch.testing.assert_close(predict(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [None, (32, 48), (64, 64)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 1)])
def test_images_of_a_single_row_or_pixel(size, window):
    images = draw_images(0, 1, 3, *size)
    found = Inference(Placed(), scales=(0.5, 1.0, 1.75), flip=True, window=window)(images)
    assert found.shape == (1, 4, *size)
    assert bool(found.isfinite().all())
