"""Cards of saved models: they say what is known, their code runs, and nobody's text does more than stand there."""

from __future__ import annotations

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard

from feataug import FeatureGenerator, FeatureSpec, GeneratorTrainer, LevelSpec, __version__, split
from feataug.data import Cityscapes, MaskedImages, Scenes, eval_transforms, seeded_loader
from feataug.errors import ConfigError
from feataug.io.card_facts import data_facts, known_facts
from feataug.io.model_card import MARK, local_name, plain
from feataug.models import PSPNet
from feataug.training.config import FinetuneConfig
from feataug.training.finetuner import Finetuner
from tests.support.small_generators import PRESETS, small_config, small_generator

CARD = {
    "data": "Streets of ours",
    "data_license": "CC BY 4.0",
    "classes": ["sky", "road", "car", "tree"],
    "images": 1200,
    "recognition": {"real": 61.234, "synthetic": 50.0, "ratio": 0.8165, "diversity": 0.91, "measures": {"left": "out"}},
    "teaching": {"real": 47.2, "synthetic": 35.3, "score": 0.748, "gaussians": 42.5},
    "quality": {
        "frechet": 3.456,
        "precision": 0.75,
        "recall": 0.5,
        "reference": {"frechet": 2.0, "precision": 0.8, "recall": None},
        "memory": {"copies": False, "maps": None},
        "per_class": [None],
    },
    "license": "cc-by-4.0",
}


def make_generator(name="layer", classes=4, preset="flow"):
    torch.manual_seed(0)
    return small_generator(classes, FeatureSpec((LevelSpec(name, 16, 4),)), preset)


