"""The class bias: its confusion matrices against counting, what it finds on spoiled logits, and what it must not do."""

import math

import pytest
import torch

import feataug
from feataug import Inference, evaluate, fit_class_bias, fit_inference
from feataug.core.measures import MEASURES
from feataug.errors import ConfigError, DataError, ShapeError
from feataug.evaluation.class_bias import _confusions, _measure_all, _PixelSample, _TopTwo
from feataug.metrics import scores


def _as_is(images):
    return images


def _noisy(classes=4, size=(2, 40, 50), seed=0, gain=1.5):
    """Logits from which rare classes are predicted too rarely, and their labels."""
    rng = torch.Generator().manual_seed(seed)
    shares = 0.3 ** torch.arange(float(classes))
    labels = torch.multinomial(shares, math.prod(size), True, generator=rng)
    logits = torch.randn(len(labels), classes, generator=rng) + (shares / shares.sum()).log()
    logits[torch.arange(len(labels)), labels] += gain
    return logits.view(*size, classes).permute(0, 3, 1, 2).contiguous(), labels.view(size)


def _confusion(predicted, labels, classes):
    counts = torch.zeros(classes, classes, dtype=torch.long)
    for true, found in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        counts[true, found] += 1
    return counts


def test_confusion_matrices_of_all_tried_numbers_are_those_of_counting():
    rng = torch.Generator().manual_seed(0)
    logits, labels, bias = torch.randn(300, 5, generator=rng), torch.randint(5, (300,), generator=rng), torch.randn(5, generator=rng)
    tried = torch.arange(-3.0, 4.0) / 2
    found = _confusions(logits, labels, _TopTwo(logits, bias), 3, tried)
    for number, one in zip(tried, found, strict=True):
        other = bias.clone()
        other[3] = number
        assert torch.equal(one, _confusion((logits + other).argmax(1), labels, 5))


def test_the_two_leading_classes_are_those_of_sorting_whatever_has_changed():
    rng = torch.Generator().manual_seed(0)
    logits, bias = torch.randn(400, 6, generator=rng), torch.zeros(6)
    leaders = _TopTwo(logits, bias)
    for _ in range(60):
        k = int(torch.randint(6, (), generator=rng))
        bias[k] = 2 * torch.randn((), generator=rng)
        leaders.change(k, float(bias[k]))
        values, order = (logits + bias).sort(1, descending=True)
        assert torch.allclose(leaders.values, values[:, :2])
        assert torch.equal(leaders.classes, order[:, :2])
        for other in range(6):
            rest = order[order != other].view(400, 5)[:, 0]
            assert torch.equal(leaders.without(other)[1], rest)


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_of_many_matrices_are_those_of_scores(measure):
    rng = torch.Generator().manual_seed(1)
    many = torch.randint(0, 50, (6, 4, 4), generator=rng)
    many[2, 1] = 0  # a class without a pixel
    many[3, 2], many[3, :, 2] = 0, 0  # and one that is not predicted, either
    assert _measure_all(many, measure).tolist() == pytest.approx([scores(one)[measure] for one in many])


@pytest.mark.parametrize("measure", MEASURES)
def test_no_other_number_for_a_class_measures_better(measure):
    logits, masks = _noisy()
    bias = fit_class_bias(_as_is, [(logits, masks)], 4, measure=measure)
    best = evaluate(Inference(_as_is, class_bias=bias), [(logits, masks)], 4)[measure]
    assert best >= evaluate(_as_is, [(logits, masks)], 4)[measure]
    for k in range(4):
        for step in (-1.0, -0.25, 0.25, 1.0):
            other = bias.clone()
            other[k] += step
            assert evaluate(Inference(_as_is, class_bias=other), [(logits, masks)], 4)[measure] <= best + 1e-6


