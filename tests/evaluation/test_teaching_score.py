"""``feataug.teaching_score``: what it finds on planted data, and that all sources see the same."""

from __future__ import annotations

import copy
import json
import re

import pytest
import timm
import torch
from torch import nn

import feataug
from feataug.core.measures import MEASURES
from feataug.errors import ConfigError
from feataug.evaluation import ClassGaussians
from feataug.io.results import teaching_summary
from feataug.reporting.tables import teaching_table
from tests.support.teaching_runs import (
    CLASSES,
    Dropping,
    Net,
    figures,
    planted,
    teach,
    trained_on,
)

pytestmark = pytest.mark.xdist_group("teaching")


def test_a_generator_of_prototypes_is_recognised_and_does_not_teach(loud, prototypes, tmp_path):
    before = {name: value.clone() for name, value in loud.state_dict().items()}
    modes = [module.training for module in loud.modules()]
    asked = [parameter.requires_grad for parameter in loud.parameters()]
    cut = feataug.split(copy.deepcopy(loud).eval(), "encoder")
    assert feataug.recognition(cut, prototypes, planted("loud", 2))["ratio"] > 0.95
    result = teach(
        loud, generator=prototypes, sources=("generator", "real", "gaussians"), seeds=(0, 1), output=tmp_path,
        classes=("a", "b", "c", "d"),
    )  # fmt: skip
    score = {name: parts["after"] for name, parts in result["score"].items()}
    assert list(score) == ["real", "generator", "gaussians"]
    assert score["real"] == 1
    assert score["gaussians"] > 0.95
    assert score["generator"] < 0.7
    assert result["differences"]["generator"]["after"]["miou"]["mean"] < -20
    assert re.fullmatch(
        r"After the class bias, real features teach a fresh decoder 9\d\.\d\d mIoU\. generator: \d\d\.\d\d mIoU, \d\d% of that "
        r"\(-\d\d\.\d\d \[\S+, \S+\] points\)\. gaussians: 9\d\.\d\d mIoU, \d+% of that \(\S+ \[\S+, \S+\] points\)\. "
        r"(The generator teaches less than class Gaussians|No difference is shown between the generator and class Gaussians) "
        r"\(-\d\d\.\d\d \[\S+, \S+\] points\)\.",
        result["verdict"],
    )
    assert teaching_table(result).splitlines()[0].split() == ["features", "seeds", "mIoU", "with", "bias", "score", "with", "bias"]
    assert teaching_table(result).endswith(result["verdict"])
    assert teaching_summary(result) == {
        "real": result["sources"]["real"]["after"]["miou"],
        "synthetic": result["sources"]["generator"]["after"]["miou"],
        "score": score["generator"],
        "gaussians": result["sources"]["gaussians"]["after"]["miou"],
    }
    # The model that was passed in is as it was.
    assert all(torch.equal(value, before[name]) for name, value in loud.state_dict().items())
    assert [module.training for module in loud.modules()] == modes
    assert [parameter.requires_grad for parameter in loud.parameters()] == asked
    # What is returned is what is written; means and scores are those of the runs.
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    for name in score:
        for moment in ("before", "after"):
            runs = [entry[name][moment] for entry in result["seeds"]]
            real = [entry["real"][moment] for entry in result["seeds"]]
            for measure in MEASURES:
                assert result["sources"][name][moment][measure] == pytest.approx(sum(run[measure] for run in runs) / 2)
            shares = [run["miou"] / base["miou"] for run, base in zip(runs, real, strict=True)]
            assert result["score"][name][moment] == pytest.approx(sum(shares) / 2)
    assert set(result["seeds"][0]["real"]["after"]["per_class"]) == {"a", "b", "c", "d"}
    assert len(result["seeds"][1]["generator"]["class_bias"]) == CLASSES


def test_class_gaussians_do_not_teach_what_is_no_gaussian():
    result = teach(trained_on("ring"), "ring", sources=("real", "gaussians"))
    assert result["sources"]["real"]["after"]["miou"] > 95
    assert result["score"]["gaussians"]["after"] < 0.6
    assert "One seed" not in result["verdict"]