def code(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```\n", card, re.DOTALL)


def test_a_card_says_what_is_known(tmp_path):
    make_generator().save_pretrained(tmp_path / "saved", card=CARD)
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "feataug"
    assert {"semantic-segmentation", "feature-synthesis"} <= set(card.data.tags)
    for fact in (
        "4 classes",
        "| layer | 16 | 4 | - |",
        "- Data: Streets of ours\n",
        "- Licence of the data: CC BY 4.0\n",
        "- Classes: 0 sky, 1 road, 2 car, 3 tree\n",
        "- Images that training saw: 1200\n",
        "real 61.23, synthetic 50.00, ratio 0.82. Diversity: 0.91 (",
        "real 47.20, synthetic 35.30, class Gaussians 42.50, score 0.75.\n",
        "\nSynthetic features against real features of held-out images, cell by cell:\n"
        "Fréchet distance 3.46 (real features: 2.00), precision 0.75 (real features: 0.80), recall 0.50.\n"
        "Memory test: no sign of copying.\n",
        "Of the weights: cc-by-4.0.\n",
        f"feataug {__version__}.\n",
    ):
        assert fact in card.text, fact


def test_a_card_says_what_is_not_known(tmp_path):
    make_generator().save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown"
    for fact in (
        "- Data: not stated\n",
        "unknown: ask the data's owners\n",
        "Not measured, or not stated.\n",
        "weights: not stated.\n",
    ):
        assert fact in card.text, fact
    assert "Classes:" not in card.text


@pytest.mark.parametrize(
    ("preset", "noise"), [("flow", "as many numbers for each sample, as its features have"), ("bicyclegan", "2 numbers for each sample")]
)
def test_a_card_says_how_much_noise_a_sample_takes(tmp_path, preset, noise):
    make_generator(preset=preset).save_pretrained(tmp_path)
    assert f"\nNoise: {noise}.\n" in ModelCard.load(tmp_path / "README.md").text


@pytest.mark.parametrize("preset", PRESETS)
def test_the_code_of_a_card_runs(tmp_path, monkeypatch, tiny_net, preset):
    monkeypatch.chdir(tmp_path)
    model = tiny_net(num_classes=4)
    make_generator("body", preset=preset).save_pretrained(tmp_path / "saved", card=CARD)
    load, mix = code((tmp_path / "saved" / "README.md").read_text())
    assert str(tmp_path) not in load + mix
    user = {"model": model, "train_set": torch.zeros(3, 32, 32, dtype=torch.long)}
    exec(load, user)
    assert [tuple(x.shape) for x in user["features"]] == [(2, 16, 16, 24)]
    exec(mix, user)
    assert user["mixer"].generator.num_classes == 4


def test_the_code_of_a_models_card_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"channels": (8, 8, 16, 16), "stem_width": 8}
    network = PSPNet("resnet10t", 4, output_stride=8, width=8, encoder_kwargs=small)
    scores = {"pixel_acc": 90.0, "class_acc": 80.0, "miou": 70.0, "fw_iou": 85.0, "per_class": {}}
    network.save_pretrained("net", card={"data": "Streets", "measures": scores})
    text = (tmp_path / "net" / "README.md").read_text()
    assert "PixelAcc 90.00, ClassAcc 80.00, mIoU 70.00, fwIoU 85.00 (percent).\n" in text
    assert "# PSPNet on resnet10t, 4 classes\n" in text
    (load,) = code(text)
    user = {}
    exec(load, user)
    assert user["classes"].shape == (1, 96, 128)


def test_facts_go_along_with_the_weights(tmp_path, monkeypatch):
    make_generator().save_pretrained(tmp_path / "one", card=CARD)
    found = FeatureGenerator.from_pretrained(tmp_path / "one")
    assert found.card == known_facts(CARD)
    pushed = {}

    class Hub:
        def __init__(self, **kwargs):
            pass

        def create_repo(self, repo_id, **kwargs):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **kwargs):
            pushed["card"] = ModelCard.load(folder_path / "README.md")
            pushed["config"] = json.loads((folder_path / "config.json").read_text())
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    assert found.push_to_hub("me/streets", card={"data": "More streets"}) == "url"
    assert 'from_pretrained("me/streets")' in pushed["card"].text
    assert "- Data: More streets\n" in pushed["card"].text
    assert "Images that training saw: 1200" in pushed["card"].text
    assert str(tmp_path) not in str(pushed)
    assert pushed["config"]["card"]["data"] == "More streets"
    found.save_pretrained(tmp_path / "two", push_to_hub=True, repo_id="me/again")
    assert 'from_pretrained("me/again")' in pushed["card"].text


def test_a_card_of_ours_is_renewed_and_one_of_the_users_stays(tmp_path):
    generator = make_generator()
    generator.save_pretrained(tmp_path, card={"data": "first"})
    generator.save_pretrained(tmp_path, card={"data": "second"})
    readme = tmp_path / "README.md"
    assert "- Data: second\n" in readme.read_text()
    readme.write_text(readme.read_text().replace(MARK, "Mine."))
    generator.save_pretrained(tmp_path, card={"data": "third"})
    assert "- Data: second\n" in readme.read_text()


@pytest.mark.parametrize(
    ("card", "text"),
    [
        (
            {"date": "today"},
            "FeatureGenerator: a fact of the card is unknown.\n  given:   'date'\n"
            "  needed:  data, data_license, classes, images, recognition, teaching, quality, measures, license",
        ),
        (
            {"images": 1.5},
            "FeatureGenerator: images of the card does not fit.\n  given:   1.5\n  needed:  how many images training saw, an integer",
        ),
        ({"classes": ["a"]}, "FeatureGenerator: classes of the card do not fit.\n  given:   1 names\n  needed:  4"),
        (
            {"recognition": {"real": 1}},
            "FeatureGenerator: recognition of the card does not fit.\n  given:   {'real': 1}\n"
            "  needed:  the recognition score: a dictionary with the numbers real, synthetic, ratio, and perhaps diversity",
        ),
    ],
)
def test_what_a_card_cannot_say(tmp_path, card, text):
    with pytest.raises(ConfigError) as error:
        make_generator().save_pretrained(tmp_path / "saved", card=card)
    assert str(error.value) == text
    assert not (tmp_path / "saved").exists()


EVIL = "a | b\n---\nlicense: mit\n---\n# x <script>alert(1)</script> ```\n[here](http://evil) \x1b[2J"


def test_nobodys_text_does_more_than_stand_there(tmp_path):
    card = {"data": EVIL, "data_license": EVIL, "classes": [EVIL] * 4, "license": EVIL}
    make_generator(name=EVIL).save_pretrained(tmp_path, card=card)
    text = (tmp_path / "README.md").read_text()
    found = ModelCard.load(tmp_path / "README.md")
    assert found.data.license == "other"
    assert found.data.license_name == EVIL
    body = found.text
    prose = re.sub(r"```python\n.*?\n```\n", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<(?!!--)|(?<!\\)\]\(", prose)
    assert "\x1b" not in text
    assert len(code(body)) == 2
    # The layer's name stands in code as one text.
    compile(code(body)[1], "card", "exec")


def test_facts_in_a_file_of_somebody_are_taken_or_left(tmp_path):
    make_generator().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    for card in (
        [1],
        "text",
        {"data": 5, "images": True, "evil": "x", "recognition": {"real": float("nan")}, "classes": [1], "quality": {"recall": 1}},
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"card": card}))
        assert FeatureGenerator.from_pretrained(tmp_path).card == {}


def test_a_quality_that_is_damaged_says_what_is_left_of_it():
    card = {"precision": 0.5, "recall": 0.25, "frechet": "x", "reference": [1], "memory": 3, "copies": "yes", "evil": 1}
    assert known_facts({"quality": card}) == {"quality": {"precision": 0.5, "recall": 0.25}}
    assert known_facts({"quality": card | {"copies": True}})["quality"]["copies"] is True


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
def test_what_training_found_out_is_on_the_card_and_what_was_known_before_is_not(tiny_net, preset):
    cut = split(tiny_net(), "body")
    generator = small_generator(5, cut.spec, preset)
    generator.card = known_facts({"data": "other data"})
    loader = [(torch.randn(2, 3, 16, 16), torch.randint(5, (2, 16, 16))) for _ in range(2)]
    config = small_config(preset, num_images=4, stats_images=2)
    results = GeneratorTrainer(generator, cut, config, device="cpu", progress=False).fit(loader, loader)
    assert generator.card["images"] == 4
    assert generator.card["recognition"]["synthetic"] == results[-1]["synthetic"]["miou"]
    assert "data" not in generator.card


def test_what_was_known_of_a_model_before_it_was_trained_further_is_not_on_its_card():
    loader = [(torch.randn(2, 3, 16, 16), torch.randint(5, (2, 16, 16))) for _ in range(2)]
    small = {"channels": (8, 8, 16, 16), "stem_width": 8}
    model = PSPNet("resnet10t", 5, output_stride=8, width=8, encoder_kwargs=small)
    model.card = {"data": "other data"}
    Finetuner(model, FinetuneConfig(num_steps=1), device="cpu", progress=False).fit(loader)
    assert model.card == {}


def test_readers_state_a_licence_only_where_it_is_certain():
    scenes = Scenes(3, (32, 48), transforms=eval_transforms())
    facts = data_facts(scenes, "train", None, None, images=7, measures={"miou": float("nan")})
    assert facts == {
        "data": "Scenes, split train, 3 images",
        "classes": list(scenes.classes),
        "data_license": "none needed: drawn by feataug",
        "images": 7,
    }
    assert data_facts(scenes, "train", "mine", None)["data_license"] == "mine"
    assert Cityscapes.license.endswith("https://www.cityscapes-dataset.com/license/")
    assert MaskedImages.license is None
    assert len(seeded_loader(scenes, 3)) == 1


def test_names_of_folders_and_plain_text(tmp_path):
    assert local_name("runs/generator") == "runs/generator"
    assert local_name(tmp_path / "deep" / "saved") == "saved"
    assert local_name("../elsewhere/saved") == "saved"
    assert plain("a\n b\x00") == "a b"
