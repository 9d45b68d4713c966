"""Gradient checkpoints around layers of a cut: real ones of ``torch.utils.checkpoint``, since noticing them relies on torch's own code."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from feataug.cutting.cut import split
from feataug.cutting.gradient_checkpoints import Checkpoint, call_model, in_backward, surrounding_checkpoint
from feataug.errors import SplitError


class Inspecting(nn.Module):
    """Notes in which kind of checkpoint it runs, and whether in backward."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, images):
        self.seen.append((surrounding_checkpoint(at_output=False), in_backward()))
        return images * self.weight


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("wrap", ["module", "function", "sequential", "nested"])
def test_the_kind_of_a_checkpoint_is_noticed(reentrant, wrap):
    layer, images = Inspecting(), torch.rand(2, 3, requires_grad=True)
    run = partial(checkpoint, use_reentrant=reentrant)
    ways = {
        "module": lambda x: run(layer, x),
        "function": lambda x: run(lambda y: layer(2 * y), x),
        "sequential": lambda x: checkpoint_sequential(nn.Sequential(layer, nn.Tanh(), nn.ReLU()), 2, x, use_reentrant=reentrant),
        "nested": lambda x: run(lambda y: run(layer, y), x),
    }
    call_model(ways[wrap], (images,), {}).sum().backward()
    kind = Checkpoint.REENTRANT if reentrant else Checkpoint.NON_REENTRANT
    assert layer.seen[0] == (kind, False)
    # In backward the segment runs again.
    assert len(layer.seen) > 1
    assert all(backward for _, backward in layer.seen[1:])
    assert layer.weight.grad is not None


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_around_the_whole_call_does_not_count(reentrant):
    layer, images = Inspecting(), torch.rand(2, 3, requires_grad=True)
    checkpoint(lambda x: call_model(layer, (x,), {}), images, use_reentrant=reentrant).sum().backward()
    assert layer.seen == [(None, False), (None, True)]
    call_model(layer, (images,), {})
    assert layer.seen[2:] == [(None, False)]


class Segmented(nn.Module):
    """Two blocks, either of them under a gradient checkpoint, and a head."""

    def __init__(self, reentrant: bool = False, within: bool = True):
        super().__init__()
        self.reentrant, self.within, self.enabled = reentrant, within, True
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.Tanh())
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, images):
        if not self.enabled:
            return self.head(self.second(self.first(images)))
        hidden = checkpoint(self.first, images.requires_grad_(self.reentrant), use_reentrant=self.reentrant)
        return self.head(checkpoint(self.second, hidden, use_reentrant=self.reentrant))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def run_mixed(model, cut, images, synthetic):
    model.zero_grad()
    with cut.mixing(synthetic):
        out = model(images.clone())
    out.square().mean().backward()
    return out.detach(), gradients(model)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("at", ["second.1", "second", "first.1"])
def test_mixing_goes_through_gradient_checkpoints(at, reentrant):
    torch.manual_seed(0)
    model = Segmented(reentrant)
    cut = split(model, at, example=torch.rand(1, 3, 32, 32))
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        synthetic = [torch.randn_like(f[:2]) for f in cut.encode(images)]
    model.enabled = False
    expected, wanted = run_mixed(model, cut, images, synthetic)
    model.enabled = True
    out, found = run_mixed(model, cut, images, synthetic)
    assert torch.equal(out, expected)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], msg=name)
    # A plain step afterwards is a plain step.
    model.zero_grad()
    model(images.clone()).sum().backward()
    assert len(gradients(model)) == len(list(model.parameters()))


def test_halves_and_checkpoints():
    images = torch.rand(2, 3, 32, 32)
    # At the end of a segment all is well.
    model = Segmented()
    cut = split(model, "second", example=images)
    cut.decode(cut.encode(images), (32, 32)).square().mean().backward()
    found = gradients(model)
    model.zero_grad(), model(images).square().mean().backward()
    assert all(torch.equal(found[name], value) for name, value in gradients(model).items())
    # Within one the decoder could not be recomputed.
    cut = split(model, "second.1", example=images)
    features = cut.encode(images)
    with pytest.raises(SplitError) as error:
        cut.decode(features, (32, 32))
    assert str(error.value) == (
        "cut.decode: the cut lies inside a gradient checkpoint.\n"
        "  given:   a layer of the cut, called by torch.utils.checkpoint\n"
        "  needed:  a segment that is recomputed from its own inputs, which decode does not have\n"
        "Cut where a checkpointed segment ends, switch checkpointing off, or mix by `with cut.mixing(...)` in the model's\nown pass."
    )
    # Older torch leaves a checkpoint's hooks on for as long as an error that was raised inside is kept.
    del error
    # Leaving a reentrant one half-way would lose the gradient.
    cut = split(Segmented(reentrant=True), "second.1", example=images)
    with pytest.raises(SplitError, match=r"^cut\.encode: the cut lies inside a reentrant gradient checkpoint\."):
        cut.encode(images)
    with torch.no_grad():
        features = cut.encode(images)
    with pytest.raises(SplitError, match=r"^cut\.decode: the cut lies inside a reentrant gradient checkpoint\."):
        cut.decode(features, (32, 32))
    # A checkpoint of the user's own around the whole decoder is no obstacle.
    model.enabled = False
    cut = split(model, "first", example=images)
    features = cut.encode(images)
    checkpoint(cut.decode, features, (32, 32), use_reentrant=False).sum().backward()
    assert len(gradients(model)) == len(list(model.parameters()))


class Nested(nn.Module):
    """A block in a checkpoint of its own, within a larger one."""

    def __init__(self, outer):
        super().__init__()
        self.outer, self.enter, self.block, self.head = outer, nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 5, 1)

    def inner(self, images):
        return checkpoint(self.block, self.enter(images), use_reentrant=False)

    def forward(self, images):
        return self.head(checkpoint(self.inner, images, use_reentrant=False) if self.outer else self.inner(images))


def test_the_end_of_a_segment_within_another_segment_is_refused():
    images = torch.rand(2, 3, 32, 32)
    for outer in (False, True):
        cut = split(Nested(outer), "block", example=images)
        features = cut.encode(images)
        if not outer:
            cut.decode(features, (32, 32)).sum().backward()
            continue
        with pytest.raises(SplitError, match=r"^cut\.decode: the cut lies inside a gradient checkpoint\."):
            cut.decode(features, (32, 32))


def test_the_input_of_a_checkpointed_layer_is_refused():
    images = torch.rand(2, 3, 32, 32)
    cut = split(Segmented(), "second:input", example=images)
    with pytest.raises(SplitError, match=r"^cut\.decode: the cut lies inside a gradient checkpoint\."):
        cut.decode(cut.encode(images), (32, 32))