def test_a_spoiled_prior_is_found_and_other_images_gain_too():
    # With a gain of 1 the logits are those of the true posterior.
    train, val = (_noisy(size=(4, 60, 60), seed=seed, gain=1.0) for seed in (0, 1))
    spoiled = torch.tensor([0.0, 1.0, -2.0, 0.5])[:, None, None]
    bias = fit_class_bias(_as_is, [(train[0] + spoiled, train[1])], 4, measure="pixel_acc")
    # The labels' prior is in the logits: what is left is what spoiled them, with the sign turned.
    assert torch.allclose(bias, -(spoiled - spoiled.mean()).flatten(), atol=0.4)
    before, after = (evaluate(p, [(val[0] + spoiled, val[1])], 4)["pixel_acc"] for p in (_as_is, Inference(_as_is, class_bias=bias)))
    untouched = evaluate(_as_is, [val], 4)["pixel_acc"]
    assert after > before + 2
    assert after == pytest.approx(untouched, abs=1)


def test_a_function_of_the_scores_is_a_measure():
    logits, masks = _noisy(size=(1, 20, 20))
    own = fit_class_bias(_as_is, [(logits, masks)], 4, measure=lambda figures: figures["class_acc"])
    assert torch.equal(own, fit_class_bias(_as_is, [(logits, masks)], 4, measure="class_acc"))


def test_a_class_without_a_pixel_is_left_where_the_others_are():
    logits, masks = _noisy()
    masks[masks == 3] = 255
    bias = fit_class_bias(_as_is, [(logits, masks)], 4)
    # Whatever helped mIoU: nothing says that the class does not occur elsewhere.
    assert bias[3] == pytest.approx(float(bias[:3].mean()), abs=1e-6)


def test_void_and_the_division_into_batches_do_not_matter():
    logits, masks = _noisy(size=(4, 20, 20))
    whole = fit_class_bias(_as_is, [(logits, masks)], 4)
    parts = fit_class_bias(_as_is, [(logits[:1], masks[:1]), (logits[1:], masks[1:])], 4)
    assert torch.equal(whole, parts)
    wild = torch.cat([logits, torch.full_like(logits[:1], 9.0)]), torch.cat([masks, torch.full_like(masks[:1], 255)])
    assert torch.equal(whole, fit_class_bias(_as_is, [wild], 4))


def test_the_sample_is_drawn_evenly_whatever_the_batches():
    labels = torch.arange(1000)
    for sizes in ([1000], [10, 90, 400, 500]):
        sample = _PixelSample(100, 0)
        for part in labels.split(sizes):
            sample.add(part[:, None].float(), part)
        kept = sample.kept()[1]
        assert len(kept) == len(kept.unique()) == 100
        assert 400 < kept.float().mean() < 600
        assert torch.equal(sample.kept()[0][:, 0].long(), kept)
    hits = torch.zeros(20)
    for seed in range(300):
        sample = _PixelSample(5, seed)
        for part in torch.arange(20).split([3, 17]):
            sample.add(part[:, None].float(), part)
        hits[sample.kept()[1]] += 1
    assert hits.min() > 45
    assert hits.max() < 110


def test_the_same_seed_gives_the_same_numbers_and_the_model_stays_as_it_was():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 1)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = [(torch.randn(2, 3, 16, 16), torch.randint(4, (2, 32, 32)))]
    first, second = (fit_class_bias(model, loader, 4, pixels=500) for _ in range(2))
    assert torch.equal(first, second)
    assert first.device.type == "cpu"
    assert first.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model[1].training
    assert model[2].training


def test_predictions_with_a_bias_are_log_probabilities_and_no_bias_changes_nothing():
    images = torch.randn(2, 4, 10, 12)
    plain, none, some = (Inference(_as_is, class_bias=bias)(images) for bias in (None, torch.zeros(4), [1.0, 0.0, -1.0, 0.5]))
    assert torch.allclose(plain, none, atol=1e-6)
    assert torch.allclose(some.exp().sum(1), torch.ones(2, 10, 12), atol=1e-5)
    assert torch.allclose(some, (images + torch.tensor([1.0, 0.0, -1.0, 0.5])[:, None, None]).log_softmax(1), atol=1e-5)


def test_settings_make_the_same_prediction_again():
    predict = Inference(_as_is, scales=(0.5, 1.0), flip=True, window=(8, 8), stride=(4, 8), class_bias=[0.5, 0.0, -0.5, 0.0])
    assert predict.settings() == {
        "scales": [0.5, 1.0],
        "flip": True,
        "window": [8, 8],
        "stride": [4, 8],
        "class_bias": [0.5, 0.0, -0.5, 0.0],
    }
    images = torch.randn(1, 4, 12, 16)
    assert torch.equal(predict(images), Inference(_as_is, **predict.settings())(images))
    assert Inference(_as_is, window=(9, 9)).settings() == {"window": [9, 9]}
    assert Inference(_as_is).settings() == {}


