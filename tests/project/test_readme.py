"""What the README says runs as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import feataug
from feataug.cli.parser import parse
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.models import PSPNet

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_the_loops_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    small = {"channels": (8, 8, 16, 16), "stem_width": 8}
    model = PSPNet("resnet10t", 10, output_stride=8, width=8, encoder_kwargs=small)
    train_set = Scenes(8, (32, 48), transforms=eval_transforms())
    user = {
        "model": model,
        "train_set": train_set,
        "loader": seeded_loader(train_set, 8),
        "plain_loader": seeded_loader(train_set, 4, shuffle=False),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
    }
    train, loop, halves, question = blocks("python")
    assert "num_images=20_000" in train
    assert feataug.GeneratorConfig().num_images == 20_000
    exec(train.replace("num_images=20_000", "num_images=160"), user)
    encoder = {name: p.clone() for name, p in user["cut"].model.named_parameters() if name.startswith("encoder.layer1")}
    decoder = {name: p.clone() for name, p in model.named_parameters() if name.startswith("head")}
    exec(loop, user)
    trained = dict(model.named_parameters())
    assert user["batch"].num_real == 8
    assert user["batch"].num_synthetic in (3, 4)
    assert set(user["settings"]) == {"masks", "ratio", "pixel_filter", "class_weights"}
    for before in (encoder, decoder):
        assert any(not torch.equal(value, trained[name]) for name, value in before.items())
    exec(halves, user)
    assert user["loss"].isfinite()
    assert len(user["logits"]) == len(user["batch"].masks)
    del user["cut"]
    val_loader = seeded_loader(Scenes(8, (32, 48), seed=1, transforms=eval_transforms()), 4, shuffle=False)
    user |= {"seeded_loader": lambda data, batch, seed: seeded_loader(data, 4, seed=seed), "val_loader": val_loader}
    exec(question.replace("num_steps=1000", "num_steps=2").replace("seeds=(0, 1, 2)", "seeds=(0, 1)"), user)
    assert set(user["result"]["difference"]["class_acc"]) == {"mean", "low", "high"}


def test_the_ten_lines_are_ten():
    loop = blocks("python")[1]
    added = [line for line in loop.splitlines() if line.strip()]
    theirs = ("for images", "out = model", "loss.backward", "optimizer.")
    assert len([line for line in added if not line.strip().startswith(theirs)]) <= 10


def test_the_commands_parse():
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("feataug ")]
    assert len(lines) == 9
    for line in lines:
        parsed, _ = parse(shlex.split(line, comments=True)[1:])
        assert parsed.output or parsed.command in ("inspect", "report")
