"""Full sentences for whatever is wrong with the name of a model or with a user's code."""

from __future__ import annotations

import sys

import huggingface_hub.constants
import pytest
from torch import nn

from feataug.cli.main import main
from feataug.cli.model_names import named_model
from tests.support.user_code import BUILD, CALLED, error, wrong

RUNS = "code that runs"
MODULE = "a torch.nn.Module"
IN_CODE = {
    "mymodel:needs": (
        "the function needs arguments.",
        "'mymodel:needs' without classes, depth",
        "Write a function without arguments that builds the model, or give these arguments default values.",
        "a function that can be called without arguments",
    ),
    "./mymodel.py:fails": (
        "the function fails.",
        "'./mymodel.py:fails': ValueError: no weights (mymodel.py, line 23)",
        "--traceback shows where.",
        RUNS,
    ),
    "mymodel:ends": (
        "the code ends the program.",
        "'mymodel:ends': SystemExit(3) (mymodel.py, line 27)",
        "Move the script's own code below `if __name__ == '__main__':`.",
        RUNS,
    ),
    "mymodel:nothing": (
        "the function does not return a model.",
        "'mymodel:nothing' returns None",
        "A `return` seems to be missing.",
        MODULE,
    ),
    "mymodel:pair": (
        "the function does not return a model.",
        "'mymodel:pair' returns a value of type tuple that holds Net, str",
        "Return the model alone.",
        MODULE,
    ),
    "mymodel:kind": (
        "the function does not return a model.",
        "'mymodel:kind' returns the class Net",
        "Return an instance of the class.",
        MODULE,
    ),
    "collections:OrderedDict": (
        "the function does not return a model.",
        "'collections:OrderedDict' returns a value of type OrderedDict",
        None,
        MODULE,
    ),
    "mymodel:table": ("this is neither a function nor a model.", "'mymodel:table', a value of type dict", None, CALLED),
    "mymodel:biuld": ("there is no such function.", "'mymodel:biuld': mymodel has no 'biuld'", "It has build.", CALLED),
    "./mymodel.py:Net.smal": (
        "there is no such function.",
        "'./mymodel.py:Net.smal': Net has no 'smal'",
        "It has small.",
        CALLED,
    ),
    "mymodel:zzz": (
        "there is no such function.",
        "'mymodel:zzz': mymodel has no 'zzz'",
        "It has Net, build, needs, fails, ends, nothing, pair, kind.",
        CALLED,
    ),
}


@pytest.mark.parametrize("name", IN_CODE)
def test_what_is_wrong_in_the_code(name, here):
    assert error(name) == wrong(*IN_CODE[name])


@pytest.mark.parametrize(
    ("source", "fault", "advice"),
    [
        ("def build(:\n", "SyntaxError: invalid syntax (broken.py, line 1)", "--traceback shows where."),
        ("x = 1\n\x00", "SyntaxError: source code string cannot contain null bytes", "--traceback shows where."),
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero (broken.py, line 2)", "--traceback shows where."),
        (
            "import no_such_package.inside\n",
            "ModuleNotFoundError: No module named 'no_such_package' (broken.py, line 1)",
            f"Install the package that provides no_such_package for {sys.executable}, or put it into the current folder.",
        ),
    ],
    ids=["syntax", "null byte", "exception", "missing package"],
)
def test_code_that_cannot_be_imported(source, fault, advice, here):
    (here / "broken.py").write_text(source)
    for name, rule in (("broken:f", "the module fails when it is imported."), ("broken.py:f", "the file fails when it is run.")):
        assert error(name) == wrong(rule, f"{name!r}: {fault}", advice, RUNS)
    # Nothing half made is left: once mended, it can be named.
    (here / "broken.py").write_text(BUILD + "# mended, and of another length\n")
    assert isinstance(named_model("broken.py:build"), nn.Conv2d)
    assert isinstance(named_model("broken:build"), nn.Conv2d)


