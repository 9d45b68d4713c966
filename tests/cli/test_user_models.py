"""Models by their names on the command line: a user's own modules and files, and saved models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from torch import nn

from feataug.cli.main import main
from feataug.cli.model_names import named_model
from feataug.cli.user_models import code_file
from feataug.errors import CheckpointError
from feataug.models import PSPNet
from tests.support.user_code import BUILD, CALLED, error, wrong


@pytest.mark.parametrize(
    ("function", "channels"),
    [("build", 6), ("Net", 4), ("Net.small", 2), ("net", 5)],
    ids=["function", "class", "class method", "instance"],
)
@pytest.mark.parametrize(
    "where", ["mymodel", "mymodel.py", "./mymodel.py", "../here/mymodel.py", "{here}/mymodel.py", "~/mymodel.py"]
)
def test_what_can_be_named(where, function, channels, here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    name = f"{where.format(here=here)}:{function}"
    assert named_model(name).out_channels == channels
    assert code_file(name) == here / "mymodel.py"


def test_a_package_with_relative_imports(here):
    package = here / "pkg" / "nets"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "blocks.py").write_text(BUILD)
    (package / "models.py").write_text("from .blocks import build\nfrom ..wide import width\n")
    (package.parent / "wide.py").write_text("width = 3\n")
    for name in ("pkg.nets.models:build", "pkg/nets/models.py:build"):
        assert isinstance(named_model(name), nn.Conv2d)
    (package / "__init__.py").write_text("from .models import build\n")
    for name in [name for name in sys.modules if name.startswith("pkg")]:
        del sys.modules[name]
    for name in ("pkg.nets:build", "pkg/nets/__init__.py:build"):
        assert isinstance(named_model(name), nn.Conv2d)


def test_a_folder_without_init_and_a_file_beside_the_file(here):
    (here / "lone").mkdir()
    (here / "lone" / "beside.py").write_text(BUILD)
    (here / "lone" / "plain.py").write_text("import beside\nimport mymodel\nbuild = beside.build\n")
    (here / "lone" / "relative.py").write_text("from .beside import build\n")
    assert isinstance(named_model("lone/plain.py:build"), nn.Conv2d)
    assert isinstance(named_model("lone.relative:build"), nn.Conv2d)
    assert error("lone/relative.py:build") == wrong(
        "the file fails when it is run.",
        "'lone/relative.py:build': ImportError: attempted relative import with no known parent package (relative.py, line 1)",
        "Put an __init__.py into the file's folder, or name the module from the folder above: FOLDER.MODULE:FUNCTION.",
        "code that runs",
    )


def test_a_model_may_import_when_it_is_called(here):
    (here / "late.py").write_text("width = 7\n")
    (here / "mymodel.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        import late\n        return x * late.width\n"
    )
    assert named_model("mymodel:Net")(2) == 14


def test_a_link_to_a_file_elsewhere(here, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.py").write_text("from neighbour import build\n")
    (tmp_path / "elsewhere" / "neighbour.py").write_text(BUILD)
    (here / "link.py").symlink_to(tmp_path / "elsewhere" / "real.py")
    assert isinstance(named_model("link.py:build"), nn.Conv2d)


def test_files_with_names_of_the_standard_library(here):
    import colorsys  # stands for whatever else is imported first
    import random

    for name in ("random.py", "colorsys.py", "nntplib.py", "timm.py", "my-net.v2.py"):
        (here / name).write_text(BUILD)
        assert isinstance(named_model(f"{name}:build"), nn.Conv2d), name
    assert sys.modules["random"] is random
    # Not yet imported: the standard library's comes before the current folder's.
    (here / "sndhdr.py").write_text("raise RuntimeError('shadowed')\n")
    (here / "wave.py").write_text("raise RuntimeError('shadowed')\n")
    sys.modules.pop("wave", None)
    named_model("mymodel:build")
    import wave

    assert wave.__file__ == str(Path(sysconfig.get_path("stdlib")) / "wave.py")
    assert error("colorsys:build") == wrong(
        "another module named colorsys hides the file.",
        f"'colorsys:build'; the file is {here / 'colorsys.py'}, the module is {colorsys.__file__}",
        "For the file write ./colorsys.py:build.",
    )
    (here / "sys.py").write_text(BUILD)
    assert error("sys:build") == wrong(
        "another module named sys hides the file.",
        f"'sys:build'; the file is {here / 'sys.py'}, the module is built in",
        "For the file write ./sys.py:build.",
    )
    (here / "json").mkdir()
    (here / "json" / "__init__.py").write_text("")
    (here / "json" / "nets.py").write_text(BUILD)
    assert error("json:build") == wrong(
        "another module named json hides the file.",
        f"'json:build'; the file is {here / 'json' / '__init__.py'}, the module is {json.__file__}",
        f"Rename json in {here}, or run the command elsewhere.",
    )
    assert error("json.nets:build") == wrong(
        "there is no such module.",
        "'json.nets:build': No module named 'json.nets'",
        "Another package of this name hides ./json/nets.py. Write ./json/nets.py:FUNCTION.",
    )


def test_own_modules_come_before_installed_ones(here, tmp_path, monkeypatch):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "layers.py").write_text("raise RuntimeError('the installed one')\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed)])
    (here / "layers.py").write_text(BUILD)
    (here / "mymodel.py").write_text("from layers import build\n")
    assert isinstance(named_model("mymodel:build"), nn.Conv2d)
    assert isinstance(named_model("layers:build"), nn.Conv2d)


def saved(folder: Path) -> Path:
    PSPNet("resnet10t", 5, width=8, encoder_kwargs={"channels": (8, 8, 16, 16), "stem_width": 8}).save_pretrained(folder)
    return folder


def test_folders(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    saved(here / "runs" / "base")
    for name in ("runs/base", "./runs/base/", "~/runs/base"):
        assert isinstance(named_model(name), PSPNet)
    rule, needed = "the folder holds no saved PSPNet.", "config.json and model.safetensors, as `feataug finetune` leaves them"
    (here / "runs" / "empty").mkdir()
    assert error("runs/empty") == wrong(rule, "'runs/empty', which is empty", None, needed)
    assert error("runs") == wrong(rule, "'runs', which holds base, empty", "Models may be in runs/base.", needed)
    (here / "pkg").mkdir()
    for name in ("__init__", "a", "b", "c", "d", "e", "f"):
        (here / "pkg" / f"{name}.py").write_text("")
    assert error("pkg") == wrong(
        rule,
        "'pkg', which holds __init__.py, a.py, b.py, c.py, d.py and 2 more",
        "It is a package: name its function, such as pkg:FUNCTION.",
        needed,
    )
    (here / "runs" / "empty" / "config.json").write_text('{"num_classes": 3, "spec": {}}')
    assert error("runs/empty") == wrong(
        rule,
        "'runs/empty', which holds config.json",
        "It holds a generator: give the model that the generator was trained for.",
        needed,
    )
    (here / "runs" / "base" / "config.json").write_text("{")
    assert error("runs/base", CheckpointError).startswith(
        "PSPNet: a model cannot be loaded.\n  given:   runs/base (JSONDecodeError: "
    )


@pytest.mark.parametrize("value", ["None", "'resnet'", "object()"])
def test_an_attribute_that_only_timm_gives_a_meaning(value, here, capsys):
    (here / "mymodel.py").write_text(
        BUILD + f"net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))\nnet.default_cfg = {value}\n"
    )
    assert main(["inspect", "mymodel:net"]) == 0
    assert "at 256 x 256" in capsys.readouterr().out


def console(*argv: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """As the console script runs it: -P, since Python does not put the current folder on the path of such a script."""
    code = "import sys; from feataug.cli.main import main; sys.exit(main())"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, argv)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_console_script_in_a_users_folder(here):
    # Names that torch, timm or the standard library import, too.
    for name in ("types.py", "random.py", "inspect.py", "glob.py", "profile.py"):
        (here / name).write_text("raise RuntimeError('shadowed')\n")
    (here / "mymodel.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))\n"
    )
    done = console("inspect", "mymodel:build", "--size", "32x32", folder=here)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"mymodel:build: Sequential from {here / 'mymodel.py'}\n"
    assert "places where mymodel:build can be cut whole, at 32 x 32" in done.stdout
    done = console("inspect", "./mymodel.py:biuld", folder=here)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "ConfigError: "
        + wrong("there is no such function.", "'./mymodel.py:biuld': ./mymodel.py has no 'biuld'", "It has build.", CALLED)
        + "\n"
    )
