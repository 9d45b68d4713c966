"""The page shows what the files hold, and needs nothing else."""

import json
import re

import pytest
import torch

from feataug.cli.main import main
from feataug.core.measures import TITLES
from feataug.errors import DataError
from feataug.io.samples import SAMPLES, keep_samples, read_samples
from feataug.reporting.page import LARGEST, write_page
from feataug.reporting.page.findings import findings
from feataug.reporting.page.loss_curves import LOSSES, charts
from feataug.reporting.page.run_reader import read_run
from feataug.training.config import FinetuneConfig
from feataug.training.finetuner import Finetuner
from tests.support.planted_runs import CLASSES, GENERATOR, Page, comparison, measured, page_of, qualities, score, taught, write

PARTS = ["run", "metrics", "warnings", "classes", "losses", "features", "predictions"]


def cells(figures):
    return [f"{figures[name]:.2f}" for name in TITLES]


def test_a_demo_has_every_part_and_its_own_numbers(demo, tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["report", str(demo), "--output", str(target)]) == 0
    assert capsys.readouterr().out == f"written: {target}\n"
    page, result = Page(target.read_text()), json.loads((demo / "result.json").read_text())
    assert [name for name in page.ids if name in PARTS] == PARTS
    assert [link for link in page.addresses if link.startswith("#")] == [f"#{name}" for name in PARTS]
    rows = page.tables["Percent, means over 2 seeds; differences in points, with 95 % intervals by Student's t"]
    assert rows[0] == ["", *TITLES.values()]
    arms = {"base": result["base"]} | result["arms"]
    assert rows[1:5] == [[name, *cells(arms[name])] for name in ("base", "control", "feataug", "ceiling")]
    assert [row[0] for row in rows[5:7]] == ["feataug − control", "ceiling − control"]
    (by_class,) = (table for caption, table in page.tables.items() if caption.startswith("IoU by class"))
    assert [row[0] for row in by_class[1:]] == list(result["base"]["per_class"])
    for row in by_class[1:]:
        expected = [figures["per_class"][row[0]]["iou"] for figures in arms.values()]
        assert row[1:5] == ["–" if value is None else f"{value:.2f}" for value in expected]
    recognised = dict(page.tables["How the frozen decoder recognises synthetic features, and how much samples vary"][1:])
    assert recognised["recognition ratio"] == f"{result['recognition']['ratio']:.3f}"
    assert recognised["diversity ratio"] == f"{result['recognition']['diversity']:.3f}"
    for text in ("StreetNet", "encoder", "torch", "feataug demo", "Begun"):
        assert text in page.texts["run"]
    for name in ("flow", "held_out", "recognition score", "loss, trained further"):
        assert name in page.texts["losses"]
    assert "missing" not in target.read_text().split("</style>")[1]


def test_a_demo_shows_features_and_predictions(demo):
    page = page_of(demo)
    # Samples by kind; four channels of the first; image, mask and the decoder's two predictions; one prediction of each arm.
    assert page.tags.count("img") == 4 * 5 + 4 * 3 + 4 * 4 + 4 * 3
    for name in (
        "image",
        "mask",
        "real features",
        "synthetic, z1",
        "synthetic, z2",
        "control, seed 0",
        "feataug, seed 0",
        "ceiling, seed 0",
        "decoder on real features",
    ):
        assert f"{name}, sample 1" in page.alts
    assert all(page.alts)
    samples = read_samples(demo / "seed-0" / "feataug" / SAMPLES)
    right = (samples.predictions["feataug"][0] == samples.masks[0])[samples.masks[0] >= 0].float().mean()
    assert f"{100 * float(right):.1f} % of pixels right" in page.texts["predictions"]


def test_every_loss_of_either_objective_has_its_curve(tmp_path):
    folders = {name: write(tmp_path / name, None, {"run": [lines] * 3}) for name, lines in (("gan", GENERATOR), ("flow", {"flow": 0.6}))}
    titles = {name: [chart.title for chart in charts(read_run(folder))] for name, folder in folders.items()}
    assert titles == {"gan": [name for name in LOSSES if name in GENERATOR], "flow": ["flow"]}
    measured_twice = [{"ratio": 0.5 + i, "diversity": 0.5, "held_out": 0.7 - i / 10} for i in range(2)]
    run = read_run(write(tmp_path / "measured", None, {"run": [{"flow": 0.6}, *measured_twice]}))
    (held_out,) = [chart for chart in charts(run) if chart.title == "held_out"]
    assert list(held_out.series.values()) == [[(20.0, 0.7), (30.0, 0.6)]]


