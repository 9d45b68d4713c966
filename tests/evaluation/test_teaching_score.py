"""``feataug.teaching_score``: what it finds on planted data, that all sources see the same, resuming, and its messages."""

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
from feataug.data import seeded_loader
from feataug.errors import CheckpointError, ConfigError, DataError, DtypeError, ShapeError
from feataug.evaluation import ClassGaussians
from feataug.io.results import teaching_summary
from feataug.reporting.tables import teaching_table
from feataug.training.checkpoint import checkpoints
from tests.support import forks

pytestmark = pytest.mark.xdist_group("teaching")

CLASSES, SIZE = 4, (16, 24)


class Net(nn.Module):
    """Every pixel by itself: a linear encoder, a decoder that can draw any boundary."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
        self.head = nn.Sequential(nn.Conv2d(6, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, CLASSES, 1))

    def forward(self, images):
        return self.head(self.encoder(images))


def planted(kind: str, seed: int, batches: int = 6):
    """Batches of 4 images whose pixels hold three numbers, drawn by class.

    ``"loud"``: the first number tells the classes apart. Their means differ more in the second, whose spread is larger still: who knows the
    means alone relies on it. ``"ring"``: two pairs of classes; those of a pair have equal means and covariances, and lie on different parts
    of a ring.
    """
    rng, made = torch.Generator().manual_seed(seed), []
    for _ in range(batches):
        masks = torch.randint(CLASSES, (4, SIZE[0] // 4, SIZE[1] // 4), generator=rng)
        masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
        noise = torch.randn(*masks.shape, 3, generator=rng)
        if kind == "loud":
            parts = [masks + 0.2 * noise[..., 0], 4 * (masks % 2) + 3 * (masks // 2) + 4 * noise[..., 1], noise[..., 2]]
        else:
            angle = (torch.randint(4, masks.shape, generator=rng) + (masks % 2) / 2) * torch.pi / 2
            parts = [3 * angle.cos(), 3 * angle.sin(), 2.0 * (masks // 2)]
            parts = [part + 0.3 * noise[..., number] for number, part in enumerate(parts)]
        made.append((torch.stack(parts, 1), masks))
    return made


def trained_on(kind):
    torch.manual_seed(0)
    model = Net()
    config = feataug.FinetuneConfig(num_steps=200, lr=0.2)
    feataug.Finetuner(model, config, device="cpu", progress=False).fit(planted(kind, 1))
    return model


@pytest.fixture(scope="module")
def loud():
    return trained_on("loud")


class Prototypes(feataug.FeatureGenerator):
    """The planted fault: a generator that gives each class one feature."""

    def __init__(self, cut):
        super().__init__(CLASSES, cut.spec, mask_widths=(4,), width=4, depth=0, latent_dim=2)
        self.means = ClassGaussians.fit(cut, planted("loud", 1), CLASSES, spread=0.0)
        means, stds = zip(*((x.mean((0, 2, 3)), x.std((0, 2, 3))) for x in cut.encode(planted("loud", 1)[0][0])), strict=True)
        self.set_statistics(means, stds)

    def forward(self, masks, z=None, *, samples=1, **kwargs):
        like = [torch.zeros(samples * len(masks), level.channels, *level.size(masks.shape[-2:])) for level in self.spec]
        return self.means(masks.repeat(samples, 1, 1), like, torch.Generator())


@pytest.fixture(scope="module")
def prototypes(loud):
    return Prototypes(feataug.split(copy.deepcopy(loud).eval(), "encoder"))


def teach(model, kind="loud", *, generator=None, steps=80, loader=None, **kwargs):
    kwargs.setdefault("sources", ("real",))
    kwargs.setdefault("seeds", (0,))
    return feataug.teaching_score(
        model,
        "encoder",
        generator,
        loader or (lambda seed: planted(kind, seed + 10)),
        planted(kind, 2, 3),
        feataug.FinetuneConfig(num_steps=steps, lr=0.2, save_every=2),
        num_classes=CLASSES,
        device="cpu",
        progress=False,
        **kwargs,
    )


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


def figures(result, name, number=0):
    return {moment: result["seeds"][number][name][moment] for moment in ("before", "after")}


class Dropping(Net):
    """A decoder whose training draws random numbers."""

    def __init__(self):
        super().__init__()
        self.head.insert(2, nn.Dropout2d(0.2))


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


STOPPED = """
import os, signal
import torch
torch.set_num_threads(1)
from tests.evaluation import test_teaching_score as t
calls = []
def source(masks, real, rng):
    calls.append(1)
    if {stop} and len(calls) == {stop}:
        os.kill(os.getpid(), signal.SIGKILL)
    return tuple(x + torch.randn(x.shape, generator=rng) for x in real)
