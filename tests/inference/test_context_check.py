"""Whole images against windows: the warning of ``evaluate``."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

from feataug import (
    FinetuneConfig,
    Finetuner,
    Inference,
    evaluate,
)
from feataug.core.crop_sizes import note_size
from feataug.errors import FeatAugWarning, ShapeError
from tests.support.one_hot_images import CLASSES, pairs


class ByContext(nn.Module):
    """Repeats what the images say, but for columns that it does not know: of those it makes class 0."""

    def __init__(self, known=16, gain=1.0):
        super().__init__()
        self.known, self.gain, self.weight = known, gain, nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, images):
        self.seen.append((self.training, *images.shape))
        torch.rand(3)  # as a model that draws in eval mode, too
        bias = torch.tensor([self.gain * abs(images.shape[-1] - self.known), 0.0, 0.0])
        return images + bias[:, None, None] + self.weight


TEXT = (
    "evaluate: the model does worse on whole images than with windows of the size of its training crops: mIoU 11.08 on whole images of "
    "24 x 32, 100.00 with windows of 16 x 16 (12 images compared). Its predictions depend on the image size. Evaluate "
    "feataug.Inference(model, window=(16, 16)), let feataug.fit_inference decide on training images, or train on larger crops."
)


def test_worse_on_whole_images_is_said_once():
    model = ByContext().train()
    note_size(model, (16, 16))
    with pytest.warns(FeatAugWarning) as found:
        figures = evaluate(model, pairs(), CLASSES)
    assert [str(one.message) for one in found] == [TEXT]
    assert found[0].filename == __file__
    assert figures["miou"] == pytest.approx(11.08, abs=0.005)
    assert model.training
    assert not any(training for training, *_ in model.seen)


def test_figures_and_random_numbers_are_those_without_the_check():
    model = ByContext(gain=0.01)
    results, drawn = [], []
    for crop_size in ((16, 16), None):
        torch.manual_seed(0)
        results.append(evaluate(model, pairs(), CLASSES, crop_size=crop_size))
        drawn.append(torch.rand(2))
    assert results[0] == results[1]
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("predict", "options"),
    [
        (ByContext(), {}),  # nothing noted
        (ByContext(), {"crop_size": None}),
        (ByContext(), {"crop_size": (24, 32)}),  # not larger
        (ByContext(), {"crop_size": (40, 32)}),
        (lambda images: ByContext()(images), {"crop_size": (16, 16)}),
        (Inference(ByContext()), {"crop_size": (16, 16)}),
        (ByContext(known=32), {"crop_size": (16, 16)}),  # windows would be worse
        (nn.Conv2d(3, CLASSES, 1), {"crop_size": (16, 16)}),  # no context
    ],
)
def test_where_nothing_is_said(predict, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isfinite(evaluate(predict, pairs(), CLASSES, **options)["miou"])


class Classes(ByContext):
    def forward(self, images):
        return super().forward(images).argmax(1)


def test_predicted_classes_are_taken_as_they_are():
    assert math.isfinite(evaluate(Classes(), pairs(), CLASSES, crop_size=(16, 16))["miou"])


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        for images, masks in pairs():
            yield from zip(images, masks, strict=True)


def test_a_stream_without_a_length_is_compared_from_its_beginning():
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    with pytest.raises(TypeError):
        len(loader)
    with pytest.warns(FeatAugWarning, match=re.escape(TEXT)):
        evaluate(ByContext(), loader, CLASSES, crop_size=(16, 16))


def test_a_direction_is_enough_and_a_short_side_is_padded():
    for size in ((16, 32), (8, 32)):
        with pytest.warns(FeatAugWarning, match=f"whole images of {size[0]} x 32, 100.00 with windows of 16 x 16"):
            evaluate(ByContext(), pairs(size=size), CLASSES, crop_size=(16, 16))


@pytest.mark.parametrize(("batches", "of", "expected"), [(2, 4, 8), (100, 3, 25), (40, 5, 20), (1, 50, 32), (5, 8, 30)])
def test_a_bounded_number_of_images_is_compared_evenly(batches, of, expected):
    loader = pairs(batches, of=of)
    for listed in (True, False):
        model = ByContext(gain=0)
        evaluate(model, loader if listed else iter(loader), CLASSES, crop_size=(16, 16))
        # Two rows of three windows, with a stride of 11.
        crops = [shape for _, *shape in model.seen if shape[-2:] == [16, 16]]
        whole = [shape for _, *shape in model.seen if shape[-2:] == [24, 32]]
        assert len(whole) == batches
        compared = sum(shape[0] for shape in crops) // 6
        assert compared <= 32
        if listed:
            assert compared == expected
        # Evenly: the last third of the batches was looked at, too.
        order = [shape[-1] == 16 for _, *shape in model.seen]
        if listed and batches > 2:
            assert any(order[2 * len(order) // 3 :])


def test_the_last_measurement_of_a_training_alone_looks(tiny_net):
    loader = [(images, masks) for images, masks in pairs(size=(16, 16))]

    class Trained(ByContext):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, CLASSES, 1)
            with torch.no_grad():
                self.head.weight.copy_(torch.eye(3)[..., None, None])
                self.head.bias.zero_()

        def forward(self, images):
            return super().forward(self.head(images))

    def run(**options):
        model = Trained()
        config = FinetuneConfig(num_steps=3, lr=0.0, eval_every=1)
        Finetuner(model, config, device="cpu", progress=False).fit(loader, pairs(), num_classes=CLASSES, **options)
        return model

    with pytest.warns(FeatAugWarning, match="11.08 on whole images") as found:
        model = run()
    assert len(found) == 1
    assert len([1 for _, *shape in model.seen if shape[-2:] == [16, 16]]) == 3 + 3 * 6
    run(crop_size=None)
    with pytest.warns(FeatAugWarning, match="with windows of 16 x 16"):
        evaluate(model, pairs(), CLASSES)


def test_a_crop_size_that_is_none():
    for wrong in ((16,), "big", 5, (0, 4)):
        with pytest.raises(ShapeError) as error:
            evaluate(ByContext(), pairs(), CLASSES, crop_size=wrong)
        assert str(error.value).startswith("evaluate: crop_size is no size.\n")
    assert str(error.value) == (
        "evaluate: crop_size is no size.\n  given:   tuple (0, 4)\n  needed:  rows and columns, such as (512, 1024)"
    )
