"""inference.json: there and back, refused where it is damaged, and said on the model's card."""

import json
import random
import re

import pytest
import torch

from feataug import Inference
from feataug.errors import CheckpointError
from feataug.io.model_card import MARK
from feataug.models import PSPNet

ADVICE = "Fit it again: feataug fit-bias, or feataug.fit_inference and save; without the file the model predicts whole images."


def small(classes=3):
    torch.manual_seed(0)
    return PSPNet("resnet10t", classes, width=8, encoder_kwargs={"channels": (8, 8, 16, 16), "stem_width": 8})


SETTINGS = {"scales": [0.5, 1.0], "flip": True, "window": [32, 48], "stride": [16, 48], "batch_size": 2, "class_bias": [0.5, -0.75, 0.25]}


def test_there_and_back(tmp_path):
    model = small()
    predict = Inference(model, **SETTINGS)
    assert predict.save(tmp_path / "new") == tmp_path / "new" / "inference.json"
    assert json.loads((tmp_path / "new" / "inference.json").read_text()) == SETTINGS
    again = Inference.load(model, tmp_path / "new", num_classes=3)
    assert again.settings() == SETTINGS
    images = torch.randn(1, 3, 40, 60)
    assert torch.equal(again(images), predict(images))
    Inference(model).save(str(tmp_path))
    assert Inference.load(model, str(tmp_path)).settings() == {}
    Inference(model, divisor=4).save(tmp_path)
    assert Inference.load(model, tmp_path).divisor == 4
    # Any function can be predicted with.
    assert Inference.load(lambda images: images, tmp_path).divisor == 4


@pytest.mark.parametrize(
    ("content", "given", "needed"),
    [
        ("{", "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", "the file as Inference.save wrote it"),
        ("[1]", "ValueError: a list, no object", "the file as Inference.save wrote it"),
        (
            '{"temperature": 2}',
            "an unknown setting, 'temperature'",
            "scales, flip, window, stride, divisor, batch_size, class_bias",
        ),
        ('{"scales": []}', "scales: []", "1 to 64 numbers above 0, at most 16"),
        ('{"scales": [0]}', "scales: [0]", "1 to 64 numbers above 0, at most 16"),
        ('{"flip": 1}', "flip: 1", "true or false"),
        ('{"window": [4]}', "window: [4]", "rows and columns, at most 65536"),
        ('{"window": [1000000000, 4]}', "window: [1000000000, 4]", "rows and columns, at most 65536"),
        ('{"window": [true, 4]}', "window: [True, 4]", "rows and columns, at most 65536"),
        ('{"batch_size": 0}', "batch_size: 0", "an integer in [1, 65536]"),
        ('{"class_bias": [1, NaN, 2]}', "class_bias: [1, nan, 2]", "2 to 65536 finite numbers"),
        ('{"class_bias": [1, 1' + 400 * "0" + ", 2]}", ("class_bias: [1, 1" + 400 * "0")[:200], "2 to 65536 finite numbers"),
        ('{"class_bias": "abc"}', "class_bias: 'abc'", "2 to 65536 finite numbers"),
        ('{"class_bias": [1, 2]}', "class_bias of 2 classes", "3, as the model has"),
        (
            '{"stride": [4, 4]}',
            "Inference: stride without a window. given:   stride=[4, 4]",
            "settings that go together",
        ),
    ],
)
def test_a_file_of_somebody(tmp_path, content, given, needed):
    (tmp_path / "inference.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        Inference.load(small(), tmp_path, num_classes=3)
    assert str(error.value) == (
        f"Inference: inference.json cannot be used.\n  given:   {tmp_path / 'inference.json'} ({given})\n  needed:  {needed}\n{ADVICE}"
    )


def test_random_damage_is_an_error_of_ours_or_none(tmp_path):
    model, rng = small(), random.Random(0)
    file = Inference(model, **SETTINGS).save(tmp_path)
    whole, refused = file.read_bytes(), 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(content[: rng.choice([len(content), rng.randrange(len(content))])]))
        try:
            Inference.load(model, tmp_path, num_classes=3)
        except CheckpointError:
            refused += 1
    assert 150 < refused < 300


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError) as error:
        Inference.load(small(), tmp_path)
    assert str(error.value) == (
        f"Inference: there is no inference.json.\n  given:   {tmp_path / 'inference.json'}\n  needed:  a folder that holds it\n"
        "feataug fit-bias and Inference.save write one; without it, predict with the model itself."
    )
    with pytest.raises(CheckpointError, match=r"^Inference: there is no inference\.json\.\n  given:   .*nowhere\n"):
        Inference.load(small(), tmp_path / "nowhere")
    (tmp_path / "inference.json").write_text(" " * (2**22 + 1))
    with pytest.raises(CheckpointError, match="ValueError: more than 4 MiB"):
        Inference.load(small(), tmp_path)


def test_without_the_number_of_classes_the_first_prediction_compares(tmp_path):
    (tmp_path / "inference.json").write_text('{"class_bias": [1, 2]}')
    with pytest.raises(ValueError, match="2 numbers for logits of 3 classes"):
        Inference.load(small(), tmp_path)(torch.zeros(1, 3, 32, 32))


def test_the_card_says_how_to_predict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small()
    model.save_pretrained("net", card={"data": "Streets"})
    readme = tmp_path / "net" / "README.md"
    assert "inference.json" not in readme.read_text()
    weights = (tmp_path / "net" / "model.safetensors").stat().st_mtime_ns
    Inference(model, window=(32, 48), class_bias=[0.5, -0.75, 0.25]).save("net")
    text = readme.read_text()
    assert "- Windows of 32 x 48: the model does worse on larger whole images.\n" in text
    assert "- A class bias, fitted on training images." in text
    assert "- Data: Streets\n" in text
    assert (tmp_path / "net" / "model.safetensors").stat().st_mtime_ns == weights
    blocks = re.findall(r"```python\n(.*?)\n```\n", text, re.DOTALL)
    user = {}
    for block in blocks:
        exec(block, user)
    assert user["predict"].settings() == {"window": [32, 48], "class_bias": [0.5, -0.75, 0.25]}
    assert user["classes"].shape == (1, 96, 128)
    # Saved once more, other weights may be there: what was fitted to the old ones goes.
    model.save_pretrained("net")
    assert not (tmp_path / "net" / "inference.json").exists()
    assert "inference.json" not in readme.read_text()
    Inference(model, scales=(0.5, 1.0), flip=True).save("net")
    assert "- Mean over the scales 0.5, 1.\n- Mean with the prediction of the mirror image.\n" in readme.read_text()
    # A card of one's own stays.
    readme.write_text(readme.read_text().replace(MARK, "Mine."))
    Inference(model, window=(32, 48)).save("net")
    assert "By windows" not in readme.read_text()
