"""The mixer's bank against a list that is kept by hand, and work on a stream of its own against the order in which it must happen."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.cut import split
from feataug.errors import ConfigError, LabelError, ShapeError
from feataug.generation.generator import FeatureGenerator
from feataug.masks import DatasetMasks, HardNegativeSampler
from feataug.mixing import mixer as mixing
from feataug.mixing.mixer import FeatureMixer
from feataug.mixing.pixel_filter import PixelFilter
from feataug.mixing.side_stream import SideStream
from feataug.mixing.synthetic_cache import SyntheticCache

SPEC = FeatureSpec((LevelSpec("body", 16, 4),))
SIZE = (32, 40)


class Counting(nn.Module):
    """A generator that notes how many samples it makes."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.spec, self.latent_dim, self.num_classes = inner, inner.spec, inner.latent_dim, inner.num_classes
        self.made = []

    def forward(self, masks, z):
        self.made.append(len(masks))
        return self.inner(masks, z)


class Numbered:
    """Masks of one pixel that count from 0: none is drawn twice."""

    def __init__(self):
        self.next = 0

    def draw(self, n, generator):
        self.next += n
        return torch.arange(self.next - n, self.next)[:, None, None]


def draw_masks(count, size=SIZE, seed=0):
    return torch.randint(5, (count, *size), generator=torch.Generator().manual_seed(seed))


def make_mixer(bank=6, fresh=0.3, **kwargs):
    torch.manual_seed(1)
    generator = Counting(FeatureGenerator(5, SPEC, mask_widths=(4, 6), width=8, depth=1))
    return FeatureMixer(generator, DatasetMasks(draw_masks(20)), 0.3, bank=bank, fresh=fresh, seed=2, **kwargs)


def batch():
    return (torch.randn(7, 16, 8, 10),), draw_masks(7, seed=5)  # 3 synthetic ones


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.floats(0, 1), st.lists(st.integers(0, 9), min_size=1, max_size=25), st.integers(0, 99))
def test_the_bank_is_a_list_whose_oldest_make_room(size, fresh, steps, seed):
    bank, source, rng = SyntheticCache(size, fresh), Numbered(), torch.Generator().manual_seed(seed)
    kept: list[int] = []
    for n in (min(n, size) for n in steps):
        before = source.next
        masks, z, places = bank.draw(n, source.draw, 2, rng)
        drawn, new = masks.flatten().tolist(), source.next - before
        assert len(drawn) == len(set(drawn)) == len(set(places.tolist())) == n
        full = len(kept) == size
        assert new == n if not full else new in (int(n * fresh), min(n, int(n * fresh) + 1))
        assert drawn[n - new :] == list(range(before, before + new))
        kept = [*kept, *range(before, before + new)][-size:]
        assert set(drawn) <= set(kept)
        if bank.masks is not None:
            assert sorted(bank.masks.flatten().tolist()[: len(kept)]) == kept
            assert torch.equal(bank.z[places], z)
            assert bank.masks[places].flatten().tolist() == drawn


def test_features_are_those_of_the_masks_and_the_noise():
    mixer = make_mixer(pixel_filter=lambda features, masks: masks.masked_fill(masks == 2, 255))
    real, masks = batch()
    for _ in range(12):
        mixed, bank = mixer(real, masks), mixer.bank
        # Which samples these were: those of the bank with the same noise's features, made one by one.
        own = [
            number
            for sample in mixed.features[0][7:]
            for number in range(bank.size)
            if bank.made[number] and torch.equal(bank.features[0][number], sample)
        ]
        assert len(own) == len(set(own)) == mixed.num_synthetic
        for number, sample, label in zip(own, mixed.features[0][7:], mixed.masks[7:], strict=True):
            mask = bank.masks[number].long()[None]
            (expected,) = mixer.generator.inner(mask, bank.z[number][None])
            torch.testing.assert_close(sample, expected[0])
            assert torch.equal(label, mask[0].masked_fill(mask[0] == 2, 255))


def test_few_are_made():
    mixer = make_mixer(bank=6, fresh=0.25)
    real, masks = batch()
    for _ in range(60):
        mixer(real, masks)
    assert sum(mixer.generator.made) == mixer.bank.count
    taken = 60 * 3
    assert mixer.bank.count < 0.45 * taken, "6 to begin with, then a quarter"
    everything = make_mixer(bank=6, fresh=1.0)
    for _ in range(10):
        everything(real, masks)
    assert everything.bank.count == sum(everything.generator.made) == 30


def test_a_sample_whose_features_are_not_there_is_made_when_it_is_drawn():
    # A plan that nobody took: another process's samples, or one that was only looked at.
    mixer = make_mixer(bank=6, fresh=0.0)
    real, masks = batch()
    for _ in range(2):
        mixer.plan(7)
    assert mixer.bank.count == 6
    assert mixer.generator.made == []
    for _ in range(30):
        mixer(real, masks)
    assert sum(mixer.generator.made) == 6


def test_a_plan_is_replayed_from_its_masks_and_noise():
    mixer = make_mixer()
    real, masks = batch()
    plan = mixer.plan(7)
    first = mixer(real, masks, plan)
    for _ in range(9):
        mixer(real, masks)  # long gone from the bank
    again = mixer(real, masks, plan)
    assert torch.equal(first.features[0], again.features[0])
    assert torch.equal(first.masks, again.masks)


