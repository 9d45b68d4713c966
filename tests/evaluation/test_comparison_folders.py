"""Output folders of ``feataug.compare``: finished arms are not run again, other runs and damaged ones are refused."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch

import feataug
from feataug.core.measures import MEASURES
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.errors import CheckpointError
from tests.support.comparison_runs import CLASSES, SIZE, WEIGHTS, compare, old_fingerprint

pytestmark = pytest.mark.xdist_group("comparison")


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


def test_other_weights_in_the_folder_are_an_error(trained, tmp_path):
    compare(trained, seeds=(0,), class_weights=WEIGHTS, output=tmp_path)
    with pytest.raises(CheckpointError, match=r"as in .*feataug\.json"):
        compare(trained, seeds=(0,), class_weights=2 * WEIGHTS, output=tmp_path)
    (tmp_path / "seed-0/feataug.json").unlink()
    shutil.rmtree(tmp_path / "seed-0/feataug")
    with pytest.raises(CheckpointError, match=r"as in .*class weights\.json"):
        compare(trained, seeds=(0,), class_weights=2 * WEIGHTS, output=tmp_path)


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


def test_a_comparison_is_not_anothers(trained, tmp_path):
    model, generator, data = trained
    first = compare(trained, seeds=(0,), output=tmp_path)
    torch.manual_seed(9)
    other = feataug.FeatureGenerator(CLASSES, generator.spec, width=8, depth=1)
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


def test_another_baseline_of_the_same_name_is_an_error(trained, tmp_path):
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