model = t.Dropping()
model.load_state_dict(torch.load({weights!r}))
data = [(x, y) for images, masks in t.planted("loud", 10) for x, y in zip(images, masks)]
# Of other loaders it is not known what a later batch is.
loader = lambda seed: t.seeded_loader(data, 4, seed=seed)
result = t.teach(model, steps=8, loader=loader, others={{"own": source}}, output={folder!r})
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tmp_path):
    torch.manual_seed(0)
    torch.save(Dropping().state_dict(), tmp_path / "weights")

    def run(folder, stop):
        text = STOPPED.format(stop=stop, weights=str(tmp_path / "weights"), folder=str(tmp_path / folder))
        done = forks.run(text)
        assert done.returncode in (0, -9), done.stderr
        return done.returncode

    assert run("undisturbed", 0) == 0
    # In training after its second checkpoint, then while BatchNorm is measured.
    assert run("killed", 6) == -9
    assert not (tmp_path / "killed/seed-0/own.json").exists()
    assert checkpoints(tmp_path / "killed/seed-0/own")[0].name.endswith("4.safetensors")
    assert run("killed", 7) == -9
    assert run("killed", 0) == 0
    wanted, found = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("undisturbed", "killed"))
    for name in ("real", "own"):
        assert figures(wanted, name) == figures(found, name)
        assert wanted["seeds"][0][name]["class_bias"] == found["seeds"][0][name]["class_bias"]


def test_what_is_done_is_not_run_again_and_other_runs_are_refused(loud, tmp_path):
    calls = []

    class Shifted:
        def __init__(self, by):
            self.by = by

        def __call__(self, masks, real, rng):
            calls.append(self.by)
            return tuple(level + self.by for level in real)

    first = teach(loud, steps=2, others={"shifted": Shifted(1.0)}, output=tmp_path)
    count = len(calls)
    assert count == 2 + 6
    assert teach(loud, steps=2, others={"shifted": Shifted(1.0)}, output=tmp_path) == first
    both = teach(loud, steps=2, others={"shifted": Shifted(1.0)}, output=tmp_path, seeds=(0, 1))
    assert both["seeds"][0] == first["seeds"][0]
    assert len(calls) == 2 * count
    # A source less, or one more, leaves the others as they are.
    assert teach(loud, steps=2, output=tmp_path)["seeds"][0]["real"] == first["seeds"][0]["real"]
    with pytest.raises(CheckpointError) as error:
        teach(loud, steps=2, others={"shifted": Shifted(2.0)}, output=tmp_path)
    arm = tmp_path / "seed-0/shifted"
    assert str(error.value) == (
        "teaching_score: the output folder holds a run with other settings.\n"
        "  given:   source.function.by=2.0\n"
        f"  needed:  source.function.by=1.0, as in {arm}.json\n"
        f"Use another output folder, or delete this file and {arm} to run that arm again."
    )
    with pytest.raises(CheckpointError, match=r"given:   config\.num_steps=3, window=\[8, 8\]\n  needed:  config\.num_steps=2, window=None"):
        teach(loud, steps=3, window=(8, 8), output=tmp_path)
    other = copy.deepcopy(loud)
    other.head[3].bias.data += 1
    with pytest.raises(CheckpointError, match=r"given:   model=\S+\n  needed:  model=\S+, as in "):
        teach(other, steps=2, output=tmp_path)


def test_a_loader_that_does_not_repeat_itself(loud):
    order = iter(range(100))
    with pytest.raises(DataError, match="teaching_score: the loader does not repeat itself"):
        teach(loud, loader=lambda seed: planted("loud", next(order)))
    data = [(images[0], masks[0]) for images, masks in planted("loud", 1)]
    assert teach(loud, steps=2, loader=lambda seed: seeded_loader(data, 2, seed=seed))["score"]["real"]["after"] == 1


def text_of(kind, function):
    with pytest.raises(kind) as error:
        function()
    return str(error.value)


