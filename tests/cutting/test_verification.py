"""Whatever way a tensor takes round the cut, the cut is refused; and no other cut is."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.core.modes import eval_mode
from feataug.cutting.containers import flatten, map_tensors, opaque_types, tensors_of
from feataug.cutting.cut import split
from feataug.errors import SplitError
from feataug.inference.evaluate import evaluate

IMAGES = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def conv(inputs, outputs, stride=2):
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class Skips(nn.Module):
    """Two stages and a head; ``way`` takes something of the first stage round the second."""

    def __init__(self, way):
        super().__init__()
        self.low, self.high, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(16, 3, 1)
        self.way, self.box = way, {}

    def forward(self, images):
        low = F.relu(self.low(images))
        self.box["low"] = low
        high = F.interpolate(self.high(low), scale_factor=2)
        return self.head(torch.cat([high, self.way(self, low, high)], 1))


def by_numpy(model, low, high):
    return torch.from_numpy(low.numpy().copy())


LEAKING = {
    "a variable": lambda model, low, high: low,
    "a dictionary of the model": lambda model, low, high: model.box["low"],
    "no gradient": lambda model, low, high: low.detach(),
    "no gradient possible": lambda model, low, high: low.argmax(1, keepdim=True).float().expand(-1, 8, -1, -1),
    "swallows NaN": lambda model, low, high: torch.maximum(low, torch.full_like(low, 9.0)),
    "only in training": lambda model, low, high: low if model.training else high,
}
UNTRACED = {"a number": lambda model, low, high: high * float(low.mean()), "an array": by_numpy}
COMPLETE = {
    "its shape": lambda model, low, high: torch.zeros_like(low),
    "its length": lambda model, low, high: high * len(low),
    "for nothing": lambda model, low, high: (low.sum(), high)[1],
    "never": lambda model, low, high: high,
}


@pytest.mark.parametrize("way", LEAKING)
def test_a_tensor_that_goes_round_the_cut_is_found(way):
    with pytest.raises(SplitError) as error:
        split(Skips(LEAKING[way]), "high", example=IMAGES)
    when = ", in training" if way == "only in training" else ""
    assert str(error.value) == (
        'split: the cut at "high" leaks.\n'
        f"  given:   read after the cut{when}, made before it: 'low'\n"
        "  needed:  everything that the decoder reads crosses the cut\n"
        'A skip connection goes round this layer. Complete cuts: split(model, at=["low", "high"])'
    )


@pytest.mark.parametrize("way", UNTRACED)
def test_what_is_no_tensor_is_found_too(way):
    with pytest.raises(SplitError) as error:
        split(Skips(UNTRACED[way]), "high", example=IMAGES)
    assert str(error.value) == (
        'split: the cut at "high" leaks.\n'
        "  given:   read after the cut, made before it: a number of Python's, or an array of NumPy's\n"
        "  needed:  everything that the decoder reads crosses the cut\n"
        "A skip connection goes round this layer. feataug.cuts(model, images) lists the places where a cut is complete."
    )


@pytest.mark.parametrize("way", COMPLETE)
def test_what_is_not_read_is_no_leak(way):
    model = Skips(COMPLETE[way]).eval()
    cut = split(model, "high", example=IMAGES)
    with torch.no_grad():
        assert torch.equal(cut.decode(cut.encode(IMAGES), (32, 32)), model(IMAGES))


class Hooked(nn.Module):
    """Keeps activations in a dictionary, by hooks, as MiDaS does."""

    def __init__(self):
        super().__init__()
        self.low, self.high, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(16, 3, 1)
        self.kept: dict[str, Tensor] = {}

        def keeper(name):
            def hook(module, args, output):
                self.kept[name] = output

            return hook

        for name in ("low", "high"):
            self.get_submodule(name).register_forward_hook(keeper(name))

    def forward(self, images):
        self.high(F.relu(self.low(images)))
        return self.head(torch.cat([F.interpolate(self.kept["high"], scale_factor=2), self.kept["low"]], 1))


def test_activations_that_hooks_keep():
    with pytest.raises(SplitError, match="made before it: 'low'"):
        split(Hooked(), "high", example=IMAGES)
    model = Hooked().eval()
    cut = split(model, ["low", "high"], example=IMAGES)
    images = torch.rand(2, 3, 48, 32)
    with torch.no_grad():
        features, plain = cut.encode(images), model(images)
        assert torch.equal(cut.decode(features, (48, 32)), plain)
        with cut.mixing([f[:1] for f in features]):
            assert torch.allclose(model(images), torch.cat([plain, plain[:1]]), atol=1e-6)


class TwoNames(nn.Module):
    """An activation in place, and its input that is read as well: one memory."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.head = conv(3, 8), nn.ReLU(inplace=True), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        hidden = self.conv(images)
        return self.head(self.act(hidden)) + self.head(hidden)


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = conv(3, 8), conv(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        hidden = self.stem(images)
        return self.head(self.body(hidden) + hidden)


@pytest.mark.parametrize(("make", "at", "guilty"), [(TwoNames, "act", "conv"), (Shortcut, "body:input", "stem")])
def test_two_names_for_one_memory_are_told_apart(make, at, guilty):
    with pytest.raises(SplitError, match=f"made before it: '{guilty}'"):
        split(make(), at, example=IMAGES)
    # At the layer that made it all is well.
    model = make().eval()
    cut = split(model, guilty, example=IMAGES)
    with torch.no_grad():
        assert torch.equal(cut.decode(cut.encode(IMAGES), (32, 32)), model(IMAGES))


class InPlaceBetween(nn.Module):
    """Adds to the first site's output before the second is reached: decoding does it once more."""

    def __init__(self):
        super().__init__()
        self.low, self.high, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(16, 3, 1)

    def forward(self, images):
        low = self.low(images)
        low += 1
        high = self.high(low)
        return self.head(torch.cat([F.interpolate(high, scale_factor=2), low], 1))


def test_what_is_written_to_on_the_way_crosses_as_it_was():
    model = InPlaceBetween().eval()
    cut = split(model, ["low", "high"], example=IMAGES)
    with torch.no_grad():
        low, _ = cut.encode(IMAGES)
        assert torch.equal(low, model.low(IMAGES))
        assert torch.equal(cut.decode(cut.encode(IMAGES), (32, 32)), model(IMAGES))


@dataclasses.dataclass
class Data:
    logits: Tensor
    names: tuple[str, ...] = ("a",)


@dataclasses.dataclass(frozen=True)
class Frozen:
    logits: Any


class Slots:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


class AttributeDict(dict):
    __getattr__ = dict.__getitem__


class ReadOnly(Mapping):
    def __init__(self, **items):
        self._items = items

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)


