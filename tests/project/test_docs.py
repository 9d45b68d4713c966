"""The documentation says what the code and the committed figures say."""

import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from feataug.cli.main import COMMANDS, main
from feataug.cli.parser import parse

ROOT = Path(__file__).parents[2]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_performance_page_is_drawn_from_the_committed_figures():
    drawn = load(ROOT / "docs" / "drawing" / "performance.py")
    assert (ROOT / "docs" / "performance.md").read_text() == drawn.page()


def test_the_results_page_is_drawn_from_the_committed_figures():
    drawn = load(ROOT / "docs" / "drawing" / "results.py")
    assert (ROOT / "docs" / "results.md").read_text() == drawn.page()


def test_the_appendix_is_drawn_from_the_committed_figures():
    drawn = load(ROOT / "docs" / "drawing" / "whole_images.py")
    text = (ROOT / "docs" / "whole-images.md").read_text()
    assert text == drawn.page()
    assert "**Draw no conclusion about arms from this page.**" in text


def test_the_plots_are_drawn_from_the_committed_figures(tmp_path):
    pytest.importorskip("matplotlib")
    drawn = load(ROOT / "docs" / "drawing" / "figures.py")
    pages = [(ROOT / "docs" / name).read_text() for name in ("results.md", "whole-images.md")]
    assert {name for page in pages for name in re.findall(r"!\[[^\]]*\]\(figures/([^)]+)\)", page)} == set(drawn.PLOTS)
    for name, (file, _) in drawn.PLOTS.items():
        text = (ROOT / "docs" / "figures" / name).read_text()
        assert drawn.source(file) in text, f"{name} is older than {file.name}: run docs/drawing/figures.py"
        assert str(ROOT) not in text
    # Planted: a figure that changed.
    changed = tmp_path / "compare-camvid.json"
    changed.write_text(drawn.PLOTS["arms-camvid.svg"][0].read_text().replace("70.9", "71.9"))
    assert drawn.source(changed) not in (ROOT / "docs" / "figures" / "arms-camvid.svg").read_text()


def test_the_figures_in_the_readme_are_those_of_the_files():
    drawn = load(ROOT / "docs" / "drawing" / "results.py")
    assert drawn.readme() in (ROOT / "README.md").read_text()
    assert drawn.ways(drawn.read("protocol")) in drawn.readme()
    assert drawn.settings_table("docs/results.md") in drawn.readme()
    assert drawn.settings_table("docs/other.md") not in (ROOT / "README.md").read_text()


def test_the_demos_figures_in_the_readme_are_those_of_its_run():
    drawn = load(ROOT / "docs" / "drawing" / "teaser.py")
    assert f"\n{drawn.table()}\n" in (ROOT / "README.md").read_text()


def test_the_page_on_the_paper_is_drawn_from_the_committed_figures():
    drawn = load(ROOT / "docs" / "drawing" / "paper.py")
    for name, old in drawn.PAGES.items():
        text = (ROOT / "docs" / name).read_text()
        assert text == drawn.page(old)
        for claim in drawn.CLAIMS:
            assert (ROOT / f"{claim.study.split()[0].replace('.', '/')}.py").exists()
            assert f"](#{claim.anchor})" in text
    # The overview fits a screen.
    assert len((ROOT / "docs" / "paper.md").read_text().partition("\n## ")[0].splitlines()) <= 40


def test_a_verdict_needs_an_interval_that_excludes_zero():
    from feataug.evaluation import verdict

    names = ("pixel_acc", "class_acc", "miou", "fw_iou")
    unclear = verdict({name: {"mean": 1.0, "low": -0.1, "high": 2.1} for name in names})
    assert unclear == "No difference is shown in PixelAcc, ClassAcc, mIoU, fwIoU: the interval holds zero."
    assert verdict({name: {"mean": -1.0, "low": -2.0, "high": -0.1} for name in names}).startswith("feataug is behind in PixelAcc")
    assert verdict({name: {"mean": 1.0, "low": 0.1, "high": 2.0} for name in names}).startswith("feataug is ahead in PixelAcc")


def test_the_camvid_figures_are_whole():
    result = json.loads((ROOT / "studies" / "results" / "whole-images" / "camvid.json").read_text())
    assert len(result["seeds"]) >= 3
    for arm in ("control", "feataug"):
        for name in ("pixel_acc", "class_acc", "miou", "fw_iou"):
            runs = [entry[arm][name] for entry in result["seeds"]]
            assert result[arm][name] == pytest.approx(sum(runs) / len(runs))
    gaps = [entry["feataug"]["miou"] - entry["control"]["miou"] for entry in result["seeds"]]
    assert result["difference"]["miou"]["mean"] == pytest.approx(sum(gaps) / len(gaps))
    assert result["recognition"]["ratio"] == pytest.approx(result["recognition"]["synthetic"] / result["recognition"]["real"])


def test_no_dead_link_between_pages():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert links
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_the_page_on_commands_parses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "commands.md").read_text()
    assert set(re.findall(r"^\| `feataug ([\w-]+)` \|", page, re.MULTILINE)) == set(COMMANDS)
    blocks = dict(re.findall(r"```(toml|text)\n(.*?)```", page, re.DOTALL))
    Path("run.toml").write_text(blocks["toml"])
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 8
    assert set(lines[:4]) <= {line for command in COMMANDS.values() for line in command.EXAMPLES}
    for line in lines:
        line, _, file = line.partition(" > ")
        if file:
            assert main(shlex.split(line)[1:]) == 0
            Path(file).write_text(capsys.readouterr().out)
        args, _ = parse(shlex.split(line)[1:])
        assert args.command in COMMANDS
    assert args.preset == "paper"
    # The error stands there as it is.
    Path("run.toml").write_text('[finetune]\nsteps = "many"\n')
    assert main(["finetune", "--config", "run.toml"]) == 1
    assert capsys.readouterr().err == blocks["text"]


def test_the_file_on_the_page_does_what_the_page_says(tmp_path, capsys):
    page = (ROOT / "docs" / "commands.md").read_text()
    file = tmp_path / "run.toml"
    file.write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    assert main(["finetune", "--config", str(file), "--batch-size", "16", "--dry-run"]) == 0
    found = tomllib.loads(capsys.readouterr().out)["finetune"]
    assert (found["batch-size"], found["data"], found["generator"]) == (16, "CamVid", "runs/generator")
    assert found["config"]["lr_scale"] == {"encoder": 0.1}
