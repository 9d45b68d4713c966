"""The commands, end to end on tiny embedded scenes."""

import json
from types import SimpleNamespace

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from feataug.cli.commands import fit_generator, shared
from feataug.cli.main import main
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.errors import DataError, FeatAugWarning
from feataug.evaluation import Inference
from feataug.inference.evaluate import evaluate
from feataug.models import PSPNet

TINY = ["--dataset", "scenes", "--size", "32", "48", "--batch-size", "16", "--quiet", "--device", "cpu"]


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_a_whole_run_by_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shared, "SCENES", {"train": 64, "val": 16})
    base, generator, mixed, measured = (str(tmp_path / name) for name in ("base", "generator", "mixed", "measured"))
    assert main(["finetune", *TINY, "--encoder", "test_resnet", "--steps", "4", "--lr", "0.05", "--output", base]) == 0
    at = ["--at", "encoder.layer3.0", "--images", "32"]
    assert main(["fit-generator", *TINY, "--model", base, *at, "--output", generator]) == 0
    further = ["--model", base, "--generator", generator, "--steps", "2", "--bank", "8"]
    assert main(["finetune", *TINY, *further, "--output", mixed]) == 0
    assert main(["evaluate", *TINY, "--model", mixed, "--plain", "--output", measured]) == 0
    scaled = str(tmp_path / "scaled")
    options = ["--scales", "0.5", "1", "--flip", "--window", "24", "32"]
    assert main(["evaluate", *TINY, *options, "--model", mixed, "--plain", "--output", scaled]) == 0
    compared = tmp_path / "compared"
    pair = [
        "--model",
        base,
        "--generator",
        generator,
        "--steps",
        "2",
        "--seeds",
        "2",
        "--preset",
        "paper",
        "--output",
        str(compared),
    ]
    assert main(["compare", *TINY, *pair, "--ceiling-split", "more", "--window", "24", "32"]) == 0
    taught = ["--model", base, "--generator", generator, "--steps", "2", "--seeds", "1", "--output", str(tmp_path / "taught")]
    assert main(["teach", *TINY, *taught]) == 0
    # The same command again: nothing is run, and nothing else is said.
    assert main(["teach", *TINY, *taught]) == 0
    out = capsys.readouterr().out
    assert out.count("features   seeds   mIoU  with bias  score  with bias\nreal       1") == 2
    assert "feataug minus control, 95 % intervals over 2 seeds: PixelAcc" in out
    assert (compared / "comparison.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((compared / "result.json").read_text())
    assert result["difference"]["miou"].keys() == {"mean", "low", "high"}
    assert list(result["arms"]) == ["control", "feataug", "ceiling"]
    prediction = result["settings"]["prediction"]
    assert (prediction["window"], prediction["bias_from"]) == ([24, 32], "plain_loader")
    assert result["settings"]["leak_check"] == "images"
    folders = ("mixed", "measured", "scaled", "generator")
    stored = {folder: json.loads((tmp_path / folder / "result.json").read_text()) for folder in folders}
    assert "inference" not in stored["measured"]
    assert stored["scaled"]["inference"] == {"scales": [0.5, 1.0], "flip": True, "window": [24, 32]}
    val = Scenes(16, (32, 48), seed=1, transforms=eval_transforms())
    predict = Inference(PSPNet.from_pretrained(mixed), scales=(0.5, 1.0), flip=True, window=(24, 32))
    expected = evaluate(predict, seeded_loader(val, 16, shuffle=False), val.num_classes)
    assert stored["scaled"]["miou"] == pytest.approx(expected["miou"])
    assert stored["mixed"]["miou"] == pytest.approx(stored["measured"]["miou"])
    assert stored["generator"]["recognition"]["ratio"] > 0
    card = (tmp_path / "generator" / "README.md").read_text()
    for fact in (
        "- Data: Scenes, split train, 64 images\n",
        "none needed: drawn by feataug\n",
        "training saw: 32\n",
        "0 sky, 1 building",
    ):
        assert fact in card
    assert f"synthetic {stored['generator']['recognition']['synthetic']:.2f}, " in card
    quality = stored["generator"]["quality"]
    assert list(quality["per_class"]) == list(val.classes)
    assert f"recall {quality['recall']:.2f} (real features: {quality['reference']['recall']:.2f})" in card
    assert "Memory: " in out
    assert f"mIoU {stored['mixed']['miou']:.2f}, " in (tmp_path / "mixed" / "README.md").read_text()
    assert "mIoU" in out
    for name, kind, pictures in (
        ("base", "the training of a segmentation model", "trained"),
        ("generator", "the training of a generator", "synthetic, z2"),
        ("mixed", "the training of a segmentation model", "decoder on synthetic features"),
        ("measured", "the evaluation of a model", "predicted"),
        ("compared", "a comparison on paired seeds", "feataug, seed 0"),
        ("taught", "a teaching score: fresh decoders trained on features", None),
    ):
        assert main(["report", str(tmp_path / name)]) == 0
        page = (tmp_path / name / "report.html").read_text()
        assert kind in page
        assert pictures is None or f'alt="{pictures}, sample 4"' in page
        figures = json.loads((tmp_path / name / "result.json").read_text())
        figures = figures.get("arms", {}).get("feataug", figures)
        figures = figures["sources"]["generator"]["after"] if name == "taught" else figures
        assert f">{figures['recognition']['ratio']:.3f}<" in page if name == "generator" else f">{figures['miou']:.2f}<" in page
        called = json.loads((tmp_path / name / "command.json").read_text())
        assert called["finished"]
        assert called["arguments"]["size"] == [32, 48]
        assert called["versions"]["torch"] in page


def test_data_that_are_too_few_to_be_compared_do_not_stop_fit_generator(monkeypatch):
    def refuse(*args, **kwargs):
        raise DataError("feature_quality: too few cells.")

    monkeypatch.setattr("feataug.evaluation.feature_quality", refuse)
    trainer = SimpleNamespace(cut=None, generator=None, accelerator=SimpleNamespace(device="cpu"))
    with pytest.warns(FeatAugWarning) as caught:
        assert fit_generator._measure_quality(SimpleNamespace(seed=0), trainer, [], []) is None
    assert str(caught[0].message) == (
        "feataug fit-generator: the quality of the features was not measured.\nfeature_quality: too few cells."
    )


def test_help_is_for_newcomers(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("demo", "inspect", "stages", "fit-generator", "finetune", "fit-bias", "compare", "teach", "evaluate", "report", "result.json"):
        assert word in text
    for command in ("demo", "stages", "fit-generator", "finetune", "fit-bias", "compare", "teach", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert all(option in text for option in ("--output", "--seed", "--device"))


OTHER_DATA = (
    "Is this another data set? --dataset folder reads any folder of images and masks; --dataset camvid, cityscapes, ade20k and idd read those."
)


def test_errors_are_one_message_without_a_traceback(tmp_path, capsys):
    folder = tmp_path / "nowhere"
    command = ["finetune", "--data", str(folder), "--encoder", "test_resnet", "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "MissingDataError: CamVid: folders are missing.\n"
        f"  given:   {folder}, which is not a readable folder\n"
        "  needed:  a folder that holds train and trainannot\n"
        f"{OTHER_DATA}\n"
    )
    assert main([*command, "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["finetune", "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "ConfigError: feataug: no data.\n  given:   --dataset camvid\n  needed:  --data DIR\n"


@pytest.mark.parametrize(
    ("dataset", "who", "needed"),
    [
        ("cityscapes", "Cityscapes", "leftImg8bit/val and gtFine/val"),
        ("ade20k", "ADE20K", "images/validation and annotations/validation"),
        ("idd", "IDDLite", "leftImg8bit/val and gtFine/val"),
    ],
)
def test_the_official_folders_are_asked_for_by_name(tmp_path, capsys, dataset, who, needed):
    assert (
        main(["evaluate", "--dataset", dataset, "--data", str(tmp_path), "--model", "none", "--output", str(tmp_path / "out")]) == 1
    )
    assert capsys.readouterr().err == (
        f"MissingDataError: {who}: folders are missing.\n  given:   {tmp_path}, which is empty\n  needed:  a folder that holds {needed}\n"
        + (f"{OTHER_DATA}\n" if dataset != "ade20k" else "")  # ADE20K's folders are found by its reader
    )


def test_inspect_lists_places_and_writes_them(tmp_path, capsys):
    assert main(["inspect", "timm/test_resnet", "--size", "64x96", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["size"] == [64, 96]
    names = [place["at"] for place in stored["places"]]
    assert {"layer1", "layer2", "layer3", "layer4"} <= set(names)
    assert all(str(name) in out for name in names)
    place = stored["places"][names.index("layer3")]
    assert place["levels"] == [{"name": "layer3", "channels": place["levels"][0]["channels"], "reduction": 16, "tokens": 0}]
    model = timm.create_model("test_resnet").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 96))
    assert place["encoder_macs"] + place["decoder_macs"] == counter.get_total_flops() // 2
    assert place["encoder_parameters"] + place["decoder_parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("timm/resnt50", "ConfigError: named_model: timm has no such model.\n  given:   'timm/resnt50'\n"),
        (
            "nothing.here:build",
            "ConfigError: named_model: there is no such module.\n  given:   'nothing.here:build': No module named 'nothing'\n",
        ),
        ("json:dumps_all", "ConfigError: named_model: there is no such function.\n"),
        ("json", "ConfigError: named_model: no model has this name.\n  given:   'json'\n"),
    ],
)
def test_inspect_of_what_is_no_model(name, start, capsys):
    assert main(["inspect", name]) == 1
    assert capsys.readouterr().err.startswith(start)


def test_inspect_of_images_that_the_model_refuses(capsys):
    assert main(["inspect", "timm/test_vit", "--size", "33x47"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "ConfigError: feataug inspect: the model does not take such images.\n  given:   3 x 33 x 47: AssertionError"
    )
    assert main(["inspect", "timm/test_vit"]) == 0
    assert "at 160 x 160" in capsys.readouterr().out


def test_inspect_needs_a_size(capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "timm/test_resnet", "--size", "64"])
    assert "'64' is not a size such as 512x1024" in capsys.readouterr().err


def test_inspect_lists_what_one_would_take_and_all_on_request(tmp_path, capsys):
    assert main(["inspect", "timm/efficientnet_b0", "--size", "64x64", "--output", str(tmp_path / "some")]) == 0
    some = capsys.readouterr().out.splitlines()
    assert main(["inspect", "timm/efficientnet_b0", "--size", "64x64", "--all", "--output", str(tmp_path / "all")]) == 0
    everything = capsys.readouterr().out.splitlines()
    places = [json.loads((tmp_path / name / "result.json").read_text())["places"] for name in ("some", "all")]
    shown, total = map(len, places)
    assert shown < 25 < total
    assert all(place in places[1] for place in places[0])
    assert some[-1] == (
        f"{shown} places where timm/efficientnet_b0 can be cut whole, at 64 x 64; `/` is the stride; {total - shown} more with --all"
    )
    assert everything[-1] == f"{total} places where timm/efficientnet_b0 can be cut whole, at 64 x 64; `/` is the stride"