class ByContext(torch.nn.Module):
    """Adds the input's number of columns, as a model that pools over all of it would notice it."""

    def __init__(self, known=16):
        super().__init__()
        self.known, self.weight = known, torch.nn.Parameter(torch.zeros(()))

    def forward(self, images):
        out = images[:, :3].clone()
        out[:, 0] += 3.0 * abs(images.shape[-1] - self.known) / self.known
        return out


def test_windows_are_chosen_where_the_model_knows_no_other_context():
    logits, masks = _noisy(classes=3, size=(4, 32, 32))
    loader = [(logits, masks)]
    predict, found = fit_inference(ByContext(), loader, 3, crop_size=(16, 16))
    assert predict.window == (16, 16)
    assert found["window"] == [16, 16]
    assert found["windows"]["miou"] > found["whole"]["miou"] + 1
    assert found["class_bias"] == predict.class_bias.tolist()
    # One that predicts the same either way goes the cheaper way.
    predict, found = fit_inference(torch.nn.Conv2d(3, 3, 1), loader, 3, crop_size=(16, 16), class_bias=False)
    assert predict.window is None
    assert found["window"] is None
    assert found["class_bias"] is None
    assert fit_inference(ByContext(), loader, 3, class_bias=False)[1].keys() == {"whole", "window", "class_bias"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"measure": "iou"},
            "fit_class_bias: there is no such measure.\n  given:   'iou'\n"
            "  needed:  pixel_acc, class_acc, miou, fw_iou, or a function of what metrics.scores returns",
        ),
        ({"pixels": 0}, "fit_class_bias: pixels is out of range.\n  given:   0\n  needed:  an integer in [1, inf)"),
        ({"ignore_index": 2}, None),
    ],
)
def test_settings_that_cannot_be(options, text):
    with pytest.raises(ConfigError) as error:
        fit_class_bias(_as_is, [_noisy()], 4, **options)
    assert text is None or str(error.value) == text


def test_what_cannot_be_fitted_on():
    logits, masks = _noisy()
    with pytest.raises(DataError) as error:
        fit_class_bias(_as_is, [(logits, torch.full_like(masks, 255))], 4)
    assert (
        str(error.value)
        == "fit_class_bias: there is no labelled pixel.\n  given:   void only, or an empty loader\n  needed:  labelled images"
    )
    with pytest.raises(DataError, match="no labelled pixel"):
        fit_class_bias(_as_is, [], 4)
    with pytest.raises(ShapeError) as error:
        fit_class_bias(_as_is, [(logits[:, :3], masks.clamp(max=2))], 4)
    assert (
        str(error.value) == "fit_class_bias: the model's output is no logits.\n  given:   [2, 3, 40, 50] float32 on cpu\n"
        "  needed:  (2, 4, h, w) float"
    )
    with pytest.raises(DataError) as error:
        fit_class_bias(lambda images: images * math.nan, [(logits, masks)], 4)
    assert (
        str(error.value) == "fit_class_bias: the model predicts NaN.\n  given:   at 4000 of 4000 sampled pixels\n  needed:  numbers\n"
        "Its weights may have diverged in training, or half precision overflows."
    )


def test_a_bias_that_is_none():
    for wrong in ("a", [1.0], [[1.0, 2.0]], [1.0, math.nan], object()):
        with pytest.raises(ConfigError, match="Inference: class_bias does not have a number for each class"):
            Inference(_as_is, class_bias=wrong)
    with pytest.raises(ShapeError) as error:
        Inference(_as_is, class_bias=[0.0, 1.0])(torch.zeros(1, 3, 4, 4))
    assert (
        str(error.value) == "Inference: class_bias does not fit the model's classes.\n"
        "  given:   2 numbers for logits of 3 classes\n  needed:  a number for each class, as fit_class_bias gives them for this model"
    )


def test_they_are_public():
    assert {"fit_class_bias", "fit_inference", "Inference"} <= set(feataug.__all__)