def test_a_script_that_parses_its_arguments(here, capsys):
    (here / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--wrong'])\n")
    assert error("script.py:build") == wrong(
        "the code ends the program.",
        "'script.py:build': SystemExit(2) (script.py, line 2)",
        "Move the script's own code below `if __name__ == '__main__':`.",
        RUNS,
    )


def test_ctrl_c_in_the_code_stops_the_command(here, capsys):
    (here / "mymodel.py").write_text("def build():\n    raise KeyboardInterrupt\n")
    assert main(["inspect", "mymodel:build"]) == 130


NOT_THERE = {
    "mymodle:build": (
        "there is no such module.",
        "'mymodle:build': No module named 'mymodle'",
        "Looked in the current folder, {here}, and among the installed packages. The folder holds mymodel.py.",
    ),
    "json.nothing:f": (
        "there is no such module.",
        "'json.nothing:f': No module named 'json.nothing'",
        "Looked in the current folder, {here}, and among the installed packages.",
    ),
    "mymodle.py:build": ("there is no such file.", "'mymodle.py:build'", "{here} holds mymodel.py."),
    "./zzz.py:build": ("there is no such file.", "'./zzz.py:build'", "Looked in {here}."),
    "no/folder/zzz.py:build": ("there is no such file.", "'no/folder/zzz.py:build'", "The folder no/folder does not exist."),
    "qqqq.py:build": ("this is a folder, not a file.", "'qqqq.py:build'"),
    "C:\\x.py:f": ("there is no such file.", r"'C:\\x.py:f'", "Looked in {here}."),
    "C:\\x.py": ("there is no such file or folder.", r"'C:\\x.py'", "Looked in {here}."),
    "C:\\runs\\base": ("there is no such file or folder.", r"'C:\\runs\\base'", "Looked in {here}."),
    "~/zzz": ("there is no such file or folder.", "'~/zzz'", "Looked in {here}."),
    "runs/base": ("there is no such file or folder.", "'runs/base'", "The folder runs does not exist."),
    "./mymodel:build": ("the name of a file must end in .py.", "'./mymodel:build'", "Write ./mymodel.py:build."),
    "./mymodle:build": ("there is no such file.", "'./mymodle:build'", "{here} holds mymodel.py."),
    ".mymodel:build": ("there is no such file.", "'.mymodel:build'", "{here} holds mymodel.py."),
    "mymodel.py": (
        "the function in the file is missing.",
        "'mymodel.py'",
        "The file defines Net, build, needs, fails, ends, nothing, pair, kind: write mymodel.py:Net.",
    ),
    "mymodel.py:": (
        "the function in the file is missing.",
        "'mymodel.py:'",
        "The file defines Net, build, needs, fails, ends, nothing, pair, kind: write mymodel.py:Net.",
    ),
    "mymodel": ("no model has this name.", "'mymodel'", "mymodel is a module: name its function, mymodel:FUNCTION."),
    "json": ("no model has this name.", "'json'", "json is a module: name its function, json:FUNCTION."),
    "mymodel:build()": (
        "the function must be named without parentheses and arguments.",
        "'mymodel:build()'",
        "Write MODULE:FUNCTION; the function is called.",
    ),
    ":build": ("the module before the colon is missing.", "':build'"),
    "": ("no model has this name.", "''"),
    "weights.pth": (
        "the file is not Python source.",
        "'weights.pth'",
        "If it holds weights, write a function that builds the model and loads them, and name that function.",
    ),
    "resnet18": ("the name of a timm model begins with timm/.", "'resnet18'", "Write timm/resnet18."),
    "timm:resnet18": ("the name of a timm model begins with timm/.", "'timm:resnet18'", "Write timm/resnet18."),
    "timm/resnet18.no_such_tag": (
        "timm has no such model.",
        "'timm/resnet18.no_such_tag'",
        "timm.list_models() lists them.",
    ),
    "timm/": ("timm has no such model.", "'timm/'", "timm.list_models() lists them."),
    "local-dir:nowhere": (
        "timm cannot load this model.",
        "'local-dir:nowhere': FileNotFoundError: Config file not found: nowhere/config.json",
        "Its config.json has to be there: in a local folder, in the hub's cache on this machine, or on the hub.",
    ),
}


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_is_not_there(name, here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "qqqq.py").mkdir()
    (here / "weights.pth").write_bytes(b"x")
    rule, given, *advice = NOT_THERE[name]
    assert error(name) == wrong(rule, given, *(text.format(here=here) for text in advice))


@pytest.mark.parametrize("name", ["hf-hub:nobody/nothing", "timm/hf-hub:nobody/nothing", "hf_hub:nobody/nothing"])
def test_names_of_the_hub(name, monkeypatch, here):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lines = error(name).splitlines()
    assert lines[0] == "named_model: timm cannot load this model."
    assert lines[1].startswith(f"  given:   {name!r}: LocalEntryNotFoundError: ")
    assert lines[-1] == "Its config.json has to be there: in a local folder, in the hub's cache on this machine, or on the hub."
