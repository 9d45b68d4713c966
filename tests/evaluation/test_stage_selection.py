"""``feataug.stages``: histograms against pixel loops, the recommendation on made-up tables, and the whole on a small model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.cli.main import main
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.errors import ConfigError, DataError, ShapeError, SplitError
from feataug.evaluation import recommend
from feataug.evaluation.stage_selection.candidates import candidates
from feataug.evaluation.stage_selection.class_histograms import ClassHistograms, activations
from feataug.evaluation.stage_selection.selection import label
from feataug.models import PSPNet
from feataug.reporting.tables import stages_table
from feataug.training.config import GeneratorConfig

VOID = 255


# ---- the histograms --------------------------------------------------------------------------------------------------------------------


def slow(batches, reduction, stride, num_classes, bins, min_cells):
    """Entropy and overlap by pixel loops: lists of values, numpy's histograms, one pair of classes after another."""
    values = {}
    for features, masks in batches:
        features, masks = features.double().numpy(), masks.numpy()
        for x, mask in zip(features, masks, strict=True):
            norm = math.sqrt((x**2).sum())
            for top in range(0, mask.shape[0], stride):
                for left in range(0, mask.shape[1], stride):
                    row, column = min(top + stride // 2, mask.shape[0] - 1), min(left + stride // 2, mask.shape[1] - 1)
                    if mask[row, column] != VOID:
                        vector = x[:, row // reduction, column // reduction]
                        values.setdefault(int(mask[row, column]), []).append(vector * 100 / norm if norm else vector)
    every = np.array([vector for vectors in values.values() for vector in vectors])
    kept = [c for c in range(num_classes) if len(values.get(c, [])) >= min_cells]
    entropies, overlaps = [], []
    for channel in range(every.shape[1]):
        own = every[:, channel]
        low, high = max(own.min(), own.mean() - 4 * own.std()), min(own.max(), own.mean() + 4 * own.std())
        shares = []
        for c in kept:
            inside = np.clip([vector[channel] for vector in values[c]], low, high)
            counts = np.histogram(inside, bins, (low, high))[0] if high > low else np.array([len(inside)] + [0] * (bins - 1))
            shares.append(counts / counts.sum())
        entropies += [-sum(p * math.log2(p) for p in share if p) for share in shares]
        for a in range(len(shares)):
            for b in range(a):
                both = sum(min(p, q) for p, q in zip(shares[a], shares[b], strict=True))
                overlaps.append(both / sum(max(p, q) for p, q in zip(shares[a], shares[b], strict=True)))
    return sum(entropies) / len(entropies), sum(overlaps) / len(overlaps) if overlaps else math.nan


def fast(batches, reduction, stride, num_classes, bins, min_cells):
    histograms = ClassHistograms(num_classes, batches[0][0].shape[1], bins)
    found = [activations(features, reduction, masks, stride) for features, masks in batches]
    for values, _ in found:
        histograms.see(values)
    histograms.open()
    for values, labels in found:
        histograms.count(values, labels)
    classes = (histograms.cells >= min_cells).nonzero().flatten()
    return float(histograms.entropy(classes).mean()), float(histograms.overlap(classes).mean())


def drawn(seed, size=(32, 48), reduction=4, channels=5, num_classes=4, count=3):
    """Batches whose features depend on the class a little, with void, a heavy tail and a constant channel."""
    rng = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        masks = torch.randint(num_classes, (2, *size), generator=rng)
        masks[:, :5] = VOID
        h, w = -(-size[0] // reduction), -(-size[1] // reduction)
        features = torch.randn(2, channels, h, w, generator=rng) + 0.5 * masks[:, ::reduction, ::reduction][:, None].clamp(max=4)
        features[:, 1] = features[:, 1].relu()
        features[:, 2] = features[:, 2] ** 5
        features[:, 3] = 0
        batches.append((features, masks))
    return batches


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("size", "reduction", "stride"), [((32, 48), 4, 4), ((32, 48), 1, 8), ((33, 47), 4, 4), ((33, 47), 2, 16), ((5, 7), 4, 4)]
)
def test_histograms_agree_with_pixel_loops(size, reduction, stride, seed):
    batches = drawn(seed, size, reduction)
    if size == (5, 7):
        batches[0][1][:] = 1
    expected = slow(batches, reduction, stride, 4, 12, 1)
    assert fast(batches, reduction, stride, 4, 12, 1) == pytest.approx(expected, nan_ok=True)
    assert expected[0] > 0


@pytest.mark.parametrize("fault", ["labels of the corner", "norm of the batch", "range of the class", "not shares", "void counts"])
def test_the_oracle_notices_planted_faults(fault, monkeypatch):
    batches = drawn(0)
    for number, (features, masks) in enumerate(batches):
        features *= 1 + number
        masks[:, :, :20] = 3  # classes of different areas
    batches[0][0][0] *= 7
    expected = slow(batches, 4, 4, 4, 12, 1)
    assert fast(batches, 4, 4, 4, 12, 1) == pytest.approx(expected)
    if fault == "labels of the corner":
        batches = [(features, masks.roll((2, 2), (1, 2))) for features, masks in batches]
    elif fault == "norm of the batch":
        monkeypatch.setattr(torch.linalg, "vector_norm", lambda x, dim, dtype: x.double().square().sum().sqrt().expand(len(x)))
    elif fault == "range of the class":
        monkeypatch.setattr("feataug.evaluation.stage_selection.class_histograms.SPREAD", 1.0)
    elif fault == "not shares":
        monkeypatch.setattr(ClassHistograms, "_shares", lambda self, classes: self.counts[classes].double() / self.counts.max())
    else:
        batches = [(features, masks.masked_fill(masks == VOID, 0)) for features, masks in batches]
    assert fast(batches, 4, 4, 4, 12, 1) != pytest.approx(expected, rel=1e-3)


def halves(left, right, channels=2):
    """Two classes side by side, with a value each."""
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, :, 4:] = 1
    features = torch.where(masks[:, None] == 0, left, right).expand(1, channels, 8, 8).float().contiguous()
    return features, masks


def test_features_that_tell_the_classes_apart_do_not_overlap():
    entropy, overlap = fast([halves(-1.0, 1.0)], 1, 1, 2, 8, 1)
    assert (entropy, overlap) == (0, 0)


def test_classes_with_equal_features_overlap_whole():
    features = torch.randn(1, 3, 8, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 1, 2)
    _, masks = halves(0.0, 0.0)
    entropy, overlap = fast([(features, masks)], 1, 1, 2, 8, 1)
    assert overlap == 1
    assert entropy > 1


def test_a_constant_channel_has_no_entropy_also_where_the_norm_rounds():
    rng = torch.Generator().manual_seed(0)
    # 0.1 times 100 / norm: the same number in every patch but for rounding.
    features = torch.full((5, 1, 8, 8), 0.1) * torch.rand(5, 1, 1, 1, generator=rng)
    masks = torch.randint(3, (5, 8, 8), generator=rng)
    assert fast([(features, masks)], 1, 1, 3, 16, 1) == (0, 1)
    assert fast([(torch.zeros(5, 2, 8, 8), masks)], 1, 1, 3, 16, 1) == (0, 1)


def test_an_even_spread_has_the_greatest_entropy():
    features = torch.arange(64.0).view(1, 1, 8, 8)
    assert fast([(features, torch.zeros(1, 8, 8, dtype=torch.long))], 1, 1, 1, 16, 1)[0] == 4


def test_the_scale_of_a_patch_does_not_matter():
    batches = drawn(1)
    plain = fast(batches, 4, 4, 4, 12, 1)
    scaled = [(features * torch.tensor([0.25, 1024.0]).view(2, 1, 1, 1), masks) for features, masks in batches]
    assert fast(scaled, 4, 4, 4, 12, 1) == plain
    # Channels among themselves do: they are of one patch.
    louder = [(features * torch.tensor([1.0, 1, 1, 1, 50]).view(1, 5, 1, 1), masks) for features, masks in batches]
    assert fast(louder, 4, 4, 4, 12, 1) != pytest.approx(plain)


def test_the_order_of_batches_does_not_matter():
    batches = drawn(2)
    assert fast(batches[::-1], 4, 4, 4, 12, 1) == pytest.approx(fast(batches, 4, 4, 4, 12, 1))
    joined = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    assert fast(joined, 4, 4, 4, 12, 1) == pytest.approx(fast(batches, 4, 4, 4, 12, 1))


def test_half_precision_is_counted_in_double():
    batches = [(features.half(), masks) for features, masks in drawn(3)]
    assert fast(batches, 4, 4, 4, 12, 1) == pytest.approx(slow(batches, 4, 4, 4, 12, 1))


# ---- the recommendation ----------------------------------------------------------------------------------------------------------------


def table(*rows):
    return [
        {"at": at, "decoder_share": share, "recognition": None if ratio is None else {"ratio": ratio}} for at, share, ratio in rows
    ]


# The paper's Table 4: PSPNet-score over that of real features, 86.15; the decoder shrinks from left to right.
PAPER = {
    "images": 2.22, "conv1_3": 9.76, "conv2_3": 26.97, "conv3_4": 56.77, "conv4_6": 70.66, "conv4_12": 74.33, "conv4_18": 61.54,
    "conv4_23": 83.78,
}  # fmt: skip


def test_the_rule_finds_the_papers_cut():
    rows = table(*((at, 1 - number / 10, score / 86.15) for number, (at, score) in enumerate(PAPER.items())))
    for shuffled in (rows, rows[::-1]):
        assert recommend(shuffled) == (
            "conv4_12",
            "Recommended: conv4_12. Its synthetic features are recognised 0.86 times as well as real ones (conv4_23, the best: 0.97), and 50% of "
            "the parameters lie after it. A rule of thumb: of the cuts with 0.85 times the best ratio or more (2 of 8), the one that leaves "
            "most to the decoder.",
        )


def test_the_best_stage_may_be_the_earliest():
    best, why = recommend(table(("a", 0.9, 0.9), ("b", 0.4, 0.8)))
    assert best == "a"
    assert "0.90 times as well as real ones (the best of all)" in why


def test_a_ratio_above_one_counts_as_one():
    assert recommend(table(("a", 0.9, 0.9), ("b", 0.4, 1.6)))[0] == "a"


def test_stages_without_a_score_are_passed_over():
    assert recommend(table(("a", 0.9, None), ("b", 0.5, math.nan), (["c", "d"], 0.4, 0.8)))[0] == ["c", "d"]


def test_nothing_is_recommended_without_generators_or_with_raw_ones():
    assert recommend(table(("a", 0.9, None))) == (
        None,
        "No recommendation: entropy and overlap do not tell by themselves which cut helps (in the paper's Table 4 they do not). Train "
        "generators, too: generator_images.",
    )
    assert recommend(table(("a", 0.9, 0.1), (["b", "c"], 0.5, 0.4))) == (
        None,
        "No recommendation: the best generator, at b, c, is recognised 0.40 times as well as real features. Train them on more images: "
        "below 0.5 they are too raw to be compared.",
    )


# ---- the whole -------------------------------------------------------------------------------------------------------------------------


class TinyModel(nn.Module):
    def __init__(self, skip=False):
        super().__init__()
        self.skip = skip
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        )
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, images):
        logits = self.head(self.encoder(images))
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear")
        return logits + images.mean() if self.skip else logits


