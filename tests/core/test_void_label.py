"""The label of void: never also a class, the same everywhere, and without a part in any figure."""


import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import feataug
from feataug.core.measures import MEASURES
from feataug.data import MaskFolder, seeded_loader, train_transforms
from feataug.errors import ConfigError
from feataug.inference.evaluate import evaluate
from feataug.io.results import by_class
from feataug.losses import segmentation_loss, smoothed_cross_entropy
from feataug.reporting.page import write_page
from feataug.reporting.tables import comparison_table, table
from tests.support.label_folders import SPEC, always, data, error_of, folder

# Void that is also a class.
WHO = {
    "SegmentationMetrics": lambda k, v: feataug.SegmentationMetrics(k, v),
    "FeatureGenerator": lambda k, v: feataug.FeatureGenerator(k, SPEC, width=4, depth=1, ignore_index=v),
    "segmentation_loss": lambda k, v: segmentation_loss(torch.zeros(1, k, 2, 2), torch.zeros(1, 2, 2).long(), ignore_index=v),
    "smoothed_cross_entropy": lambda k, v: smoothed_cross_entropy(torch.zeros(1, k, 2, 2), torch.zeros(1, 2, 2).long(), 0.0, v),
    "PixelFilter": lambda k, v: feataug.PixelFilter(None, torch.zeros(k), ignore_index=v),
    "FeatureMixer": lambda k, v: feataug.FeatureMixer(
        feataug.FeatureGenerator(k, SPEC, width=4, depth=1, ignore_index=-1), torch.zeros(2, 8, 8).long(), ignore_index=v
    ),
    "ClassBalancedMasks": lambda k, v: feataug.ClassBalancedMasks(torch.zeros(2, 8, 8).long(), k, ignore_index=v),
    "pseudo_masks": lambda k, v: feataug.pseudo_masks(always(0, k), [torch.zeros(1, 3, 2, 2)], ignore_index=v),
}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("wrong", [(300, 255), (256, 255), (2, 0), (2, 1)])
def test_void_that_is_also_a_class(who, wrong):
    number, void = wrong
    assert error_of(lambda: WHO[who](number, void), ConfigError) == (
        f"{who}: ignore_index is also a class.\n  given:   ignore_index={void}, {number} classes\n"
        f"  needed:  a label that is none of 0 .. {number - 1}\n"
        "Pass ignore_index=-1, or 65535: to the reader of the data, to the generator and to all that take its masks."
    )
    for good in (-1, -100, 65535, number):
        WHO[who](number, good)


def test_readers_of_more_than_255_classes(tmp_path):
    Image.fromarray(np.array([[254, 255, 256, 299, 65535]], np.uint16)).save(tmp_path / "a.png")
    names = [str(k) for k in range(300)]
    assert error_of(lambda: MaskFolder(tmp_path, names), ConfigError).startswith("MaskFolder: ignore_index is also a class.")
    assert error_of(lambda: MaskFolder(tmp_path, names, ignore_index=-1), ConfigError) == (
        "MaskFolder: label 255 is void and a class.\n  given:   300 classes, void=255\n  needed:  another label for void\n"
        "If the files have no label for void, pass void=65535."
    )
    for void in (-1, 65535):
        reader = MaskFolder(tmp_path, names, void=65535, ignore_index=void)
        assert reader[0].tolist() == [[254, 255, 256, 299, void]]


