"""Whatever way a tensor takes round the cut, the cut is refused; and no other cut is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.cutting.cut import split
from feataug.errors import SplitError

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
        "  given:   read after the cut, made before it: a Python number or a NumPy array\n"
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


class Reports(Skips):
    """Returns a number of the first stage beside the logits."""

    def __init__(self, number):
        super().__init__(lambda model, low, high: high)
        self.number = number

    def forward(self, images):
        return super().forward(images), self.number(self.box["low"])


@pytest.mark.parametrize("number", [lambda low: float(low.mean()), lambda low: low.numpy().copy(), lambda low: low.mean().numpy()])
def test_numbers_in_the_output_that_come_from_before_the_cut_are_leaks(number):
    with pytest.raises(SplitError, match="a Python number or a NumPy array"):
        split(Reports(number), "high", example=IMAGES)


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