@pytest.mark.parametrize("which", ["demo", "compare", "generator"])
def test_nothing_is_fetched_or_run_and_the_page_is_small(which, demo, tmp_path):
    made = {
        "demo": lambda: demo,
        "compare": lambda: write(tmp_path / "run", comparison([1.0, 2.0, 1.5]), {"seed-0/control": [{"loss": 1.0}]}),
        "generator": lambda: write(tmp_path / "run", {"recognition": score(), "config": {}}, {"run": [GENERATOR] * 3}),
    }
    target = write_page(made[which](), tmp_path / "page.html")
    page = Page(target.read_text())
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert page.handlers == []
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert re.findall(r"https?://|url\(|@import", target.read_text()) == []
    assert target.stat().st_size < LARGEST
    assert page.tags.count("h1") == 1
    assert page.open == []


def test_a_comparison_shows_intervals_seeds_and_the_verdict(tmp_path):
    result = comparison([1.0, 2.0, 1.5, 0.7])
    folder = write(tmp_path / "run", result)
    page = page_of(folder)
    rows = page.tables["Percent, means over 4 seeds; differences in points, with 95 % intervals by Student's t"]
    gaps = result["differences"]["feataug"]
    assert rows[-1][1:] == [f"{gaps[m]['mean']:+.2f} [{gaps[m]['low']:+.2f}, {gaps[m]['high']:+.2f}]" for m in TITLES]
    seeds = page.tables["Every run, percent"]
    assert seeds[1:3] == [["0", arm, *cells(result["seeds"][0][arm])] for arm in ("control", "feataug")]
    assert len(seeds) == 1 + 2 * 4
    assert result["verdict"] in page.texts["metrics"]
    by_class = page.tables["Accuracy by class, percent; differences in points"]
    gap = gaps["per_class"]["pole"]["acc"]
    assert by_class[3][0] == "pole"
    assert by_class[3][-1] == f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]"
    assert "To get them: feataug fit-generator, compare" in re.sub(r"\s+", " ", page.texts["features"])
    assert read_run(folder).kind == "compare"


def test_what_features_teach(tmp_path):
    result = taught({"real": (46.0, 47.2), "generator": (31.0, 35.3), "mine <b>": (40.0, 42.5)})
    folder = write(tmp_path / "run", result, {"seed-0/generator": [{"progress": 5, "loss": 1.0}]})
    page = page_of(folder)
    assert page.tables["What features teach fresh decoders; score: share of the real features' mIoU"] == [
        ["features", "mIoU", "mIoU with class bias", "score", "score with class bias"],
        ["real", "46.00", "47.20", "1.00", "1.00"],
        ["generator", "31.00", "35.30", "0.67", "0.75"],
        ["mine <b>", "40.00", "42.50", "0.87", "0.90"],
    ]
    assert page.tables["Percent with class bias, means over seeds"][2] == ["generator", *cells(result["sources"]["generator"]["after"])]
    assert result["verdict"] in page.texts["metrics"]
    assert "<dt>Teaching score</dt><dd>0.75<small>" in (folder / "report.html").read_text()
    assert "No differences" not in page.texts["metrics"]
    # Damaged parts do no harm.
    write(tmp_path / "odd", {"sources": {"real": 3, "x": None}, "score": [1], "verdict": None})
    assert page_of(tmp_path / "odd").tables["What features teach fresh decoders; score: share of the real features' mIoU"][1][0] == "real"


@pytest.mark.parametrize(
    ("result", "kind", "has"),
    [
        (measured(50) | {"config": {"num_steps": 3}}, "finetune", "the training of a segmentation model"),
        (measured(50) | {"inference": {"flip": True}}, "evaluate", "the evaluation of a model"),
        ({"recognition": score(), "config": {}, "at": ["layer"]}, "generator", "the training of a generator"),
        (None, "training", "a training without result.json"),
    ],
)
def test_every_commands_folder_is_recognised(result, kind, has, tmp_path):
    folder = write(tmp_path / "run", result, {"run": [GENERATOR]} if kind == "training" else {})
    page = page_of(folder)
    assert read_run(folder).kind == kind
    assert has in page.text
    assert [name for name in page.ids if name in PARTS] == PARTS