def patches(batches=3, size=(32, 48)):
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 3, *size, generator=rng), torch.randint(4, (2, *size), generator=rng)) for _ in range(batches)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyModel()


AT = ["encoder.0:input", "encoder.2", "encoder"]


def run(model, loader=None, **kwargs):
    given = {"at": AT, "min_cells": 1, "device": "cpu", "progress": False} | kwargs
    return feataug.stages(model, patches() if loader is None else loader, 4, **given)


def test_stages_agree_with_pixel_loops_on_the_models_own_features(model):
    result = run(model, bins=8)
    model.eval()
    layers = [(lambda x: x, 1), (model.encoder[:3], 2), (model.encoder, 4)]
    for row, (layer, reduction) in zip(result["stages"], layers, strict=True):
        with torch.no_grad():
            batches = [(layer(images), masks) for images, masks in patches()]
        assert (row["entropy"], row["hist_iou"]) == pytest.approx(slow(batches, reduction, 4, 4, 8, 1), rel=1e-6)
    assert [row["at"] for row in result["stages"]] == AT
    assert [row["levels"][0]["channels"] for row in result["stages"]] == [3, 6, 8]
    assert [row["levels"][0]["reduction"] for row in result["stages"]] == [1, 2, 4]
    shares = [sum(p.numel() for p in part.parameters()) for part in (model, model.encoder[3:], model.head)]
    total = sum(p.numel() for p in model.parameters())
    expected = [shares[0] / total, (shares[1] + shares[2]) / total, shares[2] / total]
    assert [row["decoder_share"] for row in result["stages"]] == pytest.approx(expected)
    assert result["images"] == 6
    assert result["stride"] == 4
    assert sum(result["cells"]) == 6 * 8 * 12
    assert result["recommended"] is None
    assert json.loads(json.dumps(result)) == result


