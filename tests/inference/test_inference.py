"""Scales, mirror images and windows: against loops over pixels in double precision, and with faults planted."""

import types

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import feataug
from feataug.errors import ConfigError, DtypeError, ShapeError
from feataug.inference import inference
from feataug.inference.inference import Inference, _cover, _starts
from feataug.models import PSPNet

PSPNET_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class Placed(nn.Module):
    """Depends on the colour and on where in the image it gets a pixel lies: it tells windows, mirror images and paddings apart."""

    def forward(self, images):
        rows, columns = images.shape[-2:]
        down = torch.linspace(-1, 2, rows, dtype=images.dtype)[:, None].expand(rows, columns)
        right = torch.linspace(-2, 1, columns, dtype=images.dtype).square().expand(rows, columns)
        first, second = images[:, 0], images[:, 1:].sum(1)
        return torch.stack([3 * first + down, second + right, first * right, second - down], 1)


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


def draw_images(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


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
        ("side - window]", "side - window - 1]"),  # the last window one pixel too early
        ("range(0, side - window, stride), side", "range(stride, side - window, stride), side"),  # the first one left out
        (
            ", left : left + width] for n",
            ", left - (left > 0) : left + width - (left > 0)] for n",
        ),  # not from where its output is put
        ("self._slide(scaled.flip(-1)).flip(-1)", "self._slide(scaled.flip(-1))"),  # a mirror image that is not mirrored back
        ("self._slide(scaled.flip(-1)).flip(-1)", "self._slide(scaled).flip(-1)"),
        ("total /= _cover(tops, height, total)[:, None] * _cover(lefts, width, total)", "total /= len(tops) * len(lefts)"),
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
    starts = _starts(side, window, stride)
    assert starts == sorted(set(starts))
    assert (starts[0], starts[-1]) == (0, side - window)
    counts = [sum(start <= place < start + window for start in starts) for place in range(side)]
    assert min(counts) >= 1
    assert _cover(starts, window, torch.zeros(())).tolist() == counts


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
    # _cover takes the last start for the rightmost one.
    monkeypatch.setattr(inference, "_starts", lambda *a: (lambda s: [*s[-2::-1], s[-1]])(_starts(*a)))
    torch.testing.assert_close(predict(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [None, (32, 48), (64, 64)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 1)])
def test_images_of_a_single_row_or_pixel(size, window):
    images = draw_images(0, 1, 3, *size)
    found = Inference(Placed(), scales=(0.5, 1.0, 1.75), flip=True, window=window)(images)
    assert found.shape == (1, 4, *size)
    assert bool(found.isfinite().all())


class Watched(nn.Module):
    """Notes what it gets, and returns logits of a given kind."""

    def __init__(self, wrap=lambda logits: logits):
        super().__init__()
        self.conv, self.wrap, self.seen = nn.Conv2d(3, 2, 1), wrap, []

    def forward(self, images):
        assert not torch.is_grad_enabled()
        self.seen.append(images)
        return self.wrap(self.conv(images))


def test_padding_is_zero_on_both_sides():
    model = Watched()
    Inference(model, window=(5, 8))(torch.ones(1, 3, 4, 3))
    (crop,) = model.seen
    assert crop.shape == (1, 3, 5, 8)
    assert bool((crop[..., :4, 2:5] == 1).all())
    assert float(crop.sum()) == 3 * 4 * 3


def test_no_more_crops_at_once_than_asked_for_and_none_twice():
    images = draw_images(0, 2, 3, 12, 12)
    for batch_size, expected in ((None, [2] * 8), (3, [3, 3, 2] * 2), (100, [8, 8])):
        model = Watched()
        Inference(model, flip=True, window=(8, 8), batch_size=batch_size)(images)
        assert [len(crops) for crops in model.seen] == expected
        assert {tuple(crops.shape[1:]) for crops in model.seen} == {(3, 8, 8)}
        assert len(torch.cat(model.seen).flatten(1).unique(dim=0)) == sum(expected)


def test_the_stride_is_two_thirds_of_the_window():
    assert Inference(Watched(), window=(713, 473)).stride == (476, 316)
    assert Inference(Watched(), window=(1, 2)).stride == (1, 2)
    assert Inference(Watched(), window=[6, 9], stride=[6, 1]).stride == (6, 1)


def test_sizes_are_rounded_up_to_the_divisor():
    model = Watched()
    Inference(model, scales=(0.75, 1.0), divisor=8)(torch.ones(1, 3, 12, 40))
    assert [tuple(crops.shape[-2:]) for crops in model.seen] == [(16, 32), (16, 40)]
    assert [float(crops.sum()) for crops in model.seen] == pytest.approx([3 * 9 * 30, 3 * 12 * 40])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_model_gets_the_dtype_and_memory_format_of_the_images(dtype, memory_format):
    model = Watched().to(dtype)
    images = draw_images(0, 2, 3, 9, 11, dtype=dtype).contiguous(memory_format=memory_format)
    kept = images.clone()
    for window in (None, (4, 16)):
        found = Inference(model, scales=(0.5, 1.0, 1.5), flip=True, window=window)(images)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found.is_contiguous()
    assert all(crops.dtype == dtype and crops.is_contiguous(memory_format=memory_format) for crops in model.seen)
    assert torch.equal(images, kept)
    expected = model.conv.double()(kept.double()).log_softmax(1)
    found = Inference(model.to(dtype))(images)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol={torch.float16: 5e-3, torch.bfloat16: 4e-2}.get(dtype, 1e-5))


