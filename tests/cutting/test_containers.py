"""Values of any type at the cut and in the output: their tensors are found and rebuilt, or the model is refused."""

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

from feataug.cutting.containers import flatten, map_tensors, opaque_types, tensors_of
from feataug.cutting.cut import split
from feataug.errors import SplitError

IMAGES = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def conv(inputs, outputs, stride=2):
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


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
        (lambda x: x.numpy(), "ndarray without any tensor that has storage of its own"),
        (lambda x: None, "NoneType without any tensor that has storage of its own"),
        (lambda x: x.to_sparse(), "Tensor without any tensor that has storage of its own"),
        (lambda x: torch.nested.nested_tensor([x[0]]), "Tensor without any tensor that has storage of its own"),
    ],
    ids=["iterator", "generator", "function", "partial", "callable", "array", "nothing", "sparse", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_outputs_that_cannot_be_looked_into_are_refused(wrap, given):
    with pytest.raises(SplitError) as error:
        split(Wrapped(wrap, leak=False), "high", example=IMAGES)
    assert str(error.value) == (
        "split: the tensors in the model's output cannot be found.\n"
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


@pytest.mark.parametrize("number", [lambda low: float(low.mean()), lambda low: low.numpy().copy(), lambda low: low.mean().numpy()])
def test_numbers_made_after_the_cut_may_be_in_the_output(number):
    model = Wrapped(lambda x: (x, number(x)), leak=False).eval()
    assert split(model, "high", example=IMAGES).spec.reductions == (4,)
