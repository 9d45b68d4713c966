"""The recipes in docs/loops.md run as they stand there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

import feataug
from feataug.data import seeded_loader
from tests.support import model_zoo
from tests.support.forks import Fork

PAGE = (Path(__file__).parents[2] / "docs" / "loops.md").read_text()
RECIPES = dict(re.findall(r"\n## ([^\n]*)\n.*?```python\n(.*?)```", PAGE, re.DOTALL))
SIZE = (64, 64)


def draw_masks(count, seed=0):
    return torch.randint(model_zoo.CLASSES, (count, *SIZE), generator=torch.Generator().manual_seed(seed))


class Pairs(torch.utils.data.TensorDataset):
    def __init__(self, count=8):
        super().__init__(torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(2)), draw_masks(count, seed=3))


class Named(Pairs):
    """As transformers' Trainer wants it."""

    def __getitem__(self, index):
        return dict(zip(("pixel_values", "labels"), super().__getitem__(index), strict=True))


def make_generator(spec):
    torch.manual_seed(1)
    return feataug.FeatureGenerator(model_zoo.CLASSES, spec, width=8, depth=1)


def loader(seed=0, rank=0, processes=1):
    batches = seeded_loader(Pairs(), 4 // processes, seed=seed)
    return [(images, masks) for index, (images, masks) in enumerate(batches) if index % processes == rank]


def surroundings(model=None):
    """What a reader has before a recipe starts."""
    torch.manual_seed(0)
    model = model or model_zoo.OwnPair()
    return {
        "model": model,
        "generator": make_generator(feataug.split(model, at="encoder").spec),
        "masks": feataug.DatasetMasks(draw_masks(20)),
        "loader": seeded_loader(Pairs(), 4),
        "plain_loader": seeded_loader(Pairs(), 4, shuffle=False),
    }


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_there_are_recipes():
    assert list(RECIPES) == [
        "Plain PyTorch",
        "A decoder without images",
        "Lightning",
        "transformers' Trainer",
        "segmentation_models_pytorch",
        "mmengine's Runner",
    ]


def run_plain(epochs):
    names = surroundings() | {"epochs": epochs, "accumulate": 2, "batches_of": loader}
    exec(RECIPES["Plain PyTorch"], names)
    return names["model"].state_dict()


def test_the_plain_loop_resumes_bit_for_bit(tmp_path):
    undisturbed = run_plain(3)
    os.remove("last.pt")
    run_plain(1)
    assert equal(undisturbed, run_plain(3))
    # Planted: without the mixer's state the end is another one.
    os.remove("last.pt")
    run_plain(1)
    state = torch.load("last.pt", weights_only=True)
    state["mixer"]["rng"] = torch.Generator().manual_seed(77).get_state()
    torch.save(state, "last.pt")
    assert not equal(undisturbed, run_plain(3))


def test_a_decoder_learns_from_generated_features_alone():
    names = surroundings() | {"steps": 12}
    model = names["model"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = []
    code = RECIPES["A decoder without images"].replace("    loss.backward()", "    losses.append(float(loss.detach()))\n    loss.backward()")
    exec(code, names | {"losses": losses})
    assert losses[-1] < losses[0]
    changed = {name.partition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}
    assert model(torch.rand(1, 3, *SIZE)).shape == (1, model_zoo.CLASSES, *SIZE)


@pytest.mark.slow
def test_the_plain_loop_under_ddp():
    script = (
        "import os, torch\nfrom tests.project import test_loops as t\n"
        "rank = int(os.environ['RANK'])\n"
        "names = t.surroundings() | {'epochs': 2, 'accumulate': 1, 'batches_of': lambda epoch: t.loader(epoch, rank, 2)}\n"
        "exec(t.RECIPES['Plain PyTorch'].replace('update_bn(', 'update_bn and ('), names)\n"
        "torch.save(dict(names['network'].module.named_parameters()), f'{rank}.pt')\n"
        "torch.save(names['batch'].global_masks, f'masks{rank}.pt'); torch.save(names['batch'].masks, f'own{rank}.pt')\n"
    )
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29731, "WORLD_SIZE": 2}
    running = [Fork(script, env=env | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(2)]
    for process in [process.wait() for process in running]:
        assert process.returncode == 0, process.stderr
    first, second = (torch.load(f"{rank}.pt", weights_only=True) for rank in "01")
    assert equal(first, second)
    assert not equal(first, dict(model_zoo.OwnPair().named_parameters()))
    assert not torch.equal(torch.load("own0.pt"), torch.load("own1.pt"))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning():
    pytest.importorskip("lightning", reason="Lightning is not installed")
    names = surroundings()
    before = {name: value.clone() for name, value in names["model"].state_dict().items()}
    quiet = 'accelerator="cpu", enable_progress_bar=False, logger=False, callbacks='
    exec(RECIPES["Lightning"].replace("callbacks=", quiet), names)
    assert not equal(before, names["model"].state_dict())
    saved = next(Path("checkpoints").glob("*.ckpt"))
    loaded = names["Segmenter"].load_from_checkpoint(saved, model=model_zoo.OwnPair(), map_location="cpu")
    assert equal(loaded.model.state_dict(), names["model"].state_dict())


def run_transformers(**changes):
    images = torch.rand(2, 3, *SIZE)
    torch.manual_seed(0)
    upernet = model_zoo.ZOO["transformers UperNet, ConvNeXt"][0]()
    spec = feataug.split(upernet, at="backbone", example={"pixel_values": images}).spec
    names = surroundings() | {"upernet": upernet, "images": images, "train_set": Named(), "generator": make_generator(spec)}
    recipe, _, start = RECIPES["transformers' Trainer"].rpartition("\nMixingTrainer(")
    exec(recipe.replace("report_to=", "use_cpu=True, report_to="), names)
    return names, eval("MixingTrainer(" + start.rpartition(".train()")[0], names)


def test_transformers():
    pytest.importorskip("transformers", reason="transformers is not installed")
    names, trainer = run_transformers()
    # Two accumulated batches count as their mean, not as their sum: near ln(5).
    assert trainer.train().training_loss == pytest.approx(1.609, abs=0.3)
    undisturbed = {name: value.clone() for name, value in names["upernet"].state_dict().items()}
    assert {path.name for path in Path("runs/trainer").glob("checkpoint-*/mixer.pt")} == {"mixer.pt"}
    measured = trainer.evaluate()
    assert measured["eval_loss"] > 0
    assert not names["mixer"].training
    names, trainer = run_transformers()
    names["mixer"].rng.manual_seed(99)
    names["mixer"].load_plan_state(torch.load("runs/trainer/checkpoint-1/mixer.pt"))
    trainer.train(resume_from_checkpoint="runs/trainer/checkpoint-1")
    assert equal(undisturbed, names["upernet"].state_dict())


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_segmentation_models_pytorch():
    pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is not installed")
    names = surroundings() | {"config": feataug.GeneratorConfig(num_images=4)}
    recipe = RECIPES["segmentation_models_pytorch"].replace("spec=cut.spec", "spec=cut.spec, width=8, depth=1")
    exec(recipe, names)
    assert names["loss"].isfinite()
    assert len(names["out"]) == len(names["batch"].masks) > 4


def test_mmengine():
    pytest.importorskip("mmengine", reason="mmengine is not installed")
    names = surroundings() | {"loader": torch.utils.data.DataLoader(Pairs(), 4)}
    before = {name: value.clone() for name, value in names["model"].state_dict().items()}
    exec(RECIPES["mmengine's Runner"], names)
    assert not equal(before, names["model"].state_dict())
    saved = torch.load("runs/mmengine/epoch_2.pth", weights_only=False)
    assert torch.equal(saved["mixer"]["rng"], names["mixer"].rng.get_state())
