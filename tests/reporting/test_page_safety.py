"""Whatever a run's files hold does no harm: it is escaped, or reported as one error, or noted on the page."""

import ast
import json
import random
import re
from importlib.resources import files

import jinja2
import pytest
import torch
from markupsafe import Markup

from feataug.cli.main import main
from feataug.errors import CheckpointError, DataError, FeatAugError, MissingDataError
from feataug.io.samples import SAMPLES, keep_samples
from feataug.reporting.page import svg, write_page
from tests.support.planted_runs import GENERATOR, comparison, measured, page_of, qualities, score, taught, write

RESULTS = {
    "comparison": comparison([1.0, 2.0]),
    "demo": comparison([1.0, 2.0]) | {"recognition": score()},
    "generator": {"recognition": score(), "quality": qualities(), "config": {"num_images": 3}},
    "evaluation": measured(50),
    "teaching": taught({"real": (46.0, 47.2), "generator": (31.0, 35.3)}),
}

def hostile(folder):
    name = '<script>alert("1")</script>'
    result = comparison([1.0, 2.0, 1.5])
    for part in (result["base"], *result["arms"].values(), *result["differences"].values()):
        part["per_class"][name] = part["per_class"].pop("pole")
    for part in (result["arms"], result["differences"]):
        part["<b>baseline</b>"] = part["feataug"]
    result["settings"] |= {"<i>key": "</details><script>", "data": '" onload="x', "lone": "\ud800"}
    write(folder, result, {"seed-0/<img src=x>": [{"loss": 1.0, "miou": 3.0}, {"loss": 2.0, "miou": 3.0}]})
    (folder / "command.json").write_text(json.dumps({"command": name, "arguments": {name: name}, "versions": {name: name}}))
    model = torch.nn.Conv2d(3, 3, 1)
    loader = [(torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))]
    keep_samples(folder / SAMPLES, loader, {name: model}, classes=[name])
    return folder, name


def check_hostile_page(folder, name):
    page = page_of(folder)
    assert not {"script", "i", "u"} & set(page.tags)
    assert page.handlers == []
    assert name in [row[0] for row in page.tables["IoU by class, percent; differences in points"]]
    assert "<b>baseline</b>" in page.texts["metrics"]
    assert f"{name}, sample 1" in page.alts
    assert page.open == []


def test_the_content_of_files_is_text(tmp_path):
    check_hostile_page(*hostile(tmp_path / "<u>run"))


def test_the_check_finds_what_is_not_escaped(tmp_path, monkeypatch):
    escaping = jinja2.Environment
    monkeypatch.setattr(jinja2, "Environment", lambda **settings: escaping(**settings | {"autoescape": False}))
    with pytest.raises(AssertionError):
        check_hostile_page(*hostile(tmp_path / "<u>run"))


def test_the_check_finds_charts_that_are_not_escaped(tmp_path, monkeypatch):
    class Unescaped(Markup):
        def format(self, *args):
            return Markup(str(self).format(*args))

    for name in ("_CHART", "_TEXT", "_TITLE"):
        monkeypatch.setattr(svg, name, Unescaped(getattr(svg, name)))
    with pytest.raises(AssertionError):
        check_hostile_page(*hostile(tmp_path / "<u>run"))


SCRIPT = '</style></title></svg><script>alert("1")</script><img src=x onerror=alert(1)>{{ 7 * 191 }}'


def plant(value):
    """The same structure with the script as every text, and as every further key."""
    if isinstance(value, dict):
        return {key: plant(item) for key, item in value.items()} | {SCRIPT: SCRIPT}
    if isinstance(value, list):
        return [plant(item) for item in value]
    return SCRIPT if isinstance(value, str) or value is None else value


@pytest.mark.parametrize("which", RESULTS)
def test_a_script_in_every_field_is_text(which, tmp_path):
    result = plant(RESULTS[which]) | {"absent": [SCRIPT]}
    for part in (*result.values(), *result.get("arms", {}).values(), *result.get("differences", {}).values()):
        if isinstance(part, dict) and "per_class" in part:
            part["per_class"][SCRIPT] = next(iter(part["per_class"].values()))
    lines = {SCRIPT.replace("/", "-"): [GENERATOR | {SCRIPT: float("nan")}] * 3, "seed-0/<script>": [{"loss": 1.0, "miou": 3.0}] * 3}
    folder = write(tmp_path / "run", result, lines)
    command = {"command": "x", "arguments": {"model": "x", "data": "x"}, "versions": {"torch": "x"}, "began": "x"}
    (folder / "command.json").write_text(json.dumps(plant(command)))
    (folder / SAMPLES).write_bytes(SCRIPT.encode())
    page = page_of(folder)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.handlers == []
    assert page.open == []
    assert SCRIPT[:60] in page.text
    assert "1337" not in page.text  # Jinja does not evaluate it