@pytest.mark.parametrize("void", [-1, 65535])
def test_another_void_all_the_way(tmp_path, void):
    folder(tmp_path, (0, 1, 255), (1, 255), size=(16, 16))
    reader = data(tmp_path, ignore_index=void, transforms=train_transforms((16, 16), ignore_index=void))
    assert reader[0][1].unique().tolist() in ([-1, 0, 1], [0, 1, 65535], [-1, 1], [1, 65535], [-1, 0], [0, 65535])
    loader = seeded_loader(reader, 2, shuffle=False)
    plain = seeded_loader(data(tmp_path, ignore_index=void), 2, shuffle=False)
    found = evaluate(always(1), plain, 2, ignore_index=void)
    other = evaluate(always(1), seeded_loader(data(tmp_path), 2, shuffle=False), 2)
    assert found == other
    model = nn.Sequential()
    model.body, model.head = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 2, 1)
    cut = feataug.split(model, "body", example=torch.zeros(1, 3, 16, 16))
    generator = feataug.FeatureGenerator(2, cut.spec, width=4, depth=1, ignore_index=void)
    pixel_filter = feataug.PixelFilter.fit(cut, plain, 2, ignore_index=void)
    balanced = feataug.ClassBalancedMasks(reader, 2, ignore_index=void, min_pixels=1)
    mixer = feataug.FeatureMixer(generator, balanced, 0.5, ignore_index=void, cut=cut, pixel_filter=pixel_filter)
    images, masks = next(iter(loader))
    with mixer.on(cut, masks) as batch:
        out = model(images)
    assert torch.isfinite(mixer.loss(out, batch))
    assert set(feataug.recognition(cut, generator, plain, ignore_index=void)["real"]) >= {"miou", "absent"}
    assert feataug.deficit_weights(model, plain, 2, ignore_index=void).shape == (2,)
    tuner = feataug.Finetuner(model, feataug.FinetuneConfig(num_steps=1), device="cpu", progress=False)
    assert tuner.fit(loader, plain, num_classes=2, ignore_index=void)[-1]["absent"] == []


def test_void_has_no_part_in_the_figures():
    metrics = feataug.SegmentationMetrics(3, -1)
    for _ in range(2):
        metrics.update(torch.zeros(1, 2, 2).long(), torch.tensor([[[0, 1], [-1, -1]]]))
    assert metrics.compute()["absent"] == [2]
    assert metrics.labels == ([2, 2, 0], 4)
    metrics.reset()
    assert metrics.compute()["absent"] == [0, 1, 2]
    assert metrics.labels == ([0, 0, 0], 0)


# Classes without a pixel are named wherever mIoU is shown.
SAID = "No pixel in the validation masks: {}. mIoU counts such a class, as 0, only where it is predicted."


def figures(*held):
    confusion = torch.diag(torch.tensor([5 * (k in held) for k in range(3)]))
    return by_class(feataug.metrics.scores(confusion), ("road", "sky", "car"))


def test_tables_name_classes_without_a_pixel():
    row = figures(0, 1)
    assert row["absent"] == ["car"]
    assert table({"x": row}).endswith("\n\n" + SAID.format("car"))
    assert "No pixel" not in table({"x": figures(0, 1, 2)})
    gap = {m: {"mean": 0.0, "low": None, "high": None} for m in MEASURES}
    result = {"base": row, "arms": {"control": row}, "seeds": [0], "differences": {}, "verdict": "."}
    assert SAID.format("car") in comparison_table(result | {"differences": {"control": gap}})
    assert feataug.evaluation.paired_differences.mean_figures([row, row])["absent"] == ["car"]


def test_the_page_and_the_card_name_them(tmp_path):
    row = figures(1)
    (tmp_path / "result.json").write_text(json.dumps(row))
    page = write_page(tmp_path).read_text()
    assert SAID.format("road, car") in page
    (tmp_path / "result.json").write_text(json.dumps(figures(0, 1, 2)))
    assert "No pixel" not in write_page(tmp_path).read_text()
    facts = feataug.io.card_facts.known_facts({"measures": feataug.metrics.scores(torch.diag(torch.tensor([5, 0, 5]))), "classes": ["a", "b", "c"]})
    text = feataug.io.model_card.facts_text(facts)
    assert "\nWithout a pixel in the measured masks: b. Nothing is known of these classes.\n" in text
    assert "Without a pixel" not in feataug.io.model_card.facts_text(feataug.io.card_facts.known_facts({"measures": figures(0, 1, 2)}))