def test_half_precision_does_not_add_up():
    # Up to 200 windows hold a pixel: in bfloat16 the sum of their probabilities would stop growing before its end.
    model = nn.Conv2d(3, 2, 1).bfloat16()
    images = draw_images(0, 1, 3, 1, 400, dtype=torch.bfloat16)
    found = Inference(model, window=(1, 200), stride=(1, 1))(images)
    torch.testing.assert_close(found, Inference(model)(images), rtol=0, atol=1e-5)


def test_under_autocast_means_are_float32():
    model = Watched()
    images = draw_images(0, 1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = Inference(model, scales=(0.5, 1.0), flip=True, window=(4, 4))(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, Inference(model, scales=(0.5, 1.0))(images), rtol=0, atol=3e-2)


@pytest.mark.parametrize(
    "wrap",
    [lambda x: {"out": x, "aux": x[:, :1]}, lambda x: {"logits": x}, lambda x: (x, x), lambda x: x],
    ids=["torchvision", "transformers", "sequence", "tensor"],
)
def test_any_output_with_logits_will_do(wrap):
    images, model = draw_images(0, 2, 3, 8, 6), Watched(wrap)
    expected = model.conv(images).log_softmax(1)
    torch.testing.assert_close(Inference(model, window=(8, 6))(images), expected.detach(), rtol=0, atol=1e-6)


def test_small_logits_are_resized_before_the_softmax():
    model = nn.Conv2d(3, 4, 4, stride=4)
    images = draw_images(0, 1, 3, 16, 24)
    logits = F.interpolate(model(images), (16, 24), mode="bilinear", align_corners=False).detach()
    torch.testing.assert_close(Inference(model)(images), logits.log_softmax(1), rtol=0, atol=1e-6)


def test_a_window_of_the_image_s_size_gives_the_plain_prediction():
    torch.manual_seed(0)
    model = PSPNet("resnet10t", 6, width=8, auxiliary=True, encoder_kwargs={"channels": (8, 8, 16, 16), "stem_width": 8})
    model.encoder.train()
    model.head.eval()  # a part with a mode of its own
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = draw_images(0, 2, 3, 40, 56)
    found = [
        Inference(model)(images),
        Inference(model, window=(40, 56))(images),
        Inference(model, window=(40, 56), batch_size=1)(images),
    ]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    plain = model.eval()(images).log_softmax(1).detach()
    for each in found:
        torch.testing.assert_close(each, plain, rtol=0, atol=2e-6)
        assert torch.equal(each.argmax(1), plain.argmax(1))


def test_classes_that_nothing_speaks_for_stay_finite():
    images = torch.zeros(1, 3, 4, 4)
    found = Inference(lambda x: torch.cat([x[:, :1], x[:, :1] - 1000], 1))(images)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.softmax(1)[:, 1], torch.zeros(1, 4, 4))


