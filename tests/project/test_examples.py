"""The examples run."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_timm_backbone(capsys):
    spec = importlib.util.spec_from_file_location("timm_backbone", EXAMPLES / "timm_backbone.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tiny = ["--backbone", "test_resnet", "--images", "8", "--size", "32", "48", "--epochs", "1", "--batch-size", "4"]
    module.main(tiny)
    out = capsys.readouterr().out
    assert 'Cut(EncoderDecoder at "encoder"' in out
    assert "recognition score" in out
    assert "with synthetic features: mIoU" in out
