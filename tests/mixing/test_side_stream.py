"""Work on a stream of its own against the order in which it must happen, and steps that wait for nothing."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from feataug.cutting.cut import split
from feataug.errors import LabelError
from feataug.generation.generator import FeatureGenerator
from feataug.mixing import mixer as mixing
from feataug.mixing.mixer import FeatureMixer
from feataug.mixing.side_stream import SideStream
from tests.support.mixers import SIZE, SPEC, Counting, Sized, draw_masks, make_mixer


@pytest.mark.parametrize("at", ["body", ["stem", "body"]])
def test_mixing_waits_until_the_features_are_ready(tiny_net, at):
    cut = split(tiny_net(), at)
    images = torch.rand(2, 3, *SIZE)
    cut.model.eval()
    with torch.no_grad():
        right = [torch.rand_like(f[:1]) for f in cut.encode(images)]
        late = [torch.full_like(f, torch.nan) for f in right]
        order = []
        cut.model.stem.register_forward_hook(lambda *args: order.append("stem"))

        def ready():
            order.append("ready")
            for there, value in zip(late, right, strict=True):
                there.copy_(value)

        with cut.mixing(late, ready=ready):
            out = cut.model(images)
        assert order.index("stem") < order.index("ready"), "the encoder does not wait"
        with cut.mixing(right):
            torch.testing.assert_close(out, cut.model(images), rtol=0, atol=0)


class Stream:
    """Notes what a stream of CUDA is told."""

    def __init__(self, name, log):
        self.name, self.log, self.device = name, log, torch.device("cuda")

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class Noted:
    def __init__(self, log):
        self.log = log

    def record_stream(self, stream):
        self.log.append(f"used on {stream.name}")


def test_the_order_of_two_streams(monkeypatch):
    log = []
    main, side = Stream("main", log), Stream("side", log)
    current = [main]

    @contextlib.contextmanager
    def stream(chosen):
        current.append(chosen)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    beside = SideStream()
    beside.synchronize(Noted(log))
    assert log == [], "no work was done beside"
    with beside.work(torch.device("cuda"), Noted(log)):
        log.append(f"generating on {current[-1].name}")
    log.append(f"encoding on {current[-1].name}")
    beside.synchronize(Noted(log), Noted(log))
    assert log == [
        "side waits for main",
        "used on side",
        "generating on side",
        "encoding on main",
        "main waits for side",
        "used on main",
        "used on main",
    ]


def test_without_a_gpu_overlap_changes_nothing(tiny_net):
    cut = split(tiny_net(), "body")
    images, masks = torch.rand(7, 3, *SIZE), draw_masks(7)
    outs = []
    for overlap in (False, True):
        mixer = make_mixer(overlap=overlap)
        with mixer.on(cut, masks) as mixed:
            outs.append((cut.model(images), mixed.masks))
    assert torch.equal(outs[0][1], outs[1][1])
    torch.testing.assert_close(outs[0][0], outs[1][0], rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("bank", [0, 6])
def test_overlap_gives_what_one_stream_gives(tiny_net, bank):
    outs = []
    for overlap in (False, True):
        torch.manual_seed(0)
        net = tiny_net().cuda()
        cut = split(net, "body")
        mixer = make_mixer(bank=bank, overlap=overlap).cuda()
        images, masks = torch.rand(7, 3, *SIZE, generator=torch.Generator().manual_seed(0)).cuda(), draw_masks(7).cuda()
        for _ in range(20):
            with mixer.on(cut, masks) as mixed:
                out = net(images)
            outs.append((overlap, out.detach().cpu(), mixed.masks.cpu()))
    for (_, out, labels), (_, other, others) in zip(outs[:20], outs[20:], strict=True):
        torch.testing.assert_close(out, other)
        assert torch.equal(labels, others)


class Syncs(TorchDispatchMode):
    """Counts the operations that make a program wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "_unique", "masked_select", "is_nonzero")):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_labels_are_checked_before_they_are_sent_so_that_nothing_waits(tiny_net, monkeypatch):
    checked, syncs = mixing.labels_checked, Syncs()
    work = SideStream.work

    @contextlib.contextmanager
    def counted(self, device, *inputs):
        with work(self, device, *inputs), syncs:
            yield

    monkeypatch.setattr(SideStream, "work", counted)
    torch.manual_seed(1)
    generator = FeatureGenerator(5, SPEC, width=8, depth=1)
    source = Sized()
    mixer = FeatureMixer(generator, source, 0.5, overlap=True, seed=2)
    cut = split(tiny_net(), "body")

    def step():
        syncs.names.clear()
        with mixer.on(cut, draw_masks(3)) as mixed:
            cut.model(torch.rand(3, 3, *SIZE))
        return mixed, list(syncs.names)

    # Where everything is on the CPU the generator checks: this test sees what would wait.
    assert step()[1]
    # As on a GPU.
    monkeypatch.setattr(mixing, "labels_checked", lambda made, masks, device: checked(made, masks, torch.device("cuda")))
    mixed, names = step()
    assert mixed.num_synthetic == 3
    assert names == []
    # Bad labels are found all the same, and a generator of one's own that cannot be told is not told.
    source.draw = lambda n, rng: torch.full((n, *SIZE), 7)
    with pytest.raises(LabelError, match=r"^FeatureGenerator: a mask holds labels that are no class\.\n  given:   \[7\]"):
        step()
    mixer.generator = Counting(generator)
    with pytest.raises(LabelError):
        step()
    source.draw = Sized().draw
    assert step()[1]


def test_what_is_known_to_be_checked_is_not_checked_again():
    generator = FeatureGenerator(5, SPEC, width=8, depth=1)
    masks = draw_masks(2).to(torch.uint8)
    z = generator.draw_z(masks)
    with Syncs() as syncs:
        (features,) = generator(masks, z, checked=True)
    assert syncs.names == []
    assert torch.equal(features, generator(masks, z)[0])
