import ast
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import feataug
from feataug.errors import CheckpointError
from feataug.training.checkpoint import FORMAT, DamagedError, checkpoints, load_checkpoint, save_checkpoint, stored_settings


def assert_same(found, expected):
    """The same values and kinds, tuples as lists."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert [type(key) for key in found] == [type(key) for key in expected]
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


def nested():
    shared = torch.arange(12.0)
    return {
        0: {"step": torch.tensor(3.0), "bf16": torch.randn(5).bfloat16(), "none": None},
        1: {"betas": (0.5, 0.999), "flags": [True, False], "empty": [], "nothing": {}},
        "shared": [shared, shared, shared[2:5], shared.view(3, 4).T],
        "wide": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "rng": torch.Generator().manual_seed(3).get_state(),
        "no elements": torch.zeros(0, 4, dtype=torch.long),
        "text": 'quotes " and ü',
        "numbers": [1, -2.5, 1e-300, 2**60],
        "tensor": {"tensor": "not a name", "items": [1]},
    }


def test_round_trip(tmp_path):
    state = nested()
    path = save_checkpoint(tmp_path / "deep" / "run", 42, state)
    assert path.name == "checkpoint-0000000042.safetensors"
    progress, found = load_checkpoint(path)
    assert progress == 42
    assert_same(found, state)


def test_assert_same_tells_states_apart():
    # A test of the test: what JSON alone would do to the keys is found out.
    with pytest.raises(AssertionError):
        assert_same(json.loads(json.dumps({0: 1})), {0: 1})
    with pytest.raises(AssertionError):
        assert_same({"a": torch.zeros(2)}, {"a": torch.zeros(2).double()})


def test_state_without_tensors(tmp_path):
    assert load_checkpoint(save_checkpoint(tmp_path, 1, {"a": 1})) == (1, {"a": 1})


def make(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    return model.to(memory_format=torch.channels_last), optimizer(model.parameters())


def train(model, optimizer, steps):
    for step in steps:
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images.to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.999)),
    ],
)
def test_an_optimizer_goes_on_bit_for_bit(tmp_path, optimizer):
    undisturbed = make(optimizer)
    train(*undisturbed, range(6))
    first = make(optimizer)
    train(*first, range(3))
    path = save_checkpoint(tmp_path, 3, {"model": first[0].state_dict(), "optimizer": first[1].state_dict()})
    again = make(optimizer)
    progress, state = load_checkpoint(path)
    again[0].load_state_dict(state["model"])
    again[1].load_state_dict(state["optimizer"])
    train(*again, range(progress, 6))
    for name, value in undisturbed[0].state_dict().items():
        assert torch.equal(again[0].state_dict()[name], value), name
    assert not torch.equal(first[0][0].weight, again[0][0].weight)


def test_the_newest_are_kept(tmp_path):
    for progress in (5, 20, 100, 1000):
        save_checkpoint(tmp_path, progress, {"at": progress}, keep=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoint-0000000100.safetensors", "checkpoint-0000001000.safetensors",
    ]  # fmt: skip
    assert load_checkpoint(checkpoints(tmp_path)[0]) == (1000, {"at": 1000})


def test_writing_the_same_progress_again_replaces_it(tmp_path):
    for value in (1, 2):
        save_checkpoint(tmp_path, 7, {"value": value})
    assert load_checkpoint(checkpoints(tmp_path)[0]) == (7, {"value": 2})
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_kill_left_behind_is_ignored(tmp_path):
    assert checkpoints(tmp_path) == []
    assert checkpoints(tmp_path / "absent") == []
    whole = save_checkpoint(tmp_path, 1, {"a": torch.ones(3)})
    torn = tmp_path / "checkpoint-0000000002.partial"
    torn.write_bytes(whole.read_bytes()[:-4])
    assert checkpoints(tmp_path) == [whole]
    save_checkpoint(tmp_path, 2, {"a": torch.zeros(3)})
    assert not torn.exists()


def damaged(tmp_path, damage):
    path = save_checkpoint(tmp_path, 1, {"a": torch.ones(100)})
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-40]
    elif damage == "flipped header":
        content[6] ^= 0x40  # the header's length
    elif damage == "flipped text":
        content[content.index(b"feataug")] ^= 0xFF
    elif damage == "empty":
        content = b""
    else:
        content = b"no safetensors at all, but long enough for a header"
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("damage", ["truncated", "flipped header", "flipped text", "empty", "foreign"])
def test_a_torn_file_is_refused(tmp_path, damage):
    path = damaged(tmp_path, damage)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert re.fullmatch(
        r"feataug: a checkpoint cannot be read\.\n"
        rf"  given:   {re.escape(str(path))} \((\w+): .+\)\n"
        r"  needed:  a whole safetensors file written by feataug\n"
        r"Delete it: the run then continues from the previous checkpoint\.",
        str(error.value),
    )


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_others_is_refused(tmp_path, metadata):
    path = tmp_path / "checkpoint-0000000001.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata=metadata)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert str(error.value) == f"feataug: this is no feataug checkpoint.\n  given:   {path}\n  needed:  a feataug header"


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "checkpoint-0000000001.safetensors"
    header = {"format": FORMAT + 1, "progress": 1, "state": {"items": []}}
    save_file({"a": torch.ones(2)}, path, metadata={"feataug": json.dumps(header)})
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert str(error.value) == f"feataug: a checkpoint has another format.\n  given:   {path}, format 3\n  needed:  format 1 or 2"


@pytest.mark.parametrize("header", ["{", "[]", "{}", '{"format": 1, "progress": 1}', '"text"'])
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header):
    path = tmp_path / "checkpoint-0000000001.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"feataug": header})
    with pytest.raises(CheckpointError, match=r"^feataug: a checkpoint cannot be read\."):
        load_checkpoint(path)


def test_a_file_of_the_first_format_is_read(tmp_path):
    path = tmp_path / "checkpoint-0000000001.safetensors"
    header = {"format": 1, "progress": 1, "state": {"items": [["a", {"tensor": "t0"}]]}}
    save_file({"t0": torch.ones(2)}, path, metadata={"feataug": json.dumps(header)})
    progress, state = load_checkpoint(path)
    assert progress == 1
    assert torch.equal(state["a"], torch.ones(2))


@pytest.mark.parametrize("seed", range(40))
def test_any_flipped_bit_is_noticed(tmp_path, seed):
    """In tensors, in numbers, in the layout: what cannot be told apart from what was written is what was written."""
    state = {
        "a": torch.randn(6),
        "b": torch.randn(3).bfloat16(),
        "step": torch.tensor(7),
        "loss": 0.123456,
        "names": ["x", None, True],
    }
    path = save_checkpoint(tmp_path, 1, state)
    content = bytearray(path.read_bytes())
    rng = torch.Generator().manual_seed(seed)
    content[int(torch.randint(len(content), (), generator=rng))] ^= 1 << int(torch.randint(8, (), generator=rng))
    path.write_bytes(bytes(content))
    try:
        progress, found = load_checkpoint(path)
    except CheckpointError:
        return
    assert progress == 1
    assert_same(found, state)


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(CheckpointError) as error:
        save_checkpoint(tmp_path, 1, {"a": {1, 2}})
    assert str(error.value) == (
        "feataug: a state cannot be saved.\n  given:   set\n  needed:  tensors, numbers, strings, lists, dicts"
    )
    assert list(tmp_path.iterdir()) == []


def unsafe(source):
    """Names in Python source that pickle or unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if name.split(".")[0] in ("pickle", "cloudpickle", "dill", "shelve")]
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save") and getattr(node.value, "id", "") == "torch":
            found.append(f"torch.{node.attr}")
        if isinstance(node, ast.Name) and node.id in ("pickle", "eval", "exec", "__import__"):
            found.append(node.id)
    return found


def test_settings_are_read_without_the_tensors(tmp_path):
    settings = {"lr": 0.1, "names": ["a"], "none": None}
    path = save_checkpoint(tmp_path, 3, {"settings": settings, "state": {"x": torch.ones(3)}})
    assert stored_settings(path) == settings
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DamagedError) as error:
        stored_settings(path)
    assert str(error.value).startswith(f"feataug: a checkpoint's settings cannot be read.\n  given:   {path} (SafetensorError: ")
    other = save_checkpoint(tmp_path, 4, {"state": {}})
    with pytest.raises(DamagedError, match="KeyError: 'settings'"):
        stored_settings(other)


def test_nothing_is_pickled():
    files = sorted(Path(feataug.__file__).parent.rglob("*.py"))
    assert len(files) > 25
    for file in files:
        assert unsafe(file.read_text()) == [], file
        assert not re.search(r"\bpickle\.|torch\.(load|save)\b", file.read_text()), file


@pytest.mark.parametrize(
    "source", ["import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "pickle.x", "eval('1')", "exec('1')"]
)
def test_pickling_would_be_found(source):
    assert unsafe(source)
