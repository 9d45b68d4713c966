"""The demo, tiny: what it leaves, that it is a comparison like any other, and that its own check can fail."""

import copy
import json

import pytest
import torch

from feataug.cli.demo import network
from feataug.cli.demo.network import StreetNet, class_weights
from feataug.cli.demo.run import DemoConfig, run_demo
from feataug.cli.demo.summary import check, summary
from feataug.core.measures import MEASURES
from feataug.data import Scenes
from feataug.errors import CheckpointError, TrainingError

pytestmark = pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
TINY = DemoConfig(
    size=(32, 48), labelled=16, unlabelled=8, val_images=8, batch_size=4, base_steps=6, generator_images=16, further_steps=3, pairs=2
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(folder, device="cpu", config=TINY, progress=False)


def test_it_leaves_what_it_promises(ran):
    folder, result = ran
    stored = json.loads((folder / "result.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert list(stored["arms"]) == ["control", "feataug", "ceiling"]
    for figures in (stored["base"], *stored["arms"].values()):
        assert all(0 <= figures[name] <= 100 for name in MEASURES)
        assert set(figures["per_class"]["road"]) >= {"acc", "iou"}
    assert set(stored["recognition"]) >= {"real", "synthetic", "ratio", "diversity"}
    assert [entry["seed"] for entry in stored["seeds"]] == [0, 1]
    assert stored["settings"]["demo"]["labelled"] == 16
    # Its crops have the size of its scenes: there is nothing to predict by windows.
    assert stored["settings"]["prediction"]["window"] is None
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    text = summary(result)
    assert text.startswith("16 labelled scenes, and masks of 8 scenes without their images. mIoU: trained on the labelled scenes ")
    assert "feataug minus control, 95 % intervals over 2 seeds" in text


def test_again_it_trains_nothing_and_says_the_same(ran, monkeypatch):
    folder, result = ran
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda *_, **__: pytest.fail("trained again"))
    assert run_demo(folder, device="cpu", config=TINY, progress=False) == result


def test_another_demo_needs_another_folder(ran):
    folder, _ = ran
    before = (folder / "result.json").read_bytes()
    with pytest.raises(CheckpointError, match="the output folder holds a run with other settings"):
        run_demo(folder, seed=1, device="cpu", config=TINY, progress=False)
    assert (folder / "result.json").read_bytes() == before


def test_the_base_sees_other_crops_in_each_epoch(tmp_path, monkeypatch):
    # A plain `for` over a loader that repeats itself would read its first epoch again and again.
    seen = []
    forward = StreetNet.forward
    monkeypatch.setattr(StreetNet, "forward", lambda self, images: seen.append(images.clone()) or forward(self, images))
    config = DemoConfig(size=(32, 48), labelled=4, val_images=4, unlabelled=4, batch_size=4, base_steps=2, generator_images=4, pairs=1)
    monkeypatch.setattr("feataug.cli.demo.run.split", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, device="cpu", config=config, progress=False)
    first, second = (images.flatten(1).sum(1).sort().values for images in seen)
    assert not torch.allclose(first, second)


def test_rare_classes_weigh_more():
    scenes = Scenes(6, (48, 64), seed=3)
    counts = torch.stack([torch.bincount(scenes.mask(i)[scenes.mask(i) < 10], minlength=10) for i in range(6)]).sum(0)
    weights = class_weights(scenes)
    assert weights.mean() == pytest.approx(1)
    there = counts > 0
    assert torch.equal(weights[there].argsort(descending=True), counts[there].argsort())
    assert (weights[~there] == 0).all()
    ratio = (weights[0] / weights[2]).item()
    assert ratio == pytest.approx((counts[2] / counts[0]).item() ** network._RARITY_POWER, rel=1e-4)


def test_the_check_finds_a_class_that_is_not_learned_and_a_gain_that_is_none(ran):
    _, result = ran
    good = copy.deepcopy(result)
    for figures in good["base"]["before_bias"]["per_class"].values():
        figures["iou"] = 30.0
    for arm, gain in (("feataug", 1.0), ("ceiling", 2.0)):
        for measure in MEASURES:
            good["differences"][arm][measure]["mean"] = gain
            good["ceiling"]["share_of_ceiling"]["feataug"][measure] = 0.5
    assert check(good) == (
        "check: every class of the base is above 5 % IoU before the class bias; the real images gain +2.00 points of mIoU and +2.00 of "
        "ClassAcc; feataug reaches 50% and 50% of that over 2 seeds."
    )
    bad = copy.deepcopy(good)
    bad["base"]["before_bias"]["per_class"]["pole"]["iou"] = 4.9
    bad["differences"]["feataug"]["miou"]["mean"] = 0.0
    bad["differences"]["ceiling"]["class_acc"]["mean"] = -0.1
    with pytest.raises(TrainingError) as error:
        check(bad)
    assert str(error.value) == (
        "feataug demo --check: the demo does not show what it is there to show.\n"
        "  given:   IoU of the base below 5: pole 4.9; feataug gains +0.00 points of miou; ceiling gains -0.10 points of class_acc\n"
        "  needed:  every class of the base above 5 % IoU before the class bias, and gains of ClassAcc and mIoU of both feataug and ceiling\n"
        "The defaults were chosen with seed 0 on a CPU. result.json has all figures."
    )