OPENED = {
    "a dataclass": Data,
    "a frozen dataclass": lambda x: Frozen([x]),
    "slots": Slots,
    "a namespace": lambda x: SimpleNamespace(inner=SimpleNamespace(x=[x])),
    "a kind of dict": lambda x: AttributeDict(logits=x),
    "a mapping": lambda x: ReadOnly(logits=x),
    "a distribution": lambda x: torch.distributions.Categorical(logits=x.permute(0, 2, 3, 1)),
}


class Wrapped(nn.Module):
    def __init__(self, wrap, leak):
        super().__init__()
        self.low, self.high, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(8, 3, 1)
        self.wrap, self.leak = wrap, leak

    def forward(self, images):
        low = self.low(images)
        high = F.interpolate(self.high(low), scale_factor=2)
        return self.wrap(self.head(high + low if self.leak else high))


@pytest.mark.parametrize("kind", OPENED)
def test_outputs_of_any_kind_are_looked_into(kind):
    model = Wrapped(OPENED[kind], leak=False).eval()
    cut = split(model, "high", example=IMAGES)
    with torch.no_grad():
        ours, plain = cut.decode(cut.encode(IMAGES), (32, 32)), model(IMAGES)
    assert type(ours) is type(plain)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(ours), tensors_of(plain), strict=True))
    assert len(tensors_of(plain)) >= 1
    with pytest.raises(SplitError, match="made before it: 'low'"):
        split(Wrapped(OPENED[kind], leak=True), "high", example=IMAGES)


