"""``feataug.compare`` on planted settings: a wrong prior, no room, room, windows, and what a class bias may be fitted on."""

import html

import pytest
import torch
from torch import nn

import feataug
from feataug.core.measures import MEASURES
from feataug.errors import CheckpointError, ConfigError, ShapeError
from feataug.reporting.page import write_page
from feataug.reporting.plots import save_comparison
from feataug.reporting.tables import comparison_table

pytestmark = pytest.mark.xdist_group("comparison")

SIZE, CLASSES = (16, 24), 3


class Linear(nn.Module):
    """Pixel by pixel, so that what a setting plants is all that there is to learn."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU())
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, images):
        return self.head(self.encoder(images))


class SizeBound(nn.Module):
    """Knows one size of images, as a model with pyramid pooling knows that of its crops: on others it mistakes every class for the next."""

    def __init__(self, inner):
        super().__init__()
        self.encoder, self.head = inner.encoder, inner.head

    def forward(self, images):
        logits = self.head(self.encoder(images))
        return logits if images.shape[-2:] == SIZE else logits.roll(1, 1)


def pairs(count, seed, size=SIZE, means=((-1.0, 0.0), (1.0, 0.0), (1.0, 2.0)), shares=(0.5, 0.4, 0.1), noise=0.5):
    """Batches of four: each pixel's class by its share, its colour around the class's mean, and noise."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.multinomial(torch.tensor(shares), count * size[0] * size[1], True, generator=rng).view(count, *size)
    # The third channel is a constant and a hint of the image, by which images differ.
    colours = torch.cat([torch.tensor(means), torch.ones(CLASSES, 1)], 1)[masks].permute(0, 3, 1, 2)
    images = colours + noise * torch.randn(colours.shape, generator=rng)
    return [(images[i : i + 4], masks[i : i + 4]) for i in range(0, count, 4)]


def trained(data, steps=150, lr=0.5):
    torch.manual_seed(0)
    model = Linear()
    config = feataug.FinetuneConfig(num_steps=steps, lr=lr, weight_decay=0.0)
    feataug.Finetuner(model, config, device="cpu", progress=False).fit(data)
    return model


def compare(model, data, val, *, steps=5, lr=0.1, **kwargs):
    spec = feataug.split(model, "encoder", example=torch.zeros(1, 3, *SIZE)).spec
    torch.manual_seed(1)
    generator = feataug.FeatureGenerator(CLASSES, spec, width=4, depth=1)
    loader = data if callable(data) else lambda seed: [data[(i + seed) % len(data)] for i in range(len(data))]
    settings = {"seeds": (0, 1, 2), "device": "cpu", "progress": False, "ratio": 0.0, "example": torch.zeros(1, 3, *SIZE)} | kwargs
    masks = [mask for _, batch in pairs(8, 99) for mask in batch]
    config = feataug.FinetuneConfig(num_steps=steps, lr=lr, weight_decay=0.0)
    return feataug.compare(model, "encoder", generator, masks, loader, val, config, **settings)


# Two classes overlap, and one of them is rare: the most probable class is hardly ever the rare one.
OVERLAP = {"means": ((-1.5, 0.0), (1.0, 0.0), (1.0, 0.6)), "shares": (0.5, 0.42, 0.08)}


@pytest.fixture(scope="module")
def rare():
    data = pairs(64, 1, **OVERLAP)
    return trained(data, steps=300), data, pairs(64, 2, **OVERLAP)


def test_class_weights_that_a_bias_replaces_show_nothing_beyond_it(rare):
    weights = torch.tensor([1.0, 1.0, 2.5])
    result = compare(*rare, steps=40, class_weights=weights, weights_arm=False)
    before, after = result["differences_before_bias"]["feataug"]["miou"], result["difference"]["miou"]
    assert before["low"] > 2  # the weights gain
    assert after["low"] <= 0
    assert abs(after["mean"]) < 0.2 * before["mean"]
    assert "feataug shows nothing beyond the bias in " in result["verdict"]
    assert f"in mIoU: {before['mean']:+.2f} [{before['low']:+.2f}, {before['high']:+.2f}] points before it, " in result["verdict"]
    # The control and the base gain as much from a bias alone.
    for figures in (result["base"], *(entry["control"] for entry in result["seeds"])):
        assert figures["miou"] - figures["before_bias"]["miou"] > 0.7 * before["mean"]
    text = comparison_table(result)
    assert "  before the class bias: PixelAcc" in text
    assert "Measured by whole images, after a class bias fitted to each model." in text


