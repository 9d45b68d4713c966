"""Missing data are found before torch is imported, with the errors of the readers."""

import subprocess
import sys

import pytest

from feataug.cli.main import main

# torch, and what takes as long.
HEAVY = ("torch", "torchvision", "torchmetrics", "accelerate", "timm")
CHECK = f"""
import sys
from feataug.cli.main import main
code = main(sys.argv[1:])
print(sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r})))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("dataset", "needed"),
    [
        ("camvid", "a folder that holds train and trainannot"), ("cityscapes", "a folder that holds leftImg8bit/train and gtFine/train"),
        ("idd", "a folder that holds leftImg8bit/train and gtFine/train"), ("folder", "SPLIT/images and SPLIT/masks"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["finetune", "doctor"])
def test_torch_is_not_imported(tmp_path, command, dataset, needed):
    words = [command, "--data", str(tmp_path), "--dataset", dataset]
    done = subprocess.run([sys.executable, "-c", CHECK, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert f"  needed:  {needed}" in done.stderr
    assert done.stdout.strip() == "[]"


def test_no_data_at_all(capsys):
    assert main(["finetune", "--encoder", "resnet18"]) == 1
    assert capsys.readouterr().err == "ConfigError: feataug: no data.\n  given:   --dataset camvid\n  needed:  --data DIR\n"


def test_the_evaluation_split_is_checked_as_well(tmp_path, capsys):
    for part in ("train", "trainannot"):
        (tmp_path / part).mkdir()
    assert main(["finetune", "--data", str(tmp_path), "--encoder", "resnet18"]) == 1
    assert "needed:  a folder that holds val and valannot" in capsys.readouterr().err
