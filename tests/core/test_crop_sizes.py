"""A model remembers the size that it was trained on, whatever it is wrapped in, and nothing else about it changes."""

import copy
import io
import json
import pickle

import pytest
import torch
from torch import nn

from feataug import FinetuneConfig, Finetuner
from feataug.core.copying import copy_model
from feataug.core.crop_sizes import SeenSizes, note_size, noted_size
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import architecture, describe_callable
from feataug.errors import CheckpointError
from feataug.models import PSPNet

CLASSES = 4


def pairs(*sizes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [(torch.randn(2, 3, *size, generator=rng), torch.randint(CLASSES, (2, *size), generator=rng)) for size in sizes]


def tuner(model, steps=2, **settings):
    return Finetuner(model, FinetuneConfig(num_steps=steps, lr=0.01, **settings.pop("config", {})), device="cpu", progress=False, **settings)


def small():
    return PSPNet("resnet10t", CLASSES, width=8, encoder_kwargs={"channels": (8, 8, 16, 16), "stem_width": 8})


class Stubborn(nn.Module):
    """Refuses new attributes, as a user's class may."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, CLASSES, 1)
        self.closed = True

    def __setattr__(self, name, value):
        if getattr(self, "closed", False) and name != "training":
            raise AttributeError(name)
        super().__setattr__(name, value)

    def forward(self, images):
        return self.layer(images)


def test_a_note_goes_along_with_copies_and_through_wrappers(tiny_net):
    model = tiny_net(CLASSES)
    assert noted_size(model) is None
    note_size(model, (112, 144))
    compiled = torch.compile(model, backend="eager")
    for other in (copy.deepcopy(model), copy_model(model), pickle.loads(pickle.dumps(model)), compiled, nn.DataParallel(model)):
        assert noted_size(other) == (112, 144)
    note_size(compiled, (8, 9))
    assert noted_size(model) == (8, 9)
    note_size(nn.DataParallel(compiled), None)
    assert noted_size(model) is None
    note_size(model, None)
    stubborn = Stubborn()
    note_size(stubborn, (3, 4))
    assert noted_size(stubborn) == (3, 4)
    assert noted_size(lambda images: images) is None
    # A part that happens to be called module is no wrapper.
    own = nn.Module()
    own.module = model
    note_size(model, (3, 4))
    assert noted_size(own) is None


def test_nothing_else_about_the_model_changes(tiny_net):
    model = tiny_net(CLASSES)

    def known():
        return fingerprint(model), architecture(model), describe_callable(model), list(model.state_dict()), repr(model)

    before = known()
    note_size(model, (112, 144))
    assert known() == before
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    model.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    note_size(model, None)
    assert "_feataug_trained_size" not in vars(model)


@pytest.mark.parametrize(("sizes", "expected"), [([(16, 24)], (16, 24)), ([(16, 24), (16, 24)], (16, 24)), ([(16, 24), (24, 16)], None)])
def test_training_notes_a_single_size(tiny_net, sizes, expected):
    model = tiny_net(CLASSES)
    note_size(model, (1, 2))
    seen = []
    tuner(model, config={"eval_every": 1}).fit(pairs(*sizes), lambda model: seen.append(noted_size(model)) or {"miou": 0.0})
    # While it trains, what was known no longer holds, and the new size is not known.
    assert seen == [None, None]
    assert noted_size(model) == expected


def test_a_run_that_goes_on_or_is_over_notes_what_the_whole_run_saw(tmp_path, tiny_net):
    torch.manual_seed(0)
    first = tiny_net(CLASSES)
    start = copy.deepcopy(first)
    # Two sizes; the second one comes before the checkpoint only.
    batches = [*pairs((24, 16), (16, 24)), *pairs(*[(16, 24)] * 4)]

    def stop(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuner(first, 6, output=tmp_path, config={"save_every": 2, "eval_every": 3}).fit(batches, stop)
    assert noted_size(first) is None
    again = copy.deepcopy(start)
    tuner(again, 6, output=tmp_path, config={"save_every": 2, "eval_every": 3}).fit(batches[1:])
    assert noted_size(again) is None
    over = copy.deepcopy(start)
    tuner(over, 3, output=tmp_path / "other").fit(pairs((16, 24)))
    assert noted_size(over) == (16, 24)
    over = copy.deepcopy(start)
    tuner(over, 3, output=tmp_path / "other").fit(pairs((16, 24)))
    assert noted_size(over) == (16, 24)


def test_a_run_that_was_refused_leaves_the_note(tiny_net):
    model = tiny_net(CLASSES)
    note_size(model, (5, 6))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        tuner(model).fit(pairs((16, 24)))
    assert noted_size(model) == (5, 6)


def test_seen_sizes_stop_counting_at_two():
    sizes = SeenSizes([[4, 5]])
    assert sizes.one() == (4, 5)
    for side in range(6, 20):
        sizes.see(torch.zeros(1, 3, side, 5))
    assert sizes.state() == [[4, 5], [6, 5]]
    assert sizes.one() is None
    assert SeenSizes(sizes.state()).one() is None
    assert SeenSizes().one() is None


def test_a_saved_network_keeps_it(tmp_path):
    model = small()
    model.save_pretrained(tmp_path / "before")
    assert "trained_size" not in json.loads((tmp_path / "before" / "config.json").read_text())
    assert noted_size(PSPNet.from_pretrained(tmp_path / "before")) is None
    note_size(model, (112, 144))
    model.save_pretrained(tmp_path / "after", card={"data": "Streets"})
    config = json.loads((tmp_path / "after" / "config.json").read_text())
    assert config["trained_size"] == [112, 144]
    found = PSPNet.from_pretrained(tmp_path / "after")
    assert noted_size(found) == (112, 144)
    # Trained further on other images and saved again, it does not keep the old one.
    note_size(found, None)
    found.save_pretrained(tmp_path / "again")
    assert "trained_size" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert fingerprint(found) == fingerprint(model)


@pytest.mark.parametrize("value", ["112x144", [112], [0, 5], [1.5, 2], [True, 2], {"h": 1}, [2**31, 1]])
def test_a_damaged_size_is_the_error_of_a_damaged_folder(tmp_path, value):
    small().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_size": value}))
    with pytest.raises(CheckpointError) as error:
        PSPNet.from_pretrained(tmp_path)
    assert str(error.value) == (
        f"PSPNet: a model cannot be loaded.\n  given:   {tmp_path} (ValueError: trained_size in config.json is no size, but {value!r})\n"
        "  needed:  a folder written by save_pretrained, with config.json and model.safetensors, or a hub id"
    )