def test_a_generators_quality_is_shown(tmp_path):
    result = {"recognition": score(), "config": {}, "at": ["layer"]}
    page = page_of(write(tmp_path / "new", result | {"quality": qualities()}))
    assert page.tables["Synthetic features compared with real ones"] == [
        ["", "cells", "Fréchet", "real", "precision", "real", "recall", "real"],
        ["all classes", "900", "4.00", "2.50", "0.75", "0.80", "0.60", "0.70"],
        ["sky", "120", "–", "2.50", "0.75", "0.80", "0.60", "0.70"],
        ["road", "900", "4.00", "–", "0.75", "–", "0.60", "–"],
        ["pole", "–", "–", "–", "–", "–", "–", "–"],
    ]
    assert page.tables["Median distance of samples to the nearest feature"][1:] == [["cells", "0.70", "0.72", "0.90", "0.00"]]
    assert "No sign of copying." in page.texts["metrics"]
    page = page_of(write(tmp_path / "copies", result | {"quality": qualities(copies=True)}))
    assert "The generator copies training features." in page.texts["metrics"]
    # Runs of older releases have none.
    page = page_of(write(tmp_path / "old", result))
    assert "Synthetic features compared with real ones" not in page.tables
    assert "copying" not in page.text


def test_pictures_that_make_a_page_too_large_are_left_out(tmp_path, monkeypatch):
    folder = write(tmp_path / "run", measured(50))
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    keep_samples(folder / SAMPLES, [(noise, torch.zeros(4, 64, 64, dtype=torch.long))], {"x": lambda images: images[:, :2]})
    assert page_of(folder).tags.count("img") == 12
    monkeypatch.setattr("feataug.reporting.page.LARGEST", 50_000)
    page = page_of(folder)
    assert page.tags.count("img") == 0
    assert "the page would be larger than 5 MB with them" in page.texts["warnings"]
    monkeypatch.setattr("feataug.reporting.page.LARGEST", 5_000)
    with pytest.raises(DataError, match="the page would be too large"):
        write_page(folder)


def test_a_training_from_python_is_shown_with_its_checkpoints_settings(tmp_path, tiny_net):
    loader = [(torch.randn(2, 3, 32, 48), torch.zeros(2, 32, 48, dtype=torch.long))]
    config = FinetuneConfig(num_steps=3, lr=0.0125, seed=7)
    Finetuner(tiny_net(), config, output=tmp_path, device="cpu", progress=False).fit(loader)
    run = read_run(tmp_path)
    assert run.kind == "training"
    assert run.settings == config.to_dict() | {"mixed": False}
    page = page_of(tmp_path)
    assert ["setting lr", "0.0125"] in page.tables["Settings and options"]
    assert "loss" in page.texts["losses"]
    assert "stopped" not in [finding.name for finding in findings(run)]
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    checkpoint.write_bytes(b"torn")
    assert read_run(tmp_path).settings == {}


def test_long_runs_have_short_curves(tmp_path):
    lines = [{"loss": 1 / (i + 1)} for i in range(5000)]
    target = write_page(write(tmp_path / "run", None, {"run": lines}))
    (points,) = re.findall(r'<polyline points="([^"]*)"', target.read_text())
    assert 100 < len(points.split()) <= 240
    assert target.stat().st_size < 60_000


def test_arms_of_a_comparison_stand_beside_what_the_decoder_makes(tmp_path):
    folder = write(tmp_path / "run", comparison([1.0, 2.0]))
    loader = [(torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))]
    for arm in ("control", "feataug"):
        keep_samples(folder / "seed-0" / arm / SAMPLES, loader, {arm: torch.nn.Conv2d(3, 3, 1)}, classes=CLASSES)
    other = [(torch.randn(2, 3, 8, 8), torch.ones(2, 8, 8, dtype=torch.long))]
    keep_samples(folder / "seed-1" / "control" / SAMPLES, other, {"control": torch.nn.Conv2d(3, 3, 1)})
    page = page_of(folder)
    assert page.alts[:4] == [f"{name}, sample 1" for name in ("image", "mask", "control, seed 0", "feataug, seed 0")]
    assert page.tags.count("img") == 2 * 4
    assert "Left out: 1 files with other samples." in page.texts["predictions"]


def test_what_is_no_number_is_a_dash(tmp_path):
    result = measured(50) | {"miou": float("nan"), "fw_iou": None, "class_acc": "50"}
    result["per_class"]["pole"] = {"iou": None, "acc": float("inf")}
    page = page_of(write(tmp_path / "run", result))
    assert page.tables["Percent"][1] == ["model", "80.00", "–", "–", "–"]
    assert page.tables["IoU by class, percent"][3] == ["pole", "–"]
    assert page.tables["Accuracy by class, percent"][3] == ["pole", "–"]
