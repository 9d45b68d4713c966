"""The commands, end to end on tiny embedded scenes."""

import json

import pytest

from feataug.cli import main
from feataug.demo import DemoConfig, run_demo, summary
from feataug.metrics import MEASURES

TINY = ["--dataset", "scenes", "--size", "32", "48", "--batch-size", "16", "--quiet", "--device", "cpu"]


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_demo_leaves_what_it_promises(tmp_path):
    config = DemoConfig(
        size=(32, 48), train_images=16, val_images=8, batch_size=4, base_steps=6, generator_images=16, finetune_steps=3
    )
    result = run_demo(tmp_path, device="cpu", config=config, progress=False)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored == json.loads(json.dumps(result))
    for arm in ("base", "control", "feataug"):
        assert all(0 <= stored[arm][name] <= 100 for name in MEASURES)
        assert set(stored[arm]["per_class"]["road"]) == {"acc", "iou"}
    assert set(stored["recognition"]) >= {"real", "synthetic", "ratio", "diversity"}
    assert set(stored["seconds"]) == {"base", "generator", "control", "feataug", "picture", "total"}
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    text = summary(result)
    assert "recognition score" in text
    assert "feataug minus control" in text


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_a_whole_run_by_commands(tmp_path, capsys):
    base, generator, mixed, measured = (str(tmp_path / name) for name in ("base", "generator", "mixed", "measured"))
    assert main(["finetune", *TINY, "--encoder", "test_resnet", "--steps", "4", "--lr", "0.05", "--output", base]) == 0
    at = ["--at", "encoder.layer3.0", "--images", "32"]
    assert main(["fit-generator", *TINY, "--model", base, *at, "--output", generator]) == 0
    further = ["--model", base, "--generator", generator, "--steps", "2"]
    assert main(["finetune", *TINY, *further, "--output", mixed]) == 0
    assert main(["evaluate", *TINY, "--model", mixed, "--output", measured]) == 0
    stored = {folder: json.loads((tmp_path / folder / "result.json").read_text()) for folder in ("mixed", "measured", "generator")}
    assert stored["mixed"]["miou"] == pytest.approx(stored["measured"]["miou"])
    assert stored["generator"]["recognition"]["ratio"] > 0
    assert "mIoU" in capsys.readouterr().out


def test_help_is_for_newcomers(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("demo", "fit-generator", "finetune", "evaluate", "result.json"):
        assert word in text
    for command in ("demo", "fit-generator", "finetune", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert all(option in text for option in ("--output", "--seed", "--device"))


def test_errors_are_one_message_without_a_traceback(tmp_path, capsys):
    folder = tmp_path / "nowhere"
    command = ["finetune", "--data", str(folder), "--encoder", "test_resnet", "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "MissingDataError: CamVid: a folder is missing.\n"
        f"  given:   {folder / 'train'}\n"
        "  needed:  a folder of images and one of masks\n"
    )
    assert main([*command, "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["finetune", "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "ConfigError: feataug: no data.\n  given:   --dataset camvid\n  needed:  --data DIR\n"
