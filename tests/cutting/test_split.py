"""A model cut in two computes what it computed whole, and neither half computes the other."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feataug.cutting.cut import split
from feataug.errors import SplitError
from feataug.models import PSPNet


class Backbone(nn.Module):
    """Two maps in an OrderedDict, as torchvision's IntermediateLayerGetter returns them."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images):
        one = F.relu(self.one(images))
        return OrderedDict(aux=one, out=F.relu(self.two(one)))


class WithDict(nn.Module):
    """A stand-in for torchvision's FCN with an auxiliary head."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head, self.aux = Backbone(), nn.Conv2d(6, 5, 1), nn.Conv2d(4, 5, 1)

    def forward(self, images):
        maps = self.backbone(images)
        return OrderedDict(
            (name, F.interpolate(head(maps[name]), images.shape[-2:])) for name, head in (("out", self.head), ("aux", self.aux))
        )


class Repeated(nn.Module):
    """Calls one layer three times."""

    def __init__(self):
        super().__init__()
        self.enter, self.layer, self.leave = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 5, 1)

    def forward(self, images):
        hidden = self.enter(images)
        for _ in range(3):
            hidden = F.relu(self.layer(hidden))
        return self.leave(hidden)


def pspnet(**kwargs):
    small = {"channels": (8, 16, 24, 32), "stem_width": 8}
    return PSPNet("resnet10t", 5, output_stride=8, width=16, dropout=0.0, encoder_kwargs=small, **kwargs)


CASES = {
    "tiny": (None, "body"),
    "tiny, inside a block": (None, "body.1"),
    "tiny, before ReLU": (None, "body:pre_act"),
    "tiny, input": (None, "body:input"),
    "dict": (WithDict, "backbone"),
    "repeated": (Repeated, "layer"),
    "repeated, input": (Repeated, "layer:input"),
    "pspnet": (pspnet, "encoder.layer2.0"),
    "pspnet, before ReLU": (pspnet, "encoder.layer3.0:pre_act"),
    "pspnet, input": (pspnet, "encoder.layer3.0:input"),
    "pspnet, two levels": (lambda: pspnet(auxiliary=True), "encoder"),
}


@pytest.fixture(params=CASES, ids=str)
def case(request, tiny_net):
    """A model with running statistics that are not the initial ones, and its cut."""
    make, at = CASES[request.param]
    torch.manual_seed(0)
    model = (make or tiny_net)()
    model.train()(torch.rand(4, 3, 64, 64))
    return model, split(model, at, example=torch.rand(1, 3, 64, 64))


def leaves(out):
    return list(out.values()) if isinstance(out, dict) else [out]


def assert_equal(out, expected):
    assert type(out) is type(expected)
    assert len(leaves(out)) == len(leaves(expected)) > 0
    for a, b in zip(leaves(out), leaves(expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 57, 91)], ids=str)
def test_decode_of_encode_is_the_model_bit_for_bit(case, shape):
    model, cut = case
    model.eval()
    images = torch.rand(shape)
    with torch.no_grad():
        features = cut.encode(images)
        assert [tuple(f.shape) for f in features] == [(shape[0], s.channels, *s.size(shape[2:])) for s in cut.spec]
        kept = [f.clone() for f in features]
        assert_equal(cut.decode(features, shape[2:]), model(images))
        # An in-place activation after the cut did not eat the features.
        assert all(torch.equal(a, b) for a, b in zip(features, kept, strict=True))
        # The check would find a difference.
        assert not torch.equal(leaves(cut.decode([f + 1e-3 for f in features], shape[2:]))[0], leaves(model(images))[0])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images):
        one = self.one(images)
        return one, self.two(one)


class Sized(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, features, image_size):
        return F.interpolate(self.head(features), image_size)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 5, 1), nn.Conv2d(6, 5, 1)

    def forward(self, features):
        one, two = features
        return self.a(one) + F.interpolate(self.b(two), one.shape[-2:])


@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (3, 3, 33, 46)], ids=str)
@pytest.mark.parametrize("halves", ["tensor", "tuple", "sized"])
def test_own_halves(halves, shape):
    encoder = Two() if halves == "tuple" else nn.Conv2d(3, 4, 3, 2, 1)
    decoder = {"tensor": nn.Conv2d(4, 5, 1), "tuple": Both(), "sized": Sized()}[halves]
    cut = split(encoder=encoder, decoder=decoder)
    images = torch.rand(shape)
    made = encoder(images)
    expected = decoder(made, shape[2:]) if halves == "sized" else decoder(made)
    features = cut.encode(images)
    assert len(features) == len(cut.spec) == (2 if halves == "tuple" else 1)
    assert cut.spec.reductions == ((2, 4) if halves == "tuple" else (2,))
    assert torch.equal(cut.decode(features, shape[2:]), expected)
    assert torch.equal(cut.model(images), expected)


def test_training_through_both_halves_is_training_the_model(case):
    model, cut = case
    twin = copy.deepcopy(model)
    images = torch.rand(3, 3, 64, 64)
    model.train(), twin.train()
    expected = twin(images)
    out = cut.decode(cut.encode(images), (64, 64))
    assert_equal(out, expected)
    for result in (out, expected):
        sum(leaf.square().mean() for leaf in leaves(result)).backward()
    compared = 0
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7, msg=name)
            compared += bool(ours.grad.abs().sum() > 0)
    assert compared > 3
    # BatchNorm's statistics moved once, not twice and not never.
    for (name, ours), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_neither_half_computes_the_other(case, monkeypatch):
    model, cut = case
    names = {id(p): name for name, p in model.named_parameters()}
    used: set[str] = set()

    def watched(original):
        def call(inputs, *args, **kwargs):
            used.update(names[id(x)] for x in (*args, *kwargs.values()) if id(x) in names)
            return original(inputs, *args, **kwargs)

        return call

    for function in ("conv2d", "batch_norm"):
        monkeypatch.setattr(F, function, watched(getattr(F, function)))
    encoder = {names[id(p)] for p in cut.encoder_parameters()}
    decoder = {names[id(p)] for p in cut.decoder_parameters()}
    assert not encoder & decoder
    assert encoder | decoder == set(names.values())
    features = cut.encode(torch.rand(2, 3, 64, 64))
    encoded = used.copy()
    used.clear()
    cut.decode(features, (64, 64))
    # A layer that is called on both sides of the cut is the decoder's, and both halves use it.
    shared = {name for name in decoder if name.startswith("layer.")} if isinstance(model, Repeated) else set()
    assert encoder
    assert encoded - shared == encoder
    assert used
    assert used <= decoder


def traces(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [m.training for m in model.modules()], sum(hooks), list(model.state_dict()), [list(m.__dict__) for m in model.modules()]


def test_the_model_stays_as_it_was(tiny_net):
    model = tiny_net()
    model.body.eval()
    modes, hooks, keys, attributes = traces(model)
    before = copy.deepcopy(model.state_dict())
    cut = split(model, "body")
    cut.decode(cut.encode(torch.rand(1, 3, 32, 32)), (32, 32))
    cut = split(model, "body")
    # The layer of the cut can take its hook off for torch.jit.script.
    attributes[list(model.modules()).index(model.body)].append("__prepare_scriptable__")
    assert traces(model) == (modes, hooks + 1, keys, attributes)
    assert model.body[1].num_batches_tracked == 0
    assert all(torch.equal(before[key], value) for key, value in model.body.state_dict(prefix="body.").items())

    def broken(images):
        raise RuntimeError("broken")

    features = cut.encode(torch.rand(1, 3, 32, 32))
    model.head.forward = broken
    for attempt in (
        lambda: split(model, "stem"),
        lambda: cut.decode(features, (32, 32)),
        lambda: cut.decode(features, (31, 31)),
    ):
        with pytest.raises((RuntimeError, SplitError), match="broken"):
            attempt()
    with pytest.raises(RuntimeError, match="broken"), cut.mixing(features):
        model(torch.rand(1, 3, 32, 32))
    del model.head.forward
    assert traces(model) == (modes, hooks + 1, keys, attributes)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5, 32, 32)
