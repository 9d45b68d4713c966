"""What cutting costs: forward passes, and the memory of one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting import cut as splitting
from feataug.cutting import verification
from feataug.cutting.cut import split
from feataug.cutting.cut_points import SHOWN, CutPoint, shortlist
from feataug.cutting.decode_plan import DecodePlanner
from feataug.errors import SplitError


class Counted(nn.Conv2d):
    """Counts the samples that it sees, numbers and all."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, 3, stride, 1)
        self.samples = 0

    def forward(self, images):
        if images.device.type != "meta":
            self.samples += len(images)
        return F.relu(super().forward(images))


class Chain(nn.Module):
    """Ten layers of equal cost; with ``skip`` the second's output is read once more by the last but one."""

    def __init__(self, skip=False):
        super().__init__()
        self.layers = nn.ModuleList(Counted(3 if n == 0 else 8, 8, 2 if n == 0 else 1) for n in range(10))
        self.head, self.skip = nn.Conv2d(8, 3, 1), skip

    def forward(self, images):
        kept, hidden = None, images
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if number == 1:
                kept = hidden
            if number == 8 and self.skip:
                hidden = hidden + kept
        return self.head(hidden)

    def forwards(self):
        """Whole passes that were made so far."""
        return sum(layer.samples for layer in self.layers) / len(self.layers)


@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_cut_costs_less_than_two_forward_passes(at, monkeypatch):
    # However long a twin takes: here the model itself takes no time.
    monkeypatch.setattr(verification, "_TWIN_SHARE", float("inf"))
    model = Chain()
    cut = split(model, f"layers.{at}", example=torch.rand(1, 3, 64, 64))
    # A trace; and what comes after the cut is run once more, to verify it. In training nothing else is done.
    assert model.forwards() == pytest.approx(1 + (9 - at) / 10)
    # Images of another size are measured without running the model.
    before = model.forwards()
    cut.decode(torch.rand(2, 8, 20, 24), (40, 48))
    assert model.forwards() - before == pytest.approx(2 * (9 - at) / 10)


@pytest.mark.parametrize("at", [0, 4, 8])
def test_it_costs_less_than_four_where_a_twin_is_slow(at, monkeypatch):
    monkeypatch.setattr(verification, "_TWIN_SHARE", 0.0)
    model = Chain()
    split(model, f"layers.{at}", example=torch.rand(1, 3, 64, 64))
    assert model.forwards() == pytest.approx(2 + 2 * (9 - at) / 10)


@pytest.mark.parametrize("twin", [True, False])
def test_what_training_does_otherwise_is_traced(twin, monkeypatch):
    class Auxiliary(Chain):
        def forward(self, images):
            out = super().forward(images)
            return (out, out.mean()) if self.training else out

    if not twin:
        monkeypatch.setattr(DecodePlanner, "_verified_twin", lambda self: None)
    model = Auxiliary()
    split(model, "layers.4", example=torch.rand(1, 3, 64, 64))
    if twin:
        assert model.forwards() == pytest.approx(2 + 2 * 5 / 10)
    assert model.forwards() <= 7.5  # without a twin sizes, batches and mixing are measured by running the model


def test_advice_costs_at_most_twelve_and_says_so(monkeypatch, capsys):
    model = Chain(skip=True)
    with pytest.raises(SplitError, match="leaks"):
        split(model, "layers.5", example=torch.rand(1, 3, 64, 64))
    assert model.forwards() <= 12
    assert capsys.readouterr().err == ""  # it took no time
    monkeypatch.setattr(splitting, "_SLOW_SECONDS", 0.0)
    with pytest.raises(SplitError, match="leaks"):
        split(model, "layers.5", example=torch.rand(1, 3, 64, 64))
    assert capsys.readouterr().err == 'split: the cut at "layers.5" leaks; looking for complete ones near it ...\n'


def test_listing_costs_two_forward_passes():
    model = Chain()
    places = feataug.cuts(model, torch.rand(1, 3, 64, 64))
    assert len(places) >= 8
    assert model.forwards() == 2


def test_a_trace_keeps_no_tensor():
    alive = []

    class Watched(Counted):
        def forward(self, images):
            out = super().forward(images)
            gone = sum(reference() is None for reference in references)
            alive.append(len(references) - gone)
            references.append(weakref.ref(out))
            return out

    references: list[weakref.ref[torch.Tensor]] = []
    model = Chain()
    model.layers = nn.ModuleList(Watched(3 if n == 0 else 8, 8, 2 if n == 0 else 1) for n in range(10))
    gc.disable()  # nothing may wait for the collector
    try:
        for call in (lambda: split(model, "layers.8", example=torch.rand(1, 3, 64, 64)), lambda: feataug.cuts(model)):
            references.clear(), alive.clear()
            call()
            # The last layer's output, and the site's.
            assert max(alive[:10]) <= 2
    finally:
        gc.enable()


def place(share, levels, at=None):
    spec = FeatureSpec(tuple(LevelSpec(f"x{n}", 8, 4) for n in range(levels)))
    return CutPoint(at or f"encoder.{share}.{levels}", spec, 1, 1, share, 1000 - share)


def test_of_many_places_those_are_shown_that_one_would_take():
    few = [place(share, 3) for share in range(0, 1000, 100)]
    assert shortlist(few) == few
    many = [place(share, 1 + share % 7) for share in range(5, 1000, 5)] + [place(998, 7, at="decoder")]
    shown = shortlist(many)
    assert SHOWN / 2 <= len(shown) <= SHOWN + 1
    # The model's own parts are there; all others are those of their stretch with the fewest tensors.
    assert shown[-1].at == "decoder"
    for one in shown[:-1]:
        stretch = [other for other in many if other.encoder_macs * SHOWN // 1000 == one.encoder_macs * SHOWN // 1000]
        assert len(one.spec) == min(len(other.spec) for other in stretch)
    assert shown == sorted(shown, key=lambda p: p.encoder_macs)


def test_all_places_are_listed_where_they_are_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(Counted(3 if n == 0 else 8, 8), nn.MaxPool2d(1)) for n in range(40)], nn.Conv2d(8, 3, 1))
    everything, shown = (feataug.cuts(model, torch.rand(1, 3, 16, 16), everything=flag) for flag in (True, False))
    assert len(everything) == 40
    assert {place.at for place in shown} < {place.at for place in everything}