def test_a_source_that_returns_real_features_is_the_real_one(loud):
    torch.manual_seed(0)
    model = Dropping()
    seen = {"one": [], "two": []}

    def spy(name):
        def source(masks, real, rng):
            seen[name].append((masks.clone(), torch.rand(1, generator=rng)))
            torch.rand(100)  # A source that disturbs the global generator changes nothing.
            return tuple(level.clone() for level in real)

        return source

    result = teach(model, steps=4, others={"one": spy("one"), "two": spy("two")}, seeds=(3, 4))
    for number in range(2):
        assert figures(result, "one", number) == figures(result, "real", number) == figures(result, "two", number)
    # Masks and random numbers depend on seed and step alone: 4 steps and 6 batches for BatchNorm, for each seed.
    assert len(seen["one"]) == 20
    for one, two in zip(seen["one"], seen["two"], strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
    assert len({float(drawn) for _, drawn in seen["one"]}) == 20


def test_the_encoder_is_the_trained_one_and_the_decoder_is_not(loud):
    from feataug.evaluation.teaching.decoder_training import teach as train
    from feataug.evaluation.teaching.fresh_decoder import fresh_decoder

    def fresh(seed):
        model = Net()
        nn.init.constant_(model.head[3].bias, seed)
        return model

    for make in (None, fresh):
        cut = fresh_decoder(loud, "encoder", 7, make)
        again = fresh_decoder(loud, "encoder", 7, make)
        start = copy.deepcopy(cut.model.state_dict())
        # The seed decides the new weights.
        assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in start.items())
        for name, value in loud.state_dict().items():
            if name.startswith("encoder"):
                assert torch.equal(start[name], value)
            elif name != "head.1.weight":  # whose first value is 1 in any norm
                assert not torch.equal(start[name], value), name
        assert make is None or (start["head.3.bias"] == 7).all()
        assert {name for name, p in cut.model.named_parameters() if p.requires_grad} == {
            name for name, _ in loud.named_parameters() if name.startswith("head")
        }
        config = feataug.FinetuneConfig(num_steps=5, lr=0.2, lr_scale={"head.3": 0.0}, weight_decay=0.0)
        model = train(cut, lambda masks, real, rng: real, lambda: planted("loud", 3), config, CLASSES, name="real", device="cpu", progress=False)
        for name, value in model.state_dict().items():
            # A factor of 0 reaches the weights that it names.
            same = name.startswith(("encoder", "head.3"))
            assert torch.equal(value, start[name]) == same, name
        assert not any(module.training for module in model.modules())


def test_bn_is_measured_on_what_the_decoder_was_trained_on(loud):
    from feataug.evaluation.teaching.decoder_training import teach as train
    from feataug.evaluation.teaching.fresh_decoder import fresh_decoder

    cut = fresh_decoder(loud, "encoder", 0)

    def shifted(masks, real, rng):
        return tuple(level + 100 for level in real)

    config = feataug.FinetuneConfig(num_steps=2, lr=0.1)
    model = train(cut, shifted, lambda: planted("loud", 3), config, CLASSES, name="shifted", bn_batches=2, device="cpu", progress=False)
    with torch.no_grad():
        found = [model.head[0](model.encoder(images) + 100) for images, _ in planted("loud", 3)[:2]]
        # The average over batches, of two batches and not of the third.
        mean = torch.stack([x.mean((0, 2, 3)) for x in found]).mean(0)
    assert torch.allclose(model.head[1].running_mean, mean, rtol=1e-4, atol=1e-3)
    assert int(model.head[1].num_batches_tracked) == 2