def test_messages(loud):
    assert text_of(ConfigError, lambda: teach(loud, sources=("generator",))) == (
        "teaching_score: sources do not fit.\n"
        "  given:   ('generator',)\n"
        "  needed:  'real', which the others are compared with, and any of 'generator', 'gaussians', each once"
    )
    assert text_of(ConfigError, lambda: teach(loud, sources=("real", "mine"))) == (
        "teaching_score: sources do not fit.\n"
        "  given:   ('real', 'mine')\n"
        "  needed:  'real', which the others are compared with, and any of 'generator', 'gaussians', each once\n"
        "Sources of your own go into others={name: source}."
    )
    assert text_of(ConfigError, lambda: teach(loud, sources=("real", "generator"))) == (
        "teaching_score: there is no generator.\n"
        "  given:   generator=None\n"
        "  needed:  a FeatureGenerator trained for this cut\n"
        "Without one, leave it out: sources=('real', 'gaussians'), num_classes=..."
    )
    assert text_of(ConfigError, lambda: teach(loud, others={"real": 3})) == (
        "teaching_score: a source of others does not fit.\n"
        "  given:   'real': int 3\n"
        "  needed:  another name than those of our sources, and a function (masks, real, rng) -> features"
    )
    assert text_of(ConfigError, lambda: teach(loud, seeds=(1, 1))) == (
        "teaching_score: seeds must differ.\n  given:   (1, 1)\n  needed:  one or more different integers"
    )
    assert text_of(ConfigError, lambda: teach(loud, loader=planted("loud", 0))) == "teaching_score: loader takes no seed.\n" + (
        "  given:   list\n"
        "  needed:  a function of the seed that returns a loader, so that all sources see the same batches\n"
        "loader=lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)"
    )
    assert text_of(ConfigError, lambda: teach(loud, fresh=lambda seed: nn.Conv2d(3, 4, 1))).startswith(
        "teaching_score: fresh makes a model of another architecture.\n"
        "  given:   bias (4,), encoder.0.bias missing, encoder.0.weight missing, encoder.1.bias missing, "
        "encoder.1.num_batches_tracked missing and 13 more differences\n"
        "  needed:  bias none, encoder.0.bias (6,), "
    )
    assert text_of(ConfigError, lambda: teach(loud, fresh=lambda seed: None)) == (
        "teaching_score: fresh returns no model.\n  given:   NoneType None\n  needed:  a Net, untrained"
    )


def test_messages_of_sources(loud):
    wrong = {"short": lambda masks, real, rng: (real[0][:, :3],)}
    text = text_of(ShapeError, lambda: teach(loud, others=wrong))
    assert text.startswith(
        "teaching_score: source 'short': the features do not fit the spec.\n"
        '  given:   [4, 3, 16, 24] float32 on cpu   at level "encoder"\n'
        "  needed:  [B, 6, 16, 24]   (channels 6, reduction 1, for masks of 16 x 24)"
    )
    text = text_of(ShapeError, lambda: teach(loud, others={"few": lambda masks, real, rng: (real[0][:2],)}))
    assert text == (
        "teaching_score: source 'few': features and masks hold different numbers of samples.\n"
        "  given:   2 features, 4 masks\n"
        "  needed:  one mask for each sample"
    )
    text_of(DtypeError, lambda: teach(loud, others={"whole": lambda masks, real, rng: (real[0].long(),)}))


class Bare(Net):
    """A decoder with a weight that no ``reset_parameters`` makes new."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * super().forward(images)


def test_a_weight_that_cannot_be_made_new():
    assert text_of(ConfigError, lambda: teach(Bare())) == (
        "teaching_score: weights after the cut cannot be re-initialised.\n"
        "  given:   scale: their modules have no reset_parameters()\n"
        "  needed:  fresh=, a function of a seed that returns such a model as it is before training\n"
        "fresh=lambda seed: MyModel(pretrained=True)"
    )
    assert teach(Bare(), steps=2, fresh=lambda seed: Bare())["score"]["real"]["after"] == 1


class Shared(Net):
    """One weight on both sides of the cut, used without its module."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Parameter(torch.ones(3))

    def forward(self, images):
        out = self.encoder(images * self.shared[:, None, None])
        return self.head(out) * self.shared.sum()


def test_a_weight_on_both_sides_of_the_cut():
    torch.manual_seed(0)
    assert text_of(feataug.errors.TrainingError, lambda: teach(Shared(), fresh=lambda seed: Shared(), steps=20)) == (
        "teaching_score: the encoder has changed while the decoder was trained.\n"
        '  given:   other features at level "encoder"\n'
        "  needed:  a cut where no weight or buffer is used on both sides\n"
        "Cut at another layer: feataug.cuts(model, images) lists them."
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
    generator = feataug.FeatureGenerator(CLASSES, spec, mask_widths=(4,), width=4, depth=0, latent_dim=2)
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


def test_a_generator_for_another_cut_is_refused_before_anything_is_trained(loud, prototypes, tmp_path):
    with pytest.raises(ShapeError, match="teaching_score: the generator was made for another cut"):
        feataug.teaching_score(
            loud, "head.0", prototypes, lambda seed: planted("loud", 1), planted("loud", 2), feataug.FinetuneConfig(num_steps=2),
            output=tmp_path, device="cpu", progress=False,
        )  # fmt: skip
    assert not list(tmp_path.rglob("*.json*"))