def test_evaluate_and_pseudo_masks_take_it_for_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(3, 3, 3, padding=1)).train()
    images = draw_images(0, 2, 3, 12, 16)
    predict = Inference(model, scales=(0.75, 1.25), flip=True, window=(10, 10))
    mean = predict(images).exp()
    loader = [(images, mean.argmax(1))]
    assert feataug.evaluate(predict, loader, 3)["pixel_acc"] == 100.0
    assert feataug.evaluate(model, loader, 3)["pixel_acc"] < 100.0
    assert [module.training for module in predict.modules()] == [True] * 5
    level = float(mean.max(1).values.median())
    sure = mean.max(1).values > level
    masks = torch.stack(feataug.pseudo_masks(predict, [images], threshold=level))
    assert torch.equal(masks[sure], mean.argmax(1)[sure])
    # Logits of the mean: a second softmax of probabilities would make none of three classes that sure.
    (mask, _) = feataug.pseudo_masks(Inference(lambda x: 9 * x), [images], threshold=0.9)
    assert mask.unique().tolist() != [255]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"scales": ()},
            "ConfigError: Inference: scales are empty.\n  given:   ()\n  needed:  one or more factors, such as (1.0,)",
        ),
        (
            {"scales": 0.5},
            "ConfigError: Inference: scales is no sequence.\n  given:   float 0.5\n"
            "  needed:  one or more factors, such as (0.75, 1.0, 1.25)",
        ),
        (
            {"scales": (1.0, 0.0)},
            "ConfigError: Inference: one of scales is out of range.\n  given:   0.0\n  needed:  a number in (0, 16]",
        ),
        (
            {"scales": (75, 100)},
            "ConfigError: Inference: one of scales is out of range.\n  given:   75\n  needed:  a number in (0, 16]",
        ),
        (
            {"window": (713, 0)},
            "ShapeError: Inference: window is no size.\n  given:   tuple (713, 0)\n"
            "  needed:  rows and columns, such as (512, 1024)",
        ),
        (
            {"window": 713},
            "ShapeError: Inference: window is no size.\n  given:   int 713\n  needed:  rows and columns, such as (512, 1024)",
        ),
        (
            {"window": (8, 8), "stride": (2.5, 4)},
            "ShapeError: Inference: stride is no size.\n  given:   tuple (2.5, 4)\n"
            "  needed:  rows and columns, such as (512, 1024)",
        ),
        (
            {"window": (8, 8), "stride": (8, 9)},
            "ConfigError: Inference: stride leaves gaps between the windows.\n  given:   stride=(8, 9), window=(8, 8)\n"
            "  needed:  rows and columns of at most the window's",
        ),
        (
            {"stride": (8, 8)},
            "ConfigError: Inference: stride without a window.\n  given:   stride=(8, 8)\n  needed:  window, or neither of them",
        ),
        (
            {"window": (8, 8), "divisor": 4},
            "ConfigError: Inference: divisor and window contradict each other.\n  given:   window=(8, 8), divisor=4\n"
            "  needed:  one of them: with a window, the model gets no other size",
        ),
        (
            {"flip": "no"},
            "ConfigError: Inference: flip is no truth value.\n  given:   str 'no'\n  needed:  True or False",
        ),
        (
            {"divisor": 0},
            "ConfigError: Inference: divisor is out of range.\n  given:   0\n  needed:  an integer in [1, inf)",
        ),
        (
            {"batch_size": 0},
            "ConfigError: Inference: batch_size is out of range.\n  given:   0\n  needed:  an integer in [1, inf)",
        ),
        (
            {"model": "resnet50"},
            "ConfigError: Inference: model cannot be called.\n  given:   str 'resnet50'\n  needed:  images to logits",
        ),
    ],
)
def test_refuses_settings(arguments, text):
    with pytest.raises((ConfigError, ShapeError)) as error:
        Inference(**{"model": nn.Conv2d(3, 2, 1)} | arguments)
    assert f"{error.type.__name__}: {error.value}" == text


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            torch.zeros(3, 8, 8),
            "ShapeError: Inference: images have the wrong shape.\n  given:   [3, 8, 8] float32 on cpu\n"
            "  needed:  (B, C, H, W), none of them zero",
        ),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            "DtypeError: Inference: images must be a floating point tensor.\n  given:   [2, 3, 8, 8] uint8 on cpu\n"
            "  needed:  (B, C, H, W) float",
        ),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.float64),
            "DtypeError: Inference: images are of another type than the model.\n  given:   [2, 3, 8, 8] float64 on cpu\n"
            "  needed:  float32\nConvert them by .to(dtype), or run under torch.autocast.",
        ),
    ],
)
def test_refuses_what_are_no_images(images, text):
    with pytest.raises((DtypeError, ShapeError)) as error:
        Inference(nn.Conv2d(3, 2, 1))(images)
    assert f"{error.type.__name__}: {error.value}" == text


def test_refuses_what_are_no_logits():
    images = torch.zeros(2, 3, 8, 8)
    for model in (lambda x: x.argmax(1), lambda x: x[:1], lambda x: x.sum((2, 3)), lambda x: {"out": None}):
        with pytest.raises(ShapeError) as error:
            Inference(model)(images)
        assert str(error.value).startswith("Inference: the model's output is no logits.\n  given:   ")
        assert str(error.value).endswith("\n  needed:  (2, K, h, w) float")
    model = nn.Conv2d(3, 1, 1)
    with pytest.raises(ShapeError) as error:
        Inference(model)(images)
    assert str(error.value) == (
        "Inference: the model's output has a single class, whose probability is always 1.\n"
        "  given:   [2, 1, 8, 8] float32 on cpu\n"
        "  needed:  logits of two classes or more, for a softmax\n"
        "If it is meant for a sigmoid, put zeros before it as the logits of the background:\n"
        "Inference(nn.Sequential(model, nn.ZeroPad3d((0, 0, 0, 0, 1, 0))))"
    )
    # What the message says is right.
    images = draw_images(0, 2, 3, 8, 8)
    found = Inference(nn.Sequential(model, nn.ZeroPad3d((0, 0, 0, 0, 1, 0))))(images)
    torch.testing.assert_close(found[:, 1:].exp(), model(images).sigmoid().detach())


def test_after_an_error_each_part_is_back_in_its_mode():
    model = Watched(lambda logits: logits.argmax(1)).train()
    with pytest.raises(ShapeError):
        Inference(model)(torch.zeros(1, 3, 8, 8))
    assert all(module.training for module in model.modules())