class Composite(Net):
    """Norms with parts of their own, as timm's, and without weights."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 1), timm.layers.BatchNormAct2d(6), nn.Conv2d(6, 6, 1))
        self.bare = nn.BatchNorm2d(6, affine=False)
        self.head = nn.Sequential(nn.Conv2d(6, 8, 1), timm.layers.BatchNormAct2d(8), nn.Conv2d(8, CLASSES, 1), nn.BatchNorm2d(CLASSES, affine=False))

    def forward(self, images):
        return self.head(self.bare(self.encoder(images)))


@pytest.mark.parametrize(("at", "before"), [("bare", ("encoder", "bare")), ("encoder", ("encoder",))])
def test_norms_of_any_kind_stay_or_are_measured(at, before):
    from feataug.evaluation.teaching.decoder_training import teach as train
    from feataug.evaluation.teaching.fresh_decoder import fresh_decoder

    torch.manual_seed(0)
    model = Composite()
    for images, _ in planted("loud", 1):
        model(images)
    cut = fresh_decoder(model, at, 0)
    start = copy.deepcopy(cut.model.state_dict())
    for name, value in start.items():
        # Statistics after the cut begin anew, those before it are the trained ones.
        if "running" in name:
            assert torch.equal(value, model.state_dict()[name]) == name.startswith(before), name
    config = feataug.FinetuneConfig(num_steps=3, lr=0.1)
    trained = train(cut, lambda masks, real, rng: real, lambda: planted("loud", 3), config, CLASSES, name="real", device="cpu", progress=False)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, start[name]) == name.startswith(before), name


def test_the_class_bias_is_fitted_on_training_images_and_helps(loud):
    def rare(seed):
        # Half of the pixels are void; what is left is mostly of class 0.
        return [(images, masks.masked_fill(masks > 0, 255)) for images, masks in planted("loud", seed + 10)] + planted("loud", seed, 1)

    result = teach(loud, loader=rare, bias_loader=planted("loud", 5))
    run = result["seeds"][0]["real"]
    assert run["after"]["miou"] > run["before"]["miou"]
    assert run["class_bias"][0] == min(run["class_bias"])


def test_windows(loud):
    torch.manual_seed(0)
    model = Net()
    # The model knows no context, so that windows change no more than rounding.
    whole, windows = teach(model, steps=3), teach(model, steps=3, window=(8, 8))
    assert windows["settings"]["window"] == [8, 8]
    for measure in MEASURES:
        assert figures(whole, "real")["before"][measure] == pytest.approx(figures(windows, "real")["before"][measure], abs=0.2)
    # Images of the crops' size are predicted whole; larger ones by windows that a fresh decoder knows.
    assert whole["settings"]["window"] is None

    def crops(seed):
        return [(images[..., :8, :8].contiguous(), masks[..., :8, :8].contiguous()) for images, masks in planted("loud", seed)]

    assert teach(model, steps=1, loader=crops)["settings"]["window"] == [8, 8]
    assert teach(model, steps=1, loader=crops, window=None)["settings"]["window"] is None
    with pytest.raises(ConfigError) as error:
        teach(model, window="crops")
    assert (
        str(error.value) == "teaching_score: window is not offered.\n  given:   'crops'\n  needed:  \"auto\", None, or rows and columns"
    )


def test_several_levels(tiny_net):
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny_net(CLASSES)
            self.side = nn.Conv2d(8, CLASSES, 1)

        def forward(self, images):
            stem = self.net.stem(images)
            out = self.net.head(self.net.body(stem))
            return nn.functional.interpolate(out, images.shape[-2:]) + nn.functional.interpolate(self.side(stem), images.shape[-2:])

    model = Skips()
    at = ["net.stem", "net.body"]
    spec = feataug.split(copy.deepcopy(model), at).spec
    generator = feataug.FeatureGenerator(CLASSES, spec, width=4, depth=1)
    seen = []

    def copied(masks, real, rng):
        seen.append([tuple(level.shape) for level in real])
        return real

    result = feataug.teaching_score(
        model, at, generator, lambda seed: planted("loud", seed), planted("loud", 2, 1),
        feataug.FinetuneConfig(num_steps=2, lr=0.1), seeds=(0,), others={"copied": copied}, device="cpu", progress=False,
    )  # fmt: skip
    assert seen[0] == [(4, 8, 8, 12), (4, 16, 4, 6)]
    assert figures(result, "copied") == figures(result, "real")
    assert all(parts["after"] >= 0 for parts in result["score"].values())


class Transformer(nn.Module):
    """Patches and a class token; the head reads both."""

    def __init__(self):
        super().__init__()
        self.vit = timm.create_model("test_vit", img_size=32, num_classes=0, global_pool="")
        self.head = nn.Linear(2 * self.vit.num_features, CLASSES)

    def forward(self, images):
        tokens = self.vit(images)
        patches, token = tokens[:, 1:], tokens[:, :1].expand(-1, tokens.shape[1] - 1, -1)
        logits = self.head(torch.cat([patches, token], -1)).transpose(1, 2).unflatten(2, (2, 2))
        return nn.functional.interpolate(logits, images.shape[-2:])


def test_tokens(rng):
    torch.manual_seed(0)
    model, example = Transformer().eval(), torch.zeros(1, 3, 32, 32)
    data = [(torch.randn(4, 3, 32, 32, generator=rng), torch.randint(CLASSES, (4, 32, 32), generator=rng)) for _ in range(2)]
    cut = feataug.split(model, "vit.blocks.1", example=example)
    assert [level.tokens for level in cut.spec] == [0, 1]
    # A token is drawn from what is known of that token: with few images, close to their mean.
    source = ClassGaussians.fit(cut, data, CLASSES, spread=0.0)
    real = [cut.encode(images)[1] for images, _ in data]
    drawn = source(data[0][1], cut.encode(data[0][0]), rng)[1]
    assert torch.allclose(drawn, torch.cat(real).mean(0, keepdim=True).expand_as(drawn), atol=1e-4)
    result = feataug.teaching_score(
        model, "vit.blocks.1", None, lambda seed: data, data, feataug.FinetuneConfig(num_steps=2, lr=0.1), seeds=(0,),
        sources=("real", "gaussians"), num_classes=CLASSES, example=example, device="cpu", progress=False,
    )  # fmt: skip
    assert set(result["score"]) == {"real", "gaussians"}
