"""``feataug.stages`` on a small model, its candidates, and its command."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.cli.main import main
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.errors import SplitError
from feataug.evaluation import recommend
from feataug.evaluation.stage_selection.candidates import candidates
from feataug.evaluation.stage_selection.selection import label
from feataug.models import PSPNet
from feataug.reporting.tables import stages_table
from feataug.training.config import GeneratorConfig
from feataug.training.generator_trainer import GeneratorTrainer
from tests.support.stage_runs import AT, VOID, TinyModel, patches, run, slow


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


@pytest.mark.parametrize(("preset", "config"), [("flow", None), ("bicyclegan", GeneratorConfig.bicyclegan(lr=1e-3, critic_width=4))])
def test_generators_are_trained_and_measured(model, preset, config, monkeypatch):
    made, init = [], GeneratorTrainer.__init__
    monkeypatch.setattr(GeneratorTrainer, "__init__", lambda self, g, *args, **kwargs: made.append(g.preset) or init(self, g, *args, **kwargs))
    result = run(model, at=AT[1:], generator_images=4, config=config, val_loader=patches(1))
    for row in result["stages"]:
        score = row["recognition"]
        assert set(score) == {"real", "synthetic", "ratio", "diversity", "seconds"}
        assert score["ratio"] == pytest.approx(score["synthetic"] / score["real"])
        expected = feataug.evaluate(model.eval(), patches(1), 4)["miou"]
        assert score["real"] == pytest.approx(expected, abs=1e-3)
    assert made == [preset] * 2
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
        "stages: the model has no cut point.\n"
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
