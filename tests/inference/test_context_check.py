"""Whole images against windows: the warning of evaluate, and recognition by windows against a slow loop."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

from feataug import (
    FeatureGenerator,
    FinetuneConfig,
    Finetuner,
    GeneratorConfig,
    GeneratorTrainer,
    Inference,
    evaluate,
    recognition,
    split,
    stages,
)
from feataug.core.crop_sizes import note_size
from feataug.core.windows import tiles
from feataug.errors import FeatAugWarning, ShapeError
from feataug.losses import reconstruction
from feataug.metrics import SegmentationMetrics

CLASSES = 3


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


def pairs(count=3, size=(24, 32), of=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        masks = torch.randint(CLASSES, (of, *size), generator=rng)
        found.append((nn.functional.one_hot(masks, CLASSES).permute(0, 3, 1, 2).float(), masks))
    return found


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


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (9, 8), (16, 8), (17, 23), (6, 30)])
def test_every_pixel_counts_once(size):
    masks = torch.arange(size[0] * size[1]).view(1, *size)
    images = masks[:, None].expand(1, 3, *size).float()
    counted = []
    for part, given, counts in tiles(images, masks, (8, 8), -1):
        assert torch.equal(part[:, 0].long(), given)
        assert part.shape[-2:] == given.shape[-2:] == (min(8, size[0]), min(8, size[1]))
        assert torch.equal(counts[counts >= 0], given[counts >= 0])
        counted.append(counts[counts >= 0])
    assert torch.equal(torch.cat(counted).sort().values, masks.flatten())
    assert len(list(tiles(images, masks, None, -1))) == 1


def made(tiny_net, classes=CLASSES):
    torch.manual_seed(0)
    cut = split(tiny_net(classes), "body")
    return cut, FeatureGenerator(classes, cut.spec, mask_widths=(4,), width=4, depth=0)


def slowly(cut, generator, loader, window, seed=0, void=255):
    """Recognition by windows, one window after the other by hand."""
    cut.model.eval()
    generator.eval()
    real, synthetic = SegmentationMetrics(CLASSES), SegmentationMetrics(CLASSES)
    rng = torch.Generator().manual_seed(seed)
    within = across = 0.0
    for images, masks in loader:
        rows, columns = masks.shape[-2:]
        done = torch.zeros_like(masks, dtype=torch.bool)
        for top in sorted({min(t, rows - window[0]) for t in range(0, rows, window[0])}):
            for left in sorted({min(x, columns - window[1]) for x in range(0, columns, window[1])}):
                place = slice(top, top + window[0]), slice(left, left + window[1])
                labels = masks[:, place[0], place[1]]
                once = labels.masked_fill(done[:, place[0], place[1]], void)
                done[:, place[0], place[1]] = True
                both = generator(labels, generator.draw_z(2 * len(labels), rng), samples=2)
                first, second = [x[: len(labels)] for x in both], [x[len(labels) :] for x in both]
                features = cut.encode(images[:, :, place[0], place[1]])
                real.update(cut.decode(features, window), once)
                synthetic.update(cut.decode(first, window), once)
                a, b, f = (generator.standardize(x) for x in (first, second, features))
                within += float(reconstruction(a, b)) * len(labels)
                across += float(reconstruction(a, f)) * len(labels)
    return {"real": real.compute(), "synthetic": synthetic.compute(), "diversity": within / across}


@torch.no_grad()
def test_recognition_by_windows_is_that_of_a_slow_loop(tiny_net):
    cut, generator = made(tiny_net)
    loader = pairs(2, (20, 28))
    loader[0][1][0, :7] = 255
    expected = slowly(cut, generator, loader, (16, 16), seed=3)
    found = recognition(cut, generator, loader, seed=3, window=(16, 16))
    assert {name: found[name] for name in ("real", "synthetic")} == {name: expected[name] for name in ("real", "synthetic")}
    assert found["diversity"] == pytest.approx(expected["diversity"], rel=1e-5)
    assert found["ratio"] == found["synthetic"]["miou"] / found["real"]["miou"]
    # The noted size is the default, and neither is what whole images give.
    whole = recognition(cut, generator, loader, seed=3)
    note_size(cut.model, (16, 16))
    assert recognition(cut, generator, loader, seed=3) == found
    assert recognition(cut, generator, loader, seed=3, window=None) == whole != found
    note_size(cut.model, (20, 28))
    assert recognition(cut, generator, loader, seed=3) == whole


@torch.no_grad()
def test_the_slow_loop_finds_pixels_that_count_twice(tiny_net, monkeypatch):
    cut, generator = made(tiny_net)
    loader = pairs(2, (20, 28))
    monkeypatch.setattr("feataug.inference.recognition.tiles", lambda *given: ((image, mask, mask) for image, mask, _ in tiles(*given)))
    found = recognition(cut, generator, loader, seed=3, window=(16, 16))
    assert found["real"] != slowly(cut, generator, loader, (16, 16), seed=3)["real"]


def test_void_of_overlapping_windows_is_none_of_the_masks(tiny_net):
    # One class without void says that the set is dull, not that 255 was a class.
    cut, generator = made(tiny_net)
    loader = [(torch.randn(2, 3, 20, 28), torch.ones(2, 20, 28, dtype=torch.long))]
    assert recognition(cut, generator, loader, window=(16, 16))["real"]["absent"] == [0, 2]
    loader[0][1][0, 0, 0] = 255
    with pytest.raises(ValueError, match="the masks hold one class and void only"):
        recognition(cut, generator, loader, window=(16, 16))


def test_a_window_that_is_no_size(tiny_net):
    with pytest.raises(ShapeError, match=r"^recognition: window is no size\."):
        recognition(*made(tiny_net), pairs(1), window=(4,))


def test_the_trainer_of_generators_measures_by_windows(tiny_net):
    cut, generator = made(tiny_net)
    note_size(cut.model, (16, 16))
    config = GeneratorConfig(num_images=4, stats_images=4, critic_width=4)
    val = pairs(1, (20, 28), seed=1)
    results = GeneratorTrainer(generator, cut, config, device="cpu", progress=False).fit(pairs(2, (16, 16)), val)
    assert results[-1] == {"progress": 4} | recognition(cut, generator, val, window=(16, 16))
    assert results[-1]["real"] != recognition(cut, generator, val, window=None)["real"]


def test_stages_are_recognised_by_windows(tiny_net):
    torch.manual_seed(0)
    model = tiny_net(CLASSES).eval()
    note_size(model, (16, 16))
    val = pairs(1, (20, 28), seed=1)
    config = GeneratorConfig(critic_width=4)
    options = {"at": ["body"], "generator_images": 4, "min_cells": 1, "config": config, "device": "cpu", "progress": False}
    found = stages(model, pairs(2, (16, 16)), CLASSES, val_loader=val, **options)
    metrics = SegmentationMetrics(CLASSES)
    for image, _, counted in tiles(*val[0], (16, 16), 255):
        metrics.update(model(image).detach(), counted)
    assert found["stages"][0]["recognition"]["real"] == pytest.approx(metrics.compute()["miou"])
    assert found["stages"][0]["recognition"]["real"] != pytest.approx(evaluate(model, val, CLASSES, crop_size=None)["miou"])