def test_what_the_result_holds_with_and_without_a_bias(rare, tmp_path):
    with_bias = compare(*rare, seeds=(0, 1), classes=("a", "b", "c"))
    without = compare(*rare, seeds=(0, 1), classes=("a", "b", "c"), bias=False)
    assert {"arms_before_bias", "differences_before_bias"} <= with_bias.keys()
    assert not {"arms_before_bias", "differences_before_bias", "ceiling"} & without.keys()
    for one, other in zip(with_bias["seeds"], without["seeds"], strict=True):
        for arm in ("control", "feataug"):
            assert {"before_bias", "class_bias"} <= one[arm].keys()
            assert not {"before_bias", "class_bias"} & other[arm].keys()
            assert len(one[arm]["class_bias"]) == CLASSES
            for name in MEASURES:
                assert one[arm]["before_bias"][name] == pytest.approx(other[arm][name])
                assert one[arm]["as_trained"][name] == pytest.approx(other[arm]["as_trained"][name])
            assert one[arm]["before_bias"]["per_class"].keys() == one[arm]["per_class"].keys()
    assert with_bias["arms_before_bias"]["control"]["miou"] == pytest.approx(without["arms"]["control"]["miou"])
    for name in MEASURES:
        found, expected = with_bias["differences_before_bias"]["feataug"][name], without["difference"][name]
        assert found["mean"] == pytest.approx(expected["mean"], abs=1e-6)
    assert with_bias["settings"]["prediction"]["bias_from"] == "the first 64 training crops"
    assert without["settings"]["prediction"]["bias"] is False


def test_figures_after_the_bias_are_those_of_inference_with_it(rare):
    kept = {}

    def arm(model, loader, config, folder):
        kept["model"] = model
        return model

    result = compare(*rare, seeds=(0,), baselines={"same": arm}, update_bn=False)
    figures = result["seeds"][0]["same"]
    predict = feataug.Inference(kept["model"], class_bias=figures["class_bias"])
    assert feataug.evaluate(predict, rare[2], CLASSES)["miou"] == pytest.approx(figures["miou"])
    assert feataug.evaluate(kept["model"], rare[2], CLASSES)["miou"] == pytest.approx(figures["before_bias"]["miou"])


def test_neither_bias_nor_window_looks_at_validation_images(rare):
    model, data, _ = rare
    bound = SizeBound(model)
    big, plain = pairs(8, 3, (32, 48), **OVERLAP), pairs(8, 4, (32, 48), **OVERLAP)
    swapped = [(images, (masks + 1) % CLASSES) for images, masks in big]
    found = [compare(bound, data, val, seeds=(0,), plain_loader=plain) for val in (big, swapped)]
    first, second = found
    assert first["base"]["miou"] > second["base"]["miou"] + 20
    assert first["base"]["class_bias"] == second["base"]["class_bias"]
    for arm in ("control", "feataug"):
        assert first["seeds"][0][arm]["class_bias"] == second["seeds"][0][arm]["class_bias"]
    assert first["settings"]["prediction"] == second["settings"]["prediction"]
    prediction = first["settings"]["prediction"]
    assert prediction["window"] == list(SIZE)
    assert prediction["decided_by"] == "the base model's mIoU on training images"
    assert prediction["windows"]["miou"] > prediction["whole"]["miou"] + 20
    # The test of the test: a bias that was fitted on the swapped masks would be another one.
    assert compare(bound, data, swapped, seeds=(0,), plain_loader=[(i + 1e-3, m) for i, m in swapped])["base"]["class_bias"] != (
        first["base"]["class_bias"]
    )


