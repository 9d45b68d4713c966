"""``feataug.compare``: paired runs, intervals, resuming, and that it can say no."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.core.measures import MEASURES
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.errors import CheckpointError, ConfigError
from feataug.evaluation import verdict
from feataug.reporting.plots import save_comparison
from feataug.reporting.tables import comparison_table, table

pytestmark = pytest.mark.xdist_group("comparison")

SIZE = (32, 48)
CLASSES = Scenes.num_classes


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images):
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:], mode="bilinear")


class Noise(nn.Module):
    """The planted fault: a generator that does not look at its masks."""

    def __init__(self, generator):
        super().__init__()
        self.spec, self.latent_dim, self.num_classes, self.ignore_index = (
            generator.spec, generator.latent_dim, generator.num_classes, generator.ignore_index,
        )  # fmt: skip
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, masks, z):
        rows, columns = self.spec[0].size(masks.shape[-2:])
        rng = torch.Generator().manual_seed(int(z.abs().sum() * 1000))
        return (10 * torch.randn(len(masks), self.spec[0].channels, rows, columns, generator=rng),)


@pytest.fixture(scope="module")
def trained():
    """A model that has learned something, and a generator for it."""
    torch.manual_seed(0)
    model = TinyModel()
    data = Scenes(16, SIZE, seed=0, transforms=train_transforms(SIZE))
    config = feataug.FinetuneConfig(num_steps=60, lr=0.1)
    feataug.Finetuner(model, config, device="cpu", progress=False).fit(seeded_loader(data, 8))
    spec = feataug.split(model, "encoder", example=torch.zeros(1, 3, *SIZE)).spec
    generator = feataug.FeatureGenerator(CLASSES, spec, mask_widths=(8,), width=8, depth=0, latent_dim=2)
    return model, generator, data


def compare(trained, *, steps=3, lr=0.02, generator=None, loader=None, **kwargs):
    model, own, data = trained
    val = Scenes(8, SIZE, seed=1, transforms=eval_transforms())
    return feataug.compare(
        model,
        "encoder",
        generator or own,
        kwargs.pop("masks", feataug.DatasetMasks(data)),
        loader or (lambda seed: seeded_loader(data, 8, seed=seed)),
        seeded_loader(val, 8, shuffle=False),
        feataug.FinetuneConfig(num_steps=steps, lr=lr),
        example=torch.zeros(1, 3, *SIZE),
        device="cpu",
        progress=False,
        **kwargs,
    )


def test_the_result_holds_what_it_promises(trained, tmp_path):
    before = copy.deepcopy(trained[0].state_dict())
    result = compare(trained, seeds=(3, 4), classes=Scenes.classes, output=tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in trained[0].state_dict().items())
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    assert [entry["seed"] for entry in result["seeds"]] == [3, 4]
    assert set(result["arms"]) == {"control", "feataug"}
    for name in MEASURES:
        for arm in ("control", "feataug"):
            runs = [entry[arm][name] for entry in result["seeds"]]
            assert result["arms"][arm][name] == pytest.approx(sum(runs) / 2)
        gaps = [entry["feataug"][name] - entry["control"][name] for entry in result["seeds"]]
        gap = result["difference"][name]
        assert gap["mean"] == pytest.approx(sum(gaps) / 2)
        assert gap["low"] <= gap["mean"] <= gap["high"]
    road = result["difference"]["per_class"]["road"]["iou"]
    pairs = [
        entry["feataug"]["per_class"]["road"]["iou"] - entry["control"]["per_class"]["road"]["iou"] for entry in result["seeds"]
    ]
    assert road["mean"] == pytest.approx(sum(pairs) / 2)
    text = comparison_table(result)
    assert "feataug minus control, 95 % intervals over 2 seeds: PixelAcc" in text
    assert text.endswith(result["verdict"])
    assert save_comparison(tmp_path / "x.png", result).read_bytes().startswith(b"\x89PNG")


def test_columns_are_apart_whatever_the_arms_are_called():
    figures = dict.fromkeys(MEASURES, 50.0) | {"per_class": {"road": {"iou": 50.0}, "sky": {"iou": None}}}
    lines = table({"base": figures, "class weights": figures, "features alone, both": figures}).splitlines()
    head, road, sky = (next(line for line in lines if line.startswith(name)) for name in ("IoU", "road", "sky"))
    assert re.split(r"\s{2,}", head) == ["IoU", "base", "class weights", "features alone, both"]
    assert road.split() == ["road", "50.00", "50.00", "50.00"]
    assert sky.split() == ["sky", "-", "-", "-"]
    assert len(head) == len(road) == len(sky)


def test_arms_are_paired(trained):
    seen: dict[str, list[torch.Tensor]] = {}

    def spy(name):
        def arm(model, loader, config, folder):
            seen[f"{name} {config.seed}"] = [images for images, _ in loader]
            return model

        return arm

    result = compare(trained, seeds=(0, 1), baselines={"one": spy("one"), "two": spy("two")}, update_bn=False)
    for seed in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(seen[f"one {seed}"], seen[f"two {seed}"], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen["one 0"], seen["one 1"], strict=True))
    # A baseline that does nothing stays where the base was, and stands in the table with its own difference.
    for entry in result["seeds"]:
        assert entry["one"]["miou"] == pytest.approx(result["base"]["miou"])
    assert set(result["differences"]) == {"feataug", "one", "two"}


def test_ratio_zero_is_the_control(trained):
    result = compare(trained, seeds=(0,), ratio=0.0)
    assert all(result["difference"][name]["mean"] == 0 for name in MEASURES)
    assert result["verdict"] == "Nothing can be said from a single seed: run more of them."
    assert "feataug minus control, one seed: PixelAcc +" in comparison_table(result)


def test_it_says_no_to_a_generator_that_emits_noise(trained):
    result = compare(trained, steps=12, lr=0.1, generator=Noise(trained[1]), seeds=(0, 1, 2), ratio=0.5, update_bn=False)
    assert "ahead" not in result["verdict"]
    assert result["difference"]["miou"]["mean"] < 0


def test_it_says_yes_to_an_arm_that_is_better(trained):
    model, _, data = trained
    torch.manual_seed(5)
    untrained = TinyModel()

    def better(copy_, loader, config, folder):
        copy_.load_state_dict(model.state_dict())
        return copy_

    # At learning rate 0 the control stays untrained.
    result = compare((untrained, trained[1], data), lr=0.0, seeds=(0, 1, 2), baselines={"trained": better}, update_bn=False)
    assert "trained is ahead in" in verdict(result["differences"]["trained"], "trained")
    assert result["differences"]["trained"]["miou"]["low"] > 0


def test_arms_that_are_done_are_not_run_again(trained, tmp_path):
    made = []

    def loader(seed):
        made.append(seed)
        return seeded_loader(trained[2], 8, seed=seed)

    masks = feataug.HardNegativeSampler(feataug.DatasetMasks(trained[2]), candidates=4, keep=2, refresh_every=1)
    first = compare(trained, seeds=(0,), output=tmp_path, loader=loader, masks=masks)
    # For the crops' size, twice to see that it repeats itself, then for each arm.
    assert made == [0, 0, 0, 0, 0]
    both = compare(trained, seeds=(0, 1), output=tmp_path, loader=loader, masks=masks)
    # Two loaders are made for a seed whose arms are done: for the crops' size, and to see that it is still the same data.
    assert made == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert both["seeds"][0] == first["seeds"][0]
    # A run that was never stopped gives the same.
    at_once = compare(trained, seeds=(0, 1), loader=loader, masks=masks)
    for kept, fresh in zip(both["seeds"], at_once["seeds"], strict=True):
        for arm in ("control", "feataug"):
            assert {m: kept[arm][m] for m in MEASURES} == {m: fresh[arm][m] for m in MEASURES}


def test_with_other_mixing_only_our_arm_is_run_again(trained, tmp_path):
    first = compare(trained, seeds=(0,), output=tmp_path)
    with pytest.raises(CheckpointError) as error:
        compare(trained, seeds=(0,), output=tmp_path, ratio=0.4, class_weights=torch.ones(CLASSES))
    arm = tmp_path / "seed-0/feataug"
    assert str(error.value) == (
        "compare: the output folder holds a run with other settings.\n"
        f"  given:   class_weights={[1.0] * CLASSES}, ratio=0.4\n"
        f"  needed:  class_weights=None, ratio=0.3, as in {arm}.json\n"
        f"Use another output folder, or delete this file and {arm} to run that arm again."
    )
    with pytest.raises(CheckpointError, match=r"given:   bank=4\n  needed:  bank=None, as in "):
        compare(trained, seeds=(0,), output=tmp_path, bank=4)
    arm.with_suffix(".json").unlink()
    shutil.rmtree(arm)
    made = []

    def loader(seed):
        made.append(seed)
        return seeded_loader(trained[2], 8, seed=seed)

    again = compare(trained, seeds=(0,), output=tmp_path, ratio=0.4, class_weights=torch.ones(CLASSES), loader=loader)
    # For the crops' size, twice to see that it repeats itself, then for ours and the weights alone.
    assert made == [0, 0, 0, 0, 0]
    assert again["seeds"][0]["control"] == first["seeds"][0]["control"]
    assert again["seeds"][0]["feataug"] != first["seeds"][0]["feataug"]


WEIGHTS = torch.linspace(0.2, 3.0, CLASSES)


def test_what_features_add_to_the_class_weights(trained, tmp_path):
    result = compare(trained, seeds=(0, 1), class_weights=WEIGHTS, classes=Scenes.classes, output=tmp_path)
    assert list(result["arms"]) == ["control", "feataug", "class weights"]
    for name in MEASURES:
        gaps = [entry["feataug"][name] - entry["class weights"][name] for entry in result["seeds"]]
        assert result["beyond_weights"][name]["mean"] == pytest.approx(sum(gaps) / 2)
    assert set(result["beyond_weights"]["per_class"]) == set(result["difference"]["per_class"])
    ours, beyond = verdict(result["difference"]), verdict(result["beyond_weights"])
    assert result["verdict"] == f"{ours} Over the class weights alone: {beyond}"
    assert "feataug minus class weights, 95 % intervals over 2 seeds: PixelAcc" in comparison_table(result)
    # Control and weights do not see the same loss.
    assert result["arms"]["class weights"] != result["arms"]["control"]
    assert compare(trained, seeds=(0, 1), class_weights=WEIGHTS, classes=Scenes.classes, output=tmp_path) == result


def test_the_weights_alone_are_ours_without_synthetic_samples(trained):
    result = compare(trained, seeds=(0,), ratio=0.0, class_weights=WEIGHTS)
    assert all(result["beyond_weights"][name]["mean"] == 0 for name in MEASURES)
    # With weights of one they are the control.
    plain = compare(trained, seeds=(0,), class_weights=torch.ones(CLASSES))
    assert all(plain["differences"]["class weights"][name]["mean"] == 0 for name in MEASURES)
    assert plain["verdict"] == "Nothing can be said from a single seed: run more of them."


def test_the_arm_of_the_weights_can_be_left_out(trained):
    baselines = {"class weights": lambda model, loader, config, folder: model}
    result = compare(trained, seeds=(0,), class_weights=WEIGHTS, weights_arm=False, baselines=baselines)
    assert list(result["arms"]) == ["control", "feataug", "class weights"]
    assert "beyond_weights" not in result
    assert "beyond_weights" not in compare(trained, seeds=(0,))
    with pytest.raises(ConfigError) as error:
        compare(trained, seeds=(0,), class_weights=WEIGHTS, baselines=baselines)
    assert str(error.value) == (
        "compare: a baseline has the name of one of our arms.\n"
        "  given:   class weights\n"
        "  needed:  another name\n"
        "Or leave ours out: weights_arm=False."
    )


def test_other_weights_in_the_folder_are_an_error(trained, tmp_path):
    compare(trained, seeds=(0,), class_weights=WEIGHTS, output=tmp_path)
    with pytest.raises(CheckpointError, match=r"as in .*feataug\.json"):
        compare(trained, seeds=(0,), class_weights=2 * WEIGHTS, output=tmp_path)
    (tmp_path / "seed-0/feataug.json").unlink()
    shutil.rmtree(tmp_path / "seed-0/feataug")
    with pytest.raises(CheckpointError, match=r"as in .*class weights\.json"):
        compare(trained, seeds=(0,), class_weights=2 * WEIGHTS, output=tmp_path)


def test_with_a_bank(trained):
    result = compare(trained, seeds=(0,), bank=8)
    assert result["settings"]["bank"] == 8
    with pytest.raises(ConfigError, match="the bank holds fewer samples than a step takes"):
        compare(trained, seeds=(0,), bank=1)


def test_another_model_in_the_folder_is_an_error(trained, tmp_path):
    compare(trained, seeds=(0,), output=tmp_path)
    other = copy.deepcopy(trained[0])
    with torch.no_grad():
        other.head.bias[0] += 1
    with pytest.raises(CheckpointError, match=r"\n  given:   model='"):
        compare((other, *trained[1:]), seeds=(0,), output=tmp_path)


@pytest.mark.parametrize("kind", ["digit", "cut short", "emptied", "list"])
def test_a_damaged_run_is_noticed(trained, tmp_path, kind):
    whole = compare(trained, seeds=(0,), output=tmp_path)
    path = tmp_path / "seed-0/control.json"
    text = path.read_text()
    digits = text.index('"miou": ') + len('"miou": ')
    changed = {
        "digit": text[:digits] + str((int(text[digits]) + 1) % 10) + text[digits + 1 :],
        "cut short": text[:100],
        "emptied": "",
        "list": "[]",
    }
    path.write_text(changed[kind])
    with pytest.raises(CheckpointError, match=r"^compare: a finished run cannot be read\.\n  given:   .*control.json"):
        compare(trained, seeds=(0,), output=tmp_path)
    path.unlink()
    again = compare(trained, seeds=(0,), output=tmp_path)
    for arm in ("control", "feataug"):
        assert {m: again["arms"][arm][m] for m in MEASURES} == {m: whole["arms"][arm][m] for m in MEASURES}


def test_what_cannot_be_compared(trained):
    with pytest.raises(ConfigError) as error:
        compare(trained, loader=seeded_loader(trained[2], 8))
    assert str(error.value) == (
        "compare: loader takes no seed.\n"
        "  given:   DataLoader\n"
        "  needed:  a function of the seed that returns a loader, so that the arms of a pair see the same batches\n"
        "loader=lambda seed: feataug.data.seeded_loader(train_set, 16, seed=seed)"
    )
    with pytest.raises(ConfigError, match=r"^compare: seeds must differ\.\n  given:   \(1, 1\)\n"):
        compare(trained, seeds=(1, 1))
    with pytest.raises(ConfigError, match=r"^compare: a baseline has the name of one of our arms\.\n  given:   control\n"):
        compare(trained, baselines={"control": lambda *args: args[0]})


def test_a_comparison_is_not_anothers(trained, tmp_path):
    model, generator, data = trained
    first = compare(trained, seeds=(0,), output=tmp_path)
    torch.manual_seed(9)
    other = feataug.FeatureGenerator(CLASSES, generator.spec, mask_widths=(8,), width=8, depth=0, latent_dim=2)
    scenes = Scenes(16, SIZE, seed=4, transforms=train_transforms(SIZE))
    for given, change in (
        ("data.dataset.seed=4", {"loader": lambda seed: seeded_loader(scenes, 8, seed=seed)}),
        ("data.batch_size=4", {"loader": lambda seed: seeded_loader(data, 4, seed=seed)}),
        ("mask_source.dataset.seed=4", {"masks": feataug.DatasetMasks(scenes)}),
        ("classes.0='sky'", {"classes": Scenes.classes}),
        ("generator=", {"generator": other}),
    ):
        with pytest.raises(CheckpointError) as error:
            compare(trained, seeds=(0,), output=tmp_path, **change)
        text = str(error.value)
        assert text.startswith("compare: the output folder holds a run with other settings.\n")
        assert given.partition(".0=")[0] in text.splitlines()[1], text
    for val in (Scenes(8, SIZE, seed=2, transforms=eval_transforms()), Scenes(8, SIZE, seed=1, transforms=eval_transforms((64, 96)))):
        with pytest.raises(CheckpointError, match=r"\n  given:   val_data\.dataset\."):
            feataug.compare(
                model, "encoder", generator, feataug.DatasetMasks(data), lambda seed: seeded_loader(data, 8, seed=seed),
                seeded_loader(val, 8, shuffle=False), feataug.FinetuneConfig(num_steps=3, lr=0.02), example=torch.zeros(1, 3, *SIZE),
                device="cpu", progress=False, seeds=(0,), output=tmp_path,
            )  # fmt: skip
    assert compare(trained, seeds=(0,), output=tmp_path) == first


def test_another_rival_of_the_same_name_is_an_error(trained, tmp_path):
    def lazy(model, loader, config, folder):
        return model

    def idle(model, loader, config, folder):
        return model

    compare(trained, seeds=(0,), output=tmp_path, baselines={"mine": lazy})
    with pytest.raises(CheckpointError, match=r"given:   baseline\.function='.*idle'\n  needed:  baseline\.function='.*lazy', as in "):
        compare(trained, seeds=(0,), output=tmp_path, baselines={"mine": idle})


def test_what_an_earlier_version_left_is_gone_on_with(trained, tmp_path):
    """Without the new settings, and with the shorter fingerprints of then."""
    first = compare(trained, seeds=(0,), output=tmp_path)
    new = ("val_data", "classes", "ignore_index", "data", "architecture", "mask_source", "filter")
    kept = {}
    for path in (tmp_path / "base.json", tmp_path / "seed-0/control.json", tmp_path / "seed-0/feataug.json"):
        content = json.loads(path.read_text())
        settings = {name: value for name, value in content["settings"].items() if name not in new}
        settings |= {name: old_fingerprint(trained[number]) for number, name in enumerate(("model", "generator")) if name in settings}
        assert len(settings["model"]) == 12
        kept[path] = settings
        path.write_text(json.dumps({"settings": settings, "figures": content["figures"]}))
    again = compare(trained, seeds=(0,), output=tmp_path)
    assert again["seeds"] == first["seeds"]
    assert {path: json.loads(path.read_text())["settings"] for path in kept} == kept
    other = copy.deepcopy(trained[0])
    with torch.no_grad():
        other.head.bias[0] += 1
    with pytest.raises(CheckpointError, match=r"\n  given:   model='\w{16}'\n  needed:  model='\w{12}', as in "):
        compare((other, *trained[1:]), seeds=(0,), output=tmp_path)


def old_fingerprint(module):
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(-1).double().numpy().tobytes())
    return digest.hexdigest()[:12]


def test_a_model_with_old_weight_norm_is_compared(trained):
    model, generator, data = trained
    normed = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(normed.head)
    normed(torch.rand(1, 3, *SIZE)).sum().backward()
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly"):
        copy.deepcopy(normed)
    result = compare((normed, generator, data), seeds=(0,))
    assert set(result["arms"]) == {"control", "feataug"}