def test_the_state_goes_on_bit_for_bit():
    real, masks = batch()
    first, second, third = make_mixer(), make_mixer(), make_mixer()
    for _ in range(5):
        first(real, masks)
    second.load_plan_state(first.plan_state())
    # Planted: without the bank others are drawn.
    third.load_plan_state(first.plan_state() | {"bank": make_mixer().plan_state()["bank"]})
    ends = [[mixer(real, masks).features[0] for _ in range(5)] for mixer in (first, second, third)]
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ends[0], ends[2], strict=True))


def test_masks_of_another_size_begin_anew():
    bank, rng = SyntheticCache(4, 0.5), torch.Generator().manual_seed(0)
    sizes = iter([(8, 8), (8, 8), (4, 6), (4, 6), (4, 6)])

    def draw(n, generator):
        return torch.zeros(n, *size, dtype=torch.long)

    for size in sizes:
        masks, z, places = bank.draw(2, draw, 3, rng)
        assert masks.shape == (2, *size)
        assert (len(z), len(places)) == (2, 2)
    assert bank.count == 5, "2 and 2 until it is full, then a half"


def test_settings_name_the_bank():
    assert make_mixer().settings()["bank"] == 6
    assert make_mixer().settings()["fresh"] == 0.3
    assert "bank" not in make_mixer(bank=0).settings()


def test_what_does_not_go_together():
    real, masks = batch()
    with pytest.raises(ConfigError) as error:
        make_mixer(bank=2)(real, masks)
    assert str(error.value) == (
        "FeatureMixer: the bank holds fewer samples than a step takes.\n"
        "  given:   bank=2, 3 synthetic samples\n"
        "  needed:  bank of at least 3; of some hundreds to be of use"
    )
    with pytest.raises(ConfigError) as error:
        FeatureMixer(make_mixer().generator, HardNegativeSampler(draw_masks(4), keep=2, learn=True), bank=8)
    assert str(error.value) == (
        "FeatureMixer: a bank leaves the sampler nothing to learn.\n"
        "  given:   bank=8, HardNegativeSampler(learn=True)\n"
        "  needed:  one of the two: a bank draws its samples again whatever their losses are"
    )
    for wrong in ({"bank": -1}, {"bank": 2.5}, {"fresh": 1.5}, {"fresh": float("nan")}):
        with pytest.raises(ConfigError, match=f"FeatureMixer: {next(iter(wrong))} "):
            make_mixer(**wrong)


def test_the_filter_is_asked_once_for_each_sample(tiny_net):
    cut = split(tiny_net(), "body")
    pixel_filter = PixelFilter(cut, torch.full((5,), 0.5))
    asked = []
    mixer = make_mixer(fresh=0.0, pixel_filter=lambda features, masks: asked.append(len(masks)) or pixel_filter(features, masks))
    real, masks = batch()
    for _ in range(10):
        assert (mixer(real, masks).masks == 255).any()
    assert sum(asked) == 6


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
    aside = SideStream()
    aside.synchronize(Noted(log))
    assert log == [], "nothing was done aside"
    with aside.work(torch.device("cuda"), Noted(log)):
        log.append(f"generating on {current[-1].name}")
    log.append(f"encoding on {current[-1].name}")
    aside.synchronize(Noted(log), Noted(log))
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


class Sized:
    """A source whose masks change their size, as those of a training at several scales."""

    def __init__(self):
        self.size, self.drawn = SIZE, []

    def draw(self, n, generator):
        self.drawn.append(n)
        return torch.randint(5, (n, *self.size), generator=generator)


@pytest.mark.parametrize("fresh", [0, 0.0, 0.05, 0.5, 1.0])
def test_masks_of_another_size_fill_the_bank_again(tiny_net, fresh):
    torch.manual_seed(1)
    source = Sized()
    generator = Counting(FeatureGenerator(5, SPEC, mask_widths=(4, 6), width=8, depth=1))
    mixer = FeatureMixer(generator, source, 0.5, bank=6, fresh=fresh, seed=2)
    cut = split(tiny_net(), "body")
    for size in (SIZE, (48, 40), SIZE):
        source.size, made = size, sum(generator.made)
        for _ in range(5):
            with mixer.on(cut, draw_masks(3, size)) as mixed:
                out = cut.model(torch.rand(3, 3, *size))
            assert mixed.num_synthetic == 3
            assert out.shape[-2:] == size
        # Two steps fill it.
        assert sum(generator.made) - made >= 6
    if not fresh:
        assert source.drawn == [3, 3] * 3, "a bank that never changes draws nothing more"


def test_masks_that_do_not_follow_the_batch_are_an_error(tiny_net):
    mixer, cut = make_mixer(fresh=0), split(tiny_net(), "body")
    for _ in range(4):
        with mixer.on(cut, draw_masks(5)):
            cut.model(torch.rand(5, 3, *SIZE))
    with pytest.raises(ShapeError, match=r"^FeatureMixer: drawn masks differ in size from the batch's\."), mixer.on(cut, draw_masks(5, (48, 40))):
        pass


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
    generator = FeatureGenerator(5, SPEC, mask_widths=(4, 6), width=8, depth=1)
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
    generator = FeatureGenerator(5, SPEC, mask_widths=(4, 6), width=8, depth=1)
    masks, z = draw_masks(2).to(torch.uint8), torch.randn(2, generator.latent_dim)
    with Syncs() as syncs:
        (features,) = generator(masks, z, checked=True)
    assert syncs.names == []
    assert torch.equal(features, generator(masks, z)[0])
