"""Recognition by windows against a slow loop."""


import pytest
import torch

from feataug import (
    FeatureGenerator,
    GeneratorConfig,
    GeneratorTrainer,
    evaluate,
    recognition,
    split,
    stages,
)
from feataug.core.crop_sizes import note_size
from feataug.core.latents import draw_latents
from feataug.core.windows import tiles
from feataug.errors import ShapeError
from feataug.losses import reconstruction
from feataug.metrics import SegmentationMetrics
from tests.support.one_hot_images import CLASSES, pairs


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


def made(tiny_net, preset="flow"):
    torch.manual_seed(0)
    cut = split(tiny_net(CLASSES), "body")
    return cut, FeatureGenerator(CLASSES, cut.spec, preset, width=4, depth=1)


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
                both = generator(labels, draw_latents(generator, labels, rng, samples=2), samples=2)
                first, second = [x[: len(labels)] for x in both], [x[len(labels) :] for x in both]
                features = cut.encode(images[:, :, place[0], place[1]])
                real.update(cut.decode(features, window), once)
                synthetic.update(cut.decode(first, window), once)
                a, b, f = (generator.standardize(x) for x in (first, second, features))
                within += float(reconstruction(a, b)) * len(labels)
                across += float(reconstruction(a, f)) * len(labels)
    return {"real": real.compute(), "synthetic": synthetic.compute(), "diversity": within / across}


@pytest.mark.parametrize("preset", ["flow", "bicyclegan"])
@torch.no_grad()
def test_recognition_by_windows_is_that_of_a_slow_loop(tiny_net, preset):
    cut, generator = made(tiny_net, preset)
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
    config = GeneratorConfig(num_images=4, stats_images=4)
    val = pairs(1, (20, 28), seed=1)
    results = GeneratorTrainer(generator, cut, config, device="cpu", progress=False).fit(pairs(2, (16, 16)), val)
    assert results[-1].pop("held_out") > 0
    assert results[-1] == {"progress": 4} | recognition(cut, generator, val, window=(16, 16))
    assert results[-1]["real"] != recognition(cut, generator, val, window=None)["real"]


def test_stages_are_recognised_by_windows(tiny_net):
    torch.manual_seed(0)
    model = tiny_net(CLASSES).eval()
    note_size(model, (16, 16))
    val = pairs(1, (20, 28), seed=1)
    config = GeneratorConfig()
    options = {"at": ["body"], "generator_images": 4, "min_cells": 1, "config": config, "device": "cpu", "progress": False}
    found = stages(model, pairs(2, (16, 16)), CLASSES, val_loader=val, **options)
    metrics = SegmentationMetrics(CLASSES)
    for image, _, counted in tiles(*val[0], (16, 16), 255):
        metrics.update(model(image).detach(), counted)
    assert found["stages"][0]["recognition"]["real"] == pytest.approx(metrics.compute()["miou"])
    assert found["stages"][0]["recognition"]["real"] != pytest.approx(evaluate(model, val, CLASSES, crop_size=None)["miou"])