def test_windows_or_whole_images(rare):
    model, data, _ = rare
    big, plain = pairs(8, 3, (32, 48), **OVERLAP), pairs(8, 4, (32, 48), **OVERLAP)

    def window(**kwargs):
        prediction = compare(SizeBound(model), data, kwargs.pop("val", big), seeds=(0,), bias=False, **kwargs)["settings"]["prediction"]
        return prediction["window"], prediction["decided_by"]

    crops = list(SIZE)
    assert window() == (crops, "sizes alone, without plain_loader: validation images exceed the crops")
    assert window(val=pairs(8, 5)) == (None, "validation images have the crops' size: there is nothing to decide")
    small = pairs(8, 5, (8, 24))
    assert window(val=small) == (None, "sizes alone, without plain_loader: validation images are smaller than the crops")
    assert window(window=None) == (None, "the argument window")
    assert window(window=(8, 12)) == ([8, 12], "the argument window")
    assert window(crop_size=None) == (None, "no crop size is known: whole images")
    assert window(crop_size=(8, 12))[0] == [8, 12]
    # A model that does equally well either way is given whole images.
    plainly = compare(model, data, big, seeds=(0,), bias=False, plain_loader=plain)["settings"]["prediction"]
    assert plainly["window"] is None
    assert plainly["whole"]["miou"] == pytest.approx(plainly["windows"]["miou"], abs=0.5)
    with pytest.raises(ConfigError) as error:
        window(window="whole")
    assert str(error.value) == (
        "compare: window is not offered.\n  given:   'whole'\n  needed:  \"auto\", None, or rows and columns"
    )
    with pytest.raises(ShapeError, match=r"^compare: crop_size"):
        window(crop_size=(0, 3))


def test_with_a_window_all_are_measured_by_it(rare):
    model, data, _ = rare
    bound, big = SizeBound(model), pairs(8, 3, (32, 48), **OVERLAP)
    kept = {}

    def arm(model, loader, config, folder):
        kept["model"] = model
        return model

    result = compare(bound, data, big, seeds=(0,), bias=False, baselines={"same": arm}, update_bn=False)
    expected = feataug.evaluate(feataug.Inference(kept["model"], window=SIZE), big, CLASSES)["miou"]
    assert result["seeds"][0]["same"]["miou"] == pytest.approx(expected)
    assert result["base"]["miou"] == pytest.approx(expected)


def test_without_room_nothing_can_be_said():
    """A base that knows all: real features of further images add nothing."""
    easy = {"noise": 0.05}
    data = pairs(16, 1, **easy)
    model = trained(data, steps=300)
    result = compare(model, data, pairs(16, 2, **easy), ratio=0.3, lr=1e-4, ceiling=lambda seed: pairs(16, 10 + seed, **easy))
    assert result["base"]["miou"] == 100
    assert (
        "There is no room in PixelAcc, ClassAcc, mIoU, fwIoU: real features of further labelled images gain +0.00 [+0.00, +0.00]"
        in result["verdict"]
    )
    assert "Nothing can be said about any arm in such a measure." in result["verdict"]
    assert result["ceiling"]["share_of_ceiling"]["feataug"] == dict.fromkeys(MEASURES)


# Half of the third class looks another way, of which the labelled images know nothing.
KNOWN, UNKNOWN = ((-1.5, 0.0), (1.5, 0.0), (0.0, 2.0)), ((-1.5, 0.0), (1.5, 0.0), (0.0, -2.0))


def both(count, seed):
    return pairs(count, seed, means=KNOWN, noise=0.3) + pairs(count, seed + 1000, means=UNKNOWN, noise=0.3)


@pytest.fixture(scope="module")
def roomy():
    data = pairs(16, 1, means=KNOWN, noise=0.3)
    return trained(data), data, both(8, 2)