def test_no_template_turns_escaping_off():
    templates = sorted(files("feataug.reporting.page").joinpath("templates").glob("*.jinja"))
    assert len(templates) == 4
    for template in templates:
        assert re.findall(r"\|\s*safe|autoescape|Markup", template.read_text()) == [], template.name


def test_only_constant_texts_are_marked_as_html():
    package = files("feataug.reporting")
    found = 0
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Markup":
                assert all(isinstance(argument, ast.Constant) for argument in node.args), (file, node.lineno)
                found += 1
    assert found >= 7


def test_a_damaged_result_is_one_error(tmp_path, capsys):
    folder = write(tmp_path / "run", {})
    (folder / "result.json").write_text('{"base": ')
    with pytest.raises(CheckpointError) as error:
        write_page(folder)
    assert str(error.value) == (
        "feataug report: result.json cannot be read.\n"
        f"  given:   {folder / 'result.json'} (JSONDecodeError: Expecting value: line 1 column 10 (char 9))\n"
        "  needed:  the file as a command wrote it\n"
        "Give that command again. Parts that are finished are not run again."
    )
    assert main(["report", str(folder)]) == 1
    assert capsys.readouterr().err.startswith("CheckpointError: feataug report: result.json cannot be read.\n")
    assert not (folder / "report.html").exists()


def test_no_folder_and_no_run(tmp_path):
    with pytest.raises(MissingDataError) as error:
        write_page(tmp_path / "nowhere")
    assert str(error.value) == (
        f"feataug report: there is no such folder.\n  given:   {tmp_path / 'nowhere'}\n  needed:  the --output of another command"
    )
    write(tmp_path / "base", measured(50))
    write(tmp_path / "compare", comparison([1.0]))
    with pytest.raises(DataError) as error:
        write_page(tmp_path)
    assert str(error.value) == (
        "feataug report: the folder holds no run.\n"
        f"  given:   {tmp_path}\n"
        "  needed:  result.json or stats.jsonl, as feataug demo, fit-generator, finetune, compare, teach and evaluate leave them in --output\n"
        "There are runs in it: base, compare. Give one of these folders."
    )
    write(tmp_path / "places", {"model": "timm/resnet18", "places": []})
    with pytest.raises(DataError, match=r"with a result\.json that has model, places"):
        write_page(tmp_path / "places")


def test_other_damaged_files_are_notes(tmp_path):
    folder = write(tmp_path / "run", {"recognition": score(), "config": {}}, {"run": [GENERATOR] * 3})
    with open(folder / "run" / "stats.jsonl", "a") as file:
        file.write('{"progress": 40, "l1": NaN, "kl": 1.0}\n{"progress": "x"}\n[1]\n{"progress": 5')
    (folder / SAMPLES).write_bytes(b"\x00" * 50)
    (folder / "command.json").write_text("[]")
    page = page_of(folder)
    notes = page.texts["warnings"]
    assert "run/stats.jsonl: 3 of 7 lines cannot be read and are left out." in notes
    assert "command.json cannot be read (not a dictionary). Its content is left out." in notes
    assert f"pictures of a run cannot be read.   given:   {folder / SAMPLES}" in notes
    assert "run: values that are not finite" in notes
    assert "No features were kept." in page.texts["features"]


JUNK = (None, "x", "", [], {}, [[]], float("nan"), float("inf"), -1, 0, 1e300, 10**400, True, "\ud800", ["a"], {"mean": 1}, 5e-324)


def spoil(value, rng, chance):
    if rng.random() < chance:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        return {key: spoil(item, rng, chance) for key, item in value.items()}
    return [spoil(item, rng, chance) for item in value] if isinstance(value, list) else value


def attempt(folder):
    try:
        return page_of(folder)
    except FeatAugError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(60))
def test_values_of_any_kind_make_a_page_or_one_error(seed, tmp_path):
    rng = random.Random(seed)
    result = list(RESULTS.values())[seed % 4]
    lines = [GENERATOR, measured(3) | {"loss": 1.0}, {"real": measured(1), "synthetic": measured(2), "ratio": 1, "diversity": 2}]
    chance = rng.choice((0.02, 0.1, 0.4))
    spoiled = {key: spoil(value, rng, chance) for key, value in result.items()}
    entries = [{key: spoil(value, rng, chance) for key, value in rng.choice(lines).items()} for _ in range(6)]
    folder = write(tmp_path / "run", spoiled, {"run": entries, "seed-0/control": entries})
    (folder / "command.json").write_text(json.dumps(spoil({"command": "x", "arguments": {"a": 1}, "seconds": 3.0}, rng, chance)))
    page = attempt(folder)
    if isinstance(page, str):
        assert page.startswith("feataug report: ")
        return
    assert page.open == []
    assert (
        re.findall(r"\b(?:nan|inf|None|NaN)\b", " ".join(x for name, x in page.texts.items() if name in ("metrics", "classes")))
        == []
    )
