"""What the model gets from ``Inference``: crops, paddings, sizes, dtypes; and who takes ``Inference`` for a model."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.inference.inference import Inference
from feataug.models import PSPNet
from tests.support.predictors import Watched, draw_images


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