class Calling:
    """Gives its tensor to who calls it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __call__(self):
        return self.tensor


@pytest.mark.parametrize(
    ("wrap", "given"),
    [
        (lambda x: iter([x]), "list_iterator"),
        (lambda x: (y for y in [x]), "generator"),
        (lambda x: lambda: x, "function"),
        (lambda x: (x, partial(len, x)), "partial"),
        (lambda x: Calling(x), "Calling"),
        (lambda x: x.numpy(), "ndarray without any tensor that has a memory of its own"),
        (lambda x: None, "NoneType without any tensor that has a memory of its own"),
        (lambda x: x.to_sparse(), "Tensor without any tensor that has a memory of its own"),
        (lambda x: torch.nested.nested_tensor([x[0]]), "Tensor without any tensor that has a memory of its own"),
    ],
    ids=["iterator", "generator", "function", "partial", "callable", "array", "nothing", "sparse", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_outputs_that_cannot_be_looked_into_are_refused(wrap, given):
    with pytest.raises(SplitError) as error:
        split(Wrapped(wrap, leak=False), "high", example=IMAGES)
    assert str(error.value) == (
        "split: the model's output cannot be looked into.\n"
        f"  given:   {given}\n"
        "  needed:  tensors, in lists, dictionaries, dataclasses, or objects with attributes\n"
        "Split the part of the model that returns tensors."
    )


@pytest.mark.parametrize(
    "beside",
    [object(), Path("x"), datetime.date(2020, 1, 1), range(3), len, math.pi, np.zeros(3), np.float32(2)],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_no_tensor_may_stand_beside_the_logits(beside):
    cut = split(Wrapped(lambda x: (x, beside), leak=False), "high", example=IMAGES)
    assert cut.spec.reductions == (4,)


class Reports(Skips):
    """Returns a number of the first stage beside the logits."""

    def __init__(self, number):
        super().__init__(lambda model, low, high: high)
        self.number = number

    def forward(self, images):
        return super().forward(images), self.number(self.box["low"])


@pytest.mark.parametrize("number", [lambda low: float(low.mean()), lambda low: low.numpy().copy(), lambda low: low.mean().numpy()])
def test_numbers_in_the_output_count(number):
    with pytest.raises(SplitError, match="a number of Python's, or an array of NumPy's"):
        split(Reports(number), "high", example=IMAGES)
    # After the cut they are as good as tensors.
    model = Wrapped(lambda x: (x, number(x)), leak=False).eval()
    assert split(model, "high", example=IMAGES).spec.reductions == (4,)


class Encoder(nn.Module):
    """Returns a dataclass, which the decoder opens."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.kind = conv(3, 8), kind

    def forward(self, images):
        return self.kind(self.conv(images))


