"""Every architecture of the zoo, cut at every place listed: the halves are the model."""

from __future__ import annotations

import copy
import json
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from feataug.cutting.cut import split
from feataug.cutting.cut_points import cuts
from feataug.errors import SplitError
from tests.support import model_zoo

PAIRS = [(name, at) for name, (_, _, places) in model_zoo.ZOO.items() for at in places]


def tensors(out):
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]


def assert_equal(out, expected):
    assert type(out) is type(expected)
    assert len(tensors(out)) == len(tensors(expected)) > 0
    for a, b in zip(tensors(out), tensors(expected), strict=True):
        assert torch.equal(a, b)


def traces(model):
    """What a cut must leave as it was."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training, "forward" in m.__dict__) for m in model.modules()]
    return hooks, list(model.state_dict())


def buffers(model):
    return [buffer.clone() for buffer in model.buffers()]


def without_dropout(model):
    """Train mode, with nothing drawn."""
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
        for name in ("dropout", "drop_prob", "p", "attention_dropout", "hidden_dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


@contextmanager
def counted(model):
    """The layers whose own ``forward`` is run, to the end; where a stand-in takes its place it is not."""
    ran: list[nn.Module] = []
    layers = [module for module in model.modules() if not list(module.children())]

    def counting(module):
        original = module.forward

        def forward(*args, **kwargs):
            out = original(*args, **kwargs)
            ran.append(module)
            return out

        return forward

    for module in layers:
        module.__dict__["forward"] = counting(module)
    try:
        yield ran
    finally:
        for module in layers:
            del module.__dict__["forward"]


def owned(modules):
    return {id(p) for module in modules for p in module.parameters(recurse=False)}


@pytest.fixture(scope="module")
def built():
    """Each model is made once; every test leaves it as it found it."""
    made = {}

    def get(name):
        if package := model_zoo.missing(name):
            pytest.skip(f"{package} is not installed")
        if name not in made:
            made.clear()
            made[name] = model_zoo.build(name)
        return made[name]

    return get


def test_the_zoo_is_large_enough():
    assert len(model_zoo.ZOO) >= 30
    assert len(PAIRS) >= 60
    assert {"smp", "torchvision", "transformers", "timm", "mmseg"} <= {name.split()[0] for name in model_zoo.ZOO}


@pytest.mark.parametrize(("name", "at"), PAIRS, ids=lambda value: str(value))
def test_the_halves_are_the_model(name, at, built):
    model, images = built(name)
    model.eval()
    size = images.shape[-2:]
    before, stored = traces(model), buffers(model)
    cut = split(model, at, example=images[:1])
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), stored, strict=True)), "split moved running statistics"

    with torch.no_grad():
        plain = model(images)
        features = cut.encode(images)
        assert [tuple(f.shape) for f in features] == [(len(images), s.channels, *s.size(size)) for s in cut.spec]
        assert_equal(cut.decode(features, size), plain)
        # Every level is read: with other values the output differs. (In eval mode an auxiliary head's is not.)
        for number in range(len(features) if name != "pspnet aux" else 0):
            changed = [f + 1.0 * (n == number) for n, f in enumerate(features)]
            assert any(not torch.equal(a, b) for a, b in zip(tensors(cut.decode(changed, size)), tensors(plain), strict=True))

    encoder, decoder = ({id(p) for p in half} for half in (cut.encoder_parameters(), cut.decoder_parameters()))
    assert encoder
    assert not encoder & decoder
    assert encoder | decoder == {id(p) for p in model.parameters()}
    with torch.no_grad(), counted(model) as ran:
        cut.encode(images)
        assert owned(ran) & encoder
        assert not owned(ran) & decoder
        ran.clear()
        cut.decode(features, size)
        assert not owned(ran) & encoder

    # The mixed pass is the two-step way.
    with torch.no_grad():
        synthetic = [f[:1] + 0.5 for f in features]
        with cut.mixing(synthetic):
            mixed = model(images)
        joined = cut.decode([torch.cat(pair) for pair in zip(features, synthetic, strict=True)], size)
    for a, b in zip(tensors(mixed), tensors(joined), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    cut.remove()
    assert traces(model) == before


TRAINED = [(name, places[0]) for name, (_, _, places) in model_zoo.ZOO.items() if name != "torchvision fcn, no aux"] + [
    ("pspnet", "encoder.layer3.0:pre_act"),
    ("own unet", ["acts.0", "acts.1"]),
    ("smp DeepLabV3Plus", ["encoder.layer1", "encoder.layer3.0:pre_act"]),
    ("timm vit, class token", "vit.blocks.2:input"),
]


@pytest.mark.parametrize(("name", "at"), TRAINED, ids=lambda value: str(value))
def test_training_through_the_halves_is_training_the_model(name, at, built):
    model, images = built(name)
    model = without_dropout(copy.deepcopy(model))
    twin = copy.deepcopy(model)
    cut = split(model, at, example=images[:1])
    expected = twin(images)
    out = cut.decode(cut.encode(images), images.shape[-2:])
    for result in (out, expected):
        sum(leaf.square().mean() for leaf in tensors(result) if leaf.requires_grad).backward()
    compared = 0
    for (key, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), key
        if ours.grad is not None:
            scale = float(theirs.grad.abs().max())
            torch.testing.assert_close(
                ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=lambda text, k=key: f"{k}: {text}"
            )
            compared += scale > 0
    assert compared > 3
    for (key, ours), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs), key


LEAKS = [
    ("own unet", "acts.1", ["acts.0"]),
    ("smp Unet", "encoder.layer2", ["encoder.relu", "encoder.layer1"]),
    ("smp UnetPlusPlus", "encoder.layer1", ["encoder.relu"]),
    ("smp FPN", "encoder.layer3", ["encoder.layer1", "encoder.layer2"]),
    ("smp DeepLabV3Plus", "encoder.layer3.0:pre_act", ["encoder.layer1"]),
    ("mmseg upernet", "backbone.stages.2", ["backbone.stages.1"]),
    ("mmseg fpn", "backbone.stages.3", ["backbone.stages.0", "backbone.stages.1", "backbone.stages.2"]),
    ("timm resnet", "encoder.layer4", ["encoder.layer3"]),
    ("timm convnext", "encoder.stages_3", ["encoder.stages_2"]),
    ("torchvision lraspp", "backbone.12", ["backbone.4"]),
    ("transformers Segformer", "segformer.stages.2", ["segformer.stages.0", "segformer.stages.1"]),
]


@pytest.mark.parametrize(("name", "at", "guilty"), LEAKS, ids=lambda value: str(value))
def test_a_leak_is_named_with_a_complete_cut_that_works(name, at, guilty, built):
    model, images = built(name)
    before = traces(model)
    with pytest.raises(SplitError) as error:
        split(model, at, example=images[:1])
    text = str(error.value)
    assert text.startswith(f'split: the cut at "{at}" leaks.\n')
    for layer in guilty:
        assert f"'{layer}'" in text
    assert traces(model) == before
    complete = [json.loads(part.partition(")")[0]) for part in text.split("at=")[1:]]
    assert complete, text
    model.eval()
    for place in complete:
        cut = split(model, place, example=images[:1])
        with torch.no_grad():
            assert_equal(cut.decode(cut.encode(images), images.shape[-2:]), model(images))


LISTED = [
    "pspnet aux",
    "mmseg upernet",
    "timm swin (nhwc)",
    "timm vit, registers",
    "smp Unet",
    "torchvision lraspp",
    "transformers DPT",
]


@pytest.mark.parametrize("name", LISTED)
def test_every_place_that_is_listed_can_be_cut(name, built):
    model, images = built(name)
    before, stored = traces(model), buffers(model)
    places = cuts(model, images[:1])
    assert traces(model) == before
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), stored, strict=True))
    assert len(places) >= 3
    whole = sum(p.numel() for p in model.parameters())
    for place in places[:: max(1, len(places) // 4)]:
        cut = split(model, place.at, example=images[:1])
        # Class tokens that are passed on and not read are listed, but do not cross.
        assert set(cut.spec.shapes) <= set(place.spec.shapes), place
        assert place.encoder_parameters + place.decoder_parameters == whole
        ours = sum(p.numel() for p in cut.encoder_parameters())
        assert abs(ours - place.encoder_parameters) <= 0.02 * whole, place
        cut.remove()
    macs = [place.encoder_macs for place in places]
    assert macs == sorted(macs)
    assert len({place.encoder_macs + place.decoder_macs for place in places}) == 1