def test_with_room_the_ceiling_gains_and_arms_have_shares_of_it(roomy, tmp_path):
    model, data, val = roomy

    def oracle(copy_, loader, config, folder):
        """Trains on both kinds by itself."""
        feataug.Finetuner(copy_, config, device="cpu", progress=False).fit(both(16, 500 + config.seed))
        return copy_

    result = compare(
        model, data, val, steps=60, lr=0.3, ratio=0.4, seeds=(0, 1), baselines={"oracle": oracle}, ceiling=lambda seed: both(16, 100 + seed),
        classes=("a", "b", "c"), output=tmp_path,
    )  # fmt: skip
    assert list(result["arms"]) == ["control", "feataug", "ceiling", "oracle"]
    assert result["ceiling"]["difference"] == result["differences"]["ceiling"]
    gain = result["ceiling"]["difference"]["miou"]
    assert gain["low"] > 0
    assert gain["mean"] > 5
    assert "no room in mIoU" not in result["verdict"]
    for arm in ("feataug", "oracle"):
        share = result["ceiling"]["share_of_ceiling"][arm]["miou"]
        assert share == pytest.approx(result["differences"][arm]["miou"]["mean"] / gain["mean"])
    assert result["ceiling"]["share_of_ceiling"]["oracle"]["miou"] > 0.5
    # An untrained generator is far from it.
    assert result["ceiling"]["share_of_ceiling"]["feataug"]["miou"] < 0.3
    text = comparison_table(result)
    share = result["ceiling"]["share_of_ceiling"]["oracle"]["miou"]
    assert f"share of the ceiling's gain, oracle: PixelAcc {result['ceiling']['share_of_ceiling']['oracle']['pixel_acc']:.0%}" in text
    assert save_comparison(tmp_path / "a.png", result).read_bytes().startswith(b"\x89PNG")
    page = html.unescape(write_page(tmp_path).read_text())
    assert "oracle: share of the ceiling's gain" in page
    assert f"{share:.0%}" in page
    assert "Before the class bias" in page
    assert "Measured by whole images, after a class bias fitted to each model." in page


def test_the_ceiling_is_part_of_the_names_and_needs_seeds_of_its_own(roomy):
    model, data, val = roomy
    with pytest.raises(ConfigError, match=r"^compare: a baseline has the name of a built-in arm\.\n  given:   ceiling\n"):
        compare(model, data, val, baselines={"ceiling": lambda *args: args[0]}, ceiling=lambda seed: both(8, 100))
    # One seed: a difference, no share and no verdict on room.
    one = compare(model, data, val, seeds=(0,), ratio=0.4, ceiling=lambda seed: both(8, 100))
    assert one["verdict"] == "Nothing can be said from a single seed: run more of them."
    assert one["ceiling"]["share_of_ceiling"]["feataug"] == dict.fromkeys(MEASURES)


def test_with_another_way_to_measure_old_figures_are_not_returned(rare, tmp_path):
    first = compare(*rare, seeds=(0,), output=tmp_path)
    assert compare(*rare, seeds=(0,), output=tmp_path) == first
    for change, given in (({"bias": False}, "given:   bias=None\n"), ({"window": (8, 12)}, r"given:   window=\[8, 12\]\n")):
        with pytest.raises(CheckpointError, match=rf"^compare: the output folder holds a run with other settings\.\n  {given}"):
            compare(*rare, seeds=(0,), output=tmp_path, **change)


def test_only_the_ceiling_depends_on_its_images(roomy, tmp_path):
    model, data, val = roomy

    def further(seed):
        images, masks = (torch.cat(x) for x in zip(*both(8, seed), strict=True))
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, masks), 4)

    options = {"seeds": (0,), "ratio": 0.4, "output": tmp_path}
    plain = compare(model, data, val, **options)
    first = compare(model, data, val, ceiling=lambda seed: further(100), **options)
    assert first["seeds"][0]["feataug"] == plain["seeds"][0]["feataug"]
    with pytest.raises(CheckpointError) as error:
        compare(model, data, val, ceiling=lambda seed: further(200), **options)
    assert "given:   ceiling_data.dataset.tensors.0.digest=" in str(error.value)
    assert f"as in {tmp_path / 'seed-0/ceiling.json'}" in str(error.value)