def test_few_places_leave_a_class_out(model):
    loader = [(images, masks.masked_fill(masks == 2, VOID)) for images, masks in patches()]
    loader[0][1][0, 2, 2] = 2
    result = run(model, loader, min_cells=2)
    assert result["cells"][2] == 1
    assert result["classes"] == [0, 1, 3]
    only = [(images, masks.clamp(max=0)) for images, masks in patches()]
    result = run(model, only)
    assert result["classes"] == [0]
    assert all(row["hist_iou"] is None for row in result["stages"])
    assert "encoder.2" in stages_table(result)


def test_the_number_of_patches_is_kept_to(model):
    # More than one batch, and not a whole number of them.
    short = [patches()[0], tuple(part[:1] for part in patches()[1])]
    assert run(model, num_images=3) == run(model, short, num_images=3)
    assert run(model, num_images=3)["images"] == 3


def test_the_model_stays_as_it_is(model):
    model.train()
    model.encoder[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    run(model, generator_images=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_generators_are_trained_and_measured(model):
    config = GeneratorConfig(lr=1e-3, critic_width=4)
    result = run(model, at=AT[1:], generator_images=4, config=config, val_loader=patches(1))
    for row in result["stages"]:
        score = row["recognition"]
        assert set(score) == {"real", "synthetic", "ratio", "diversity", "seconds"}
        assert score["ratio"] == pytest.approx(score["synthetic"] / score["real"])
        expected = feataug.evaluate(model.eval(), patches(1), 4)["miou"]
        assert score["real"] == pytest.approx(expected, abs=1e-3)
    best, why = recommend(result["stages"])
    assert (result["recommended"], result["why"]) == (best, why)
    again = run(model, at=AT[1:], generator_images=4, config=config, val_loader=patches(1))
    for one, other in zip(result["stages"], again["stages"], strict=True):
        assert one["recognition"] | {"seconds": 0} == other["recognition"] | {"seconds": 0}
    text = stages_table(result)
    assert f"{result['stages'][0]['recognition']['real']:.2f}" in text
    assert text.endswith(why)


def test_by_default_the_images_and_bottlenecks(model):
    found = candidates(model)
    assert found[0] == "encoder:input"
    assert "encoder" in found
    assert [row["at"] for row in run(model, at=None)["stages"]] == found


def test_candidates_are_spread_over_the_model():
    net = PSPNet("test_resnet", 4, width=8)
    every, some = candidates(net, count=99), candidates(net, count=3)
    assert every[0] == some[0] == "encoder:input"
    assert len(some) == 4
    assert (some[1], some[-1]) == (every[1], every[-1])
    assert set(some) < set(every)
    for at in every:
        feataug.split(net, at)


def test_images_that_are_read_twice_are_no_stage():
    torch.manual_seed(0)
    with pytest.raises(SplitError) as error:
        candidates(TinyModel(skip=True))
    assert str(error.value) == (
        "stages: the model has no place to cut.\n"
        "  given:   TinyModel; feataug.cuts finds none\n"
        "  needed:  a layer after which its output alone is read\n"
        "Name the candidates: at=[...]; a cut may also name several layers."
    )


def test_several_levels_and_class_tokens():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
            self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(6, 4, 1)

        def forward(self, images):
            fine = self.fine(images)
            coarse = self.second(self.coarse(fine))
            return F.interpolate(self.first(fine) + F.interpolate(coarse, fine.shape[-2:]), images.shape[-2:])

    torch.manual_seed(0)
    net = Pyramid()
    (row,) = run(net, at=[["fine", "coarse"]], bins=8)["stages"]
    assert row["at"] == ["fine", "coarse"]
    expected = []
    with torch.no_grad():
        for layer, reduction in ((net.fine, 2), (nn.Sequential(net.fine, net.coarse), 4)):
            batches = [(layer(images), masks) for images, masks in patches()]
            expected.append((slow(batches, reduction, 4, 4, 8, 1), layer(patches()[0][0]).shape[1]))
    for name, number in (("entropy", 0), ("hist_iou", 1)):
        mean = sum(found[number] * channels for found, channels in expected) / sum(channels for _, channels in expected)
        assert row[name] == pytest.approx(mean, rel=1e-6)
    assert label(row["at"]) == "fine, coarse"


# ---- what goes wrong -------------------------------------------------------------------------------------------------------------------


def refused(error, text, *args, **kwargs):
    with pytest.raises(error) as found:
        run(*args, **kwargs)
    assert str(found.value) == text


def test_refuses_candidates_that_are_none(model):
    needed = "  needed:  one or more different places, such as ['encoder.layer2', 'encoder.layer3']"
    refused(ConfigError, f"stages: candidates must be named once.\n  given:   at=[]\n{needed}", model, at=[])
    twice = ["encoder", "encoder"]
    refused(ConfigError, f"stages: candidates must be named once.\n  given:   at={twice!r}\n{needed}", model, at=twice)
    refused(
        ConfigError,
        "stages: at is no sequence.\n  given:   str 'encoder'\n  needed:  layers' names, such as ['encoder.layer2', 'encoder.layer3']",
        model,
        at="encoder",
    )


def test_refuses_a_cut_that_leaks():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, images):
            x = self.first(images)
            return x + self.second(x)

    refused(
        SplitError,
        'split: the cut at "second" leaks.\n'
        "  given:   read after the cut, made before it: 'first'\n"
        "  needed:  everything that the decoder reads crosses the cut\n"
        'A skip connection goes round this layer. Complete cuts: split(model, at=["first", "second"])',
        Skip(),
        at=["second"],
    )


def test_refuses_loaders_that_yield_nothing(model):
    refused(
        DataError,
        "stages: the loader yields nothing.\n  given:   no patch\n"
        "  needed:  an iterable of (images, masks) that can be read again and again",
        model,
        [],
    )
    refused(
        DataError,
        "stages: the loader yields less the second time.\n  given:   6 patches, then 0\n"
        "  needed:  the same patches twice: a DataLoader or a list, no iterator",
        model,
        iter(patches()),
    )


def test_refuses_too_few_places(model):
    refused(
        DataError,
        "stages: no class has enough places.\n"
        "  given:   0 places of the most frequent class in 6 patches, one in 4 x 4 pixels\n"
        "  needed:  min_cells, 1, or more\n"
        "More patches, or a smaller min_cells.",
        model,
        [(images, torch.full_like(masks, VOID)) for images, masks in patches()],
    )


def test_refuses_features_that_are_not_finite(model):
    model.encoder[3].weight.data[:] = math.nan
    text = 'stages: features are not finite.\n  given:   infinity or NaN at "encoder"\n  needed:  numbers; has the model diverged?'
    # The cut itself cannot be verified on NaN where they come before it.
    loader = [(images.masked_fill(images > 2, math.inf), masks) for images, masks in patches()]
    refused(DataError, text.replace('"encoder"', '"encoder.0:input"'), TinyModel(), loader)


def test_refuses_numbers_and_masks_of_another_size(model):
    for name, low in (("count", 1), ("num_images", 1), ("min_cells", 1), ("generator_images", 0)):
        text = f"stages: {name} is out of range.\n  given:   {low - 1}\n  needed:  an integer in [{low}, inf)"
        refused(ConfigError, text, model, **{name: low - 1})
    with pytest.raises(ShapeError, match="stages: the features do not fit the spec"):
        run(model, [(images, masks[:, :20]) for images, masks in patches()])


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_the_command_prints_a_table_and_writes_it(tmp_path, capsys):
    torch.manual_seed(0)
    small = {"channels": (8, 8, 16, 16), "stem_width": 8}
    PSPNet("resnet10t", Scenes.num_classes, output_stride=8, width=8, encoder_kwargs=small).save_pretrained(tmp_path / "base")
    command = ["stages", "--dataset", "scenes", "--size", "32", "48", "--batch-size", "8", "--quiet", "--device", "cpu"]
    command += ["--model", str(tmp_path / "base"), "--num-images", "16", "--min-cells", "5", "--output", str(tmp_path / "out")]
    assert main([*command, "--at", "encoder.layer2.0", "encoder.layer3.0", "--generator-images", "8"]) == 0
    out = capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [row["at"] for row in stored["stages"]] == ["encoder.layer2.0", "encoder.layer3.0"]
    assert stages_table(stored) in out
    assert f"written: {tmp_path / 'out' / 'result.json'}" in out
    assert all(row["recognition"]["real"] >= 0 for row in stored["stages"])
    assert main([*command, "--at", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith('SplitError: split: the model has no layer "nowhere".\n')


def test_the_statistics_of_scenes(model):
    data = Scenes(8, (32, 48), transforms=eval_transforms())
    result = feataug.stages(model, seeded_loader(data, 4), Scenes.num_classes, at=AT, min_cells=5, device="cpu", progress=False)
    assert all(0 <= row["entropy"] <= 5 and 0 <= row["hist_iou"] <= 1 for row in result["stages"])