class Opening(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.encoder, self.head = Encoder(kind), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return self.head(self.encoder(images).logits)


@pytest.mark.parametrize("kind", [Data, Frozen, Slots, lambda x: AttributeDict(logits=x), lambda x: SimpleNamespace(logits=x)])
def test_features_in_any_kind_of_object_cross(kind):
    model = Opening(kind).eval()
    cut = split(model, "encoder", example=IMAGES)
    assert cut.one_pass
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        features, plain = cut.encode(images), model(images)
        assert torch.equal(cut.decode(features, (32, 48)), plain)
        with cut.mixing([features[0][:1]]):
            assert torch.allclose(model(images), torch.cat([plain, plain[:1]]), atol=1e-6)


def test_containers_are_opened_and_rebuilt():
    tensor = torch.ones(2)
    inner = SimpleNamespace(x=tensor)
    inner.me = inner
    value = {"a": [Data(tensor), Slots(tensor)], "b": (AttributeDict(c=tensor), 3, None), "d": inner}
    assert len(tensors_of(value)) == 4
    changed = map_tensors(lambda t: t + 1, value)
    # What occurs in itself is opened once.
    assert [float(t.sum()) for t in tensors_of(changed)][:4] == [4.0] * 4
    # The original is not written to.
    assert [float(t.sum()) for t in tensors_of(value)] == [2.0] * 4
    leaves, rebuild = flatten(value)
    again = rebuild(leaves)
    assert type(again["a"][1]) is Slots
    assert again["b"][1:] == (3, None)
    assert opaque_types([tensor, 1, "a", None, torch.float32]) == []
    assert opaque_types([iter(()), {"a": object()}, lambda: tensor, partial(len, [tensor])]) == ["tuple_iterator", "function", "partial"]


class Draws(nn.Module):
    """Dropout that does not know of eval mode, before the cut, after it, or both."""

    def __init__(self, before, after, leak=None):
        super().__init__()
        self.low, self.high, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(8, 3, 1)
        self.before, self.after, self.leak = before, after, leak

    def forward(self, images):
        low = self.low(images)
        hidden = F.dropout(low, 0.3) if self.before else low
        high = F.interpolate(self.high(hidden), scale_factor=2)
        if self.leak == "tensor":
            high = high + low
        if self.leak == "array":
            high = high + torch.from_numpy(low.numpy().copy())
        return self.head(F.dropout(high, 0.3) if self.after else high)


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True)])
def test_a_model_that_draws_in_eval_mode_is_no_leak(before, after):
    model = Draws(before, after)
    state = torch.get_rng_state()
    cut = split(model, "high", example=IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert cut.spec.reductions == (4,)
    for leak in ("tensor", "array"):
        with pytest.raises(SplitError, match=r'^split: the cut at "high" leaks\.'):
            split(Draws(before, after, leak), "high", example=IMAGES)


class Sometimes(nn.Module):
    """Reads the first stage again, for images of a size that the example has not."""

    def __init__(self):
        super().__init__()
        self.low, self.high, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        low = self.low(images)
        high = F.interpolate(self.high(low), scale_factor=2)
        return self.head(high + low if images.shape[-1] == 96 else high)


def test_stand_ins_are_nan_where_a_leak_could_be_read():
    model = Sometimes().eval()
    cut = split(model, "high", example=IMAGES)
    with torch.no_grad():
        assert torch.equal(cut.decode(cut.encode(IMAGES), (32, 32)), model(IMAGES))
        images = torch.rand(1, 3, 64, 96)
        assert cut.decode(cut.encode(images), (64, 96)).isnan().all()


def test_dead_memory_is_not_taken_for_a_tensor():
    """Storages are told apart although the allocator gives the same addresses out again."""

    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(8, 3, 1)

        def forward(self, images):
            hidden = self.low(images)
            for _ in range(50):
                hidden = hidden * 1.01
            hidden = self.high(hidden)
            for _ in range(50):
                hidden = hidden + torch.tensor(1.0) / 100
            return self.head(hidden)

    model = Many().eval()
    for at in ("low", "high"):
        cut = split(model, at, example=IMAGES)
        with torch.no_grad():
            assert torch.equal(cut.decode(cut.encode(IMAGES), (32, 32)), model(IMAGES))
        assert len(list(cut.decoder_parameters())) == (4 if at == "low" else 2)
    assert not math.isnan(float(model(IMAGES).sum()))


class Cached(nn.Module):
    """Keeps what it computed of its weights, and forgets it in ``train()`` and ``eval()`` alone, as timm's LeViT does."""

    def __init__(self):
        super().__init__()
        self.bias, self.cache = nn.Parameter(torch.zeros(1, 8, 1, 1)), None

    def train(self, mode=True):
        self.cache = None
        return super().train(mode)

    def forward(self, maps):
        if self.training:
            return maps + self.bias
        if self.cache is None:
            self.cache = self.bias * 2 / 2
        return maps + self.cache


class Stubborn(nn.Sequential):
    """Stays in training mode whatever it is told, as a part that is skipped by an override of ``train``."""

    def train(self, mode=True):
        return self


def test_eval_mode_calls_eval_and_throws_every_switch():
    model = nn.Sequential(conv(3, 8), Cached(), Stubborn(nn.Dropout(0.5)), nn.Conv2d(8, 3, 1))
    loader = [(IMAGES, torch.zeros(1, 16, 16, dtype=torch.long))]
    with eval_mode(model):
        first = model(IMAGES)
        assert torch.equal(first, model(IMAGES))
    assert model[2][0].training
    with torch.no_grad():
        model[1].bias += 1
        model[3].weight.zero_()
        model[3].weight[2] = 1
        model[3].bias.zero_()
    # What is measured is the model as it is now, and not what it once had cached.
    with eval_mode(model):
        assert float(model(IMAGES)[:, 2].mean()) != pytest.approx(float(first[:, 2].mean()))
    assert evaluate(model, loader, 3)["pixel_acc"] < 100
    # A weight that eval mode had cached is still the encoder's.
    model.eval()
    model(IMAGES)
    cut = split(model, "1", example=IMAGES)
    assert any(parameter is model[1].bias for parameter in cut.encoder_parameters())
