"""Settings, images and outputs that ``Inference`` refuses, with the whole text of each error."""

import pytest
import torch
from torch import nn

from feataug.errors import ConfigError, DtypeError, ShapeError
from feataug.inference.inference import Inference
from tests.support.predictors import Watched, draw_images


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
            "  needed:  one of them: with a window, the model always gets the window's size",
        ),
        (
            {"flip": "no"},
            "ConfigError: Inference: flip is not a boolean.\n  given:   str 'no'\n  needed:  True or False",
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
            "ConfigError: Inference: model is not callable.\n  given:   str 'resnet50'\n  needed:  images to logits",
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
        "If the logits are meant for a sigmoid, prepend zeros as the logits of the background:\n"
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
