"""Which device a run gets: names are checked, a GPU's number counts, and only that device is touched. Without a GPU: torch is patched."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import feataug
from feataug.core.rng import seeded
from feataug.errors import ConfigError, DtypeError, TrainingError
from feataug.training import device as device_module
from feataug.training.device import make_accelerator
from tests.support.small_generators import PRESETS, small_config, small_generator


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, as far as ``make_accelerator`` looks; what was made current is noted."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    made = []

    def accelerator(cpu, **kwargs):
        made.append(cpu)
        return types.SimpleNamespace(device=torch.device("cpu" if cpu else "cuda"))

    monkeypatch.setattr(device_module, "Accelerator", accelerator)
    return types.SimpleNamespace(current=current, made=made)


@pytest.mark.parametrize(
    ("device", "current", "cpu"),
    [
        (None, [], False), ("auto", [], False), ("cpu", [], True), (torch.device("cpu"), [], True), ("cuda", [], False),
        (torch.device("cuda"), [], False), ("cuda:1", [1], False), (torch.device("cuda", 1), [1], False), ("cuda:0", [0], False),
    ],
)  # fmt: skip
def test_the_device_that_was_asked_for(gpus, device, current, cpu):
    assert make_accelerator(device, "no").device.type == ("cpu" if cpu else "cuda")
    assert gpus.current == current
    assert gpus.made == [cpu]


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "'gpu'"), ("GPU", "'GPU'"), ("cuda:", "'cuda:'"), ("cuda:x", "'cuda:x'"), ("cudax", "'cudax'"), ("", "''"), (0, "0"),
        ("CUDA", "'CUDA'"),
        ("mps", "'mps'"), (torch.device("meta"), "'meta'"), ("cuda:-1", "'cuda:-1'"), ("cuda 1", "'cuda 1'"), ("cpu\n", "'cpu\\n'"),
    ],
)  # fmt: skip
def test_other_names_are_an_error(device, said):
    with pytest.raises(ConfigError) as error:
        make_accelerator(device, "no")
    assert str(error.value) == (
        f"feataug: no such device.\n  given:   device={said}\n"
        '  needed:  "auto", "cpu", "cuda", "cuda:1", or a torch.device of these'
    )
    with pytest.raises(ConfigError, match=r"^feataug: no such device\.\n"):
        feataug.Finetuner(nn.Conv2d(3, 4, 1), device=device)


def test_a_gpu_that_is_not_there(gpus, monkeypatch):
    with pytest.raises(TrainingError) as error:
        make_accelerator("cuda:2", "no")
    assert str(error.value) == (
        "feataug: there is no such CUDA device.\n  given:   device='cuda:2'\n  needed:  \"cuda:0\", \"cuda:1\""
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1", torch.device("cuda")):
        with pytest.raises(TrainingError, match=r"^feataug: no CUDA device was found\.\n  given:   device='cuda"):
            make_accelerator(device, "no")
    assert gpus.current == []


@pytest.mark.parametrize(
    ("device", "taken"), [("cuda", "cpu"), ("cuda:1", "cuda:0"), ("cpu", "cuda:0"), (torch.device("cuda", 1), "cuda:0")]
)
def test_a_process_that_runs_elsewhere_already(gpus, monkeypatch, device, taken):
    monkeypatch.setattr(device_module, "Accelerator", lambda **kwargs: types.SimpleNamespace(device=torch.device(taken)))
    with pytest.raises(ConfigError) as error:
        make_accelerator(device, "no")
    assert str(error.value) == (
        f"feataug: accelerate runs on another device in this process.\n  given:   device='{device}'\n"
        f'  needed:  device="{taken}" or "auto"\n'
        "Was another device used before, or does a launcher give each process its own? Use one device in a process."
    )


def test_seeding_puts_back_and_touches_the_cpu_alone(monkeypatch):
    touched = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: touched.append("all GPUs"))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: touched.append(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    torch.manual_seed(3)
    touched.clear()
    before = torch.get_rng_state()
    with seeded(7):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(7)))
    assert touched == []


def test_seeding_a_gpu_touches_that_gpu_alone(monkeypatch):
    log = []

    class Current:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            log.append(f"on {self.index}")

        def __exit__(self, *error):
            log.append(f"off {self.index}")

    fakes = {
        "current_device": lambda: 3,
        "device": Current,
        "manual_seed": lambda seed: log.append(f"seed {seed}"),
        "get_rng_state": lambda device: f"state of {device}",
        "set_rng_state": lambda state, device: log.append(f"{state} back to {device}"),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for device, number in (("cuda:1", 1), (torch.device("cuda"), 3)):
        log.clear()
        with seeded(5, device):
            log.append("work")
        assert log == [f"on {number}", "seed 5", f"off {number}", "work", f"state of {number} back to {number}"]


@pytest.mark.parametrize("preset", PRESETS)
def test_training_asks_for_no_gpu_but_its_own(monkeypatch, preset):
    """``fork_rng()`` without devices warns where there are several GPUs, and saves the state of each in every step."""
    fork_rng, manual_seed, forked = torch.random.fork_rng, torch.manual_seed, []

    def fork(devices=None, *args, **kwargs):
        forked.append(devices)
        return fork_rng(devices, *args, **kwargs)

    def seed(number):
        # torch.manual_seed goes to every GPU; that of others is none of our business.
        assert Path(feataug.__file__).parent not in Path(sys._getframe(1).f_code.co_filename).parents
        return manual_seed(number)

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    monkeypatch.setattr(torch, "manual_seed", seed)
    images, masks = torch.rand(4, 3, 16, 16), torch.zeros(4, 16, 16, dtype=torch.long)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Dropout(), nn.Conv2d(4, 2, 1))
    cut = feataug.split(model, "0")
    generator, config = small_generator(2, cut.spec, preset), small_config(preset, num_images=8, stats_images=4)
    feataug.GeneratorTrainer(generator, cut, config, device="cpu", progress=False).fit([(images, masks)], [(images, masks)])
    mixer = feataug.FeatureMixer(generator, masks_of(masks), 0.5, cut=cut)
    tuner = feataug.Finetuner(model, feataug.FinetuneConfig(num_steps=2), mixer=mixer, cut=cut, device="cpu", progress=False)
    tuner.fit([(images, masks)])
    tuner.update_bn([(images, masks)])
    feataug.stages(
        model, [(images, masks)], 2, at=["0"], min_cells=1, generator_images=4, config=config, device="cpu", progress=False
    )
    assert len(forked) > 4
    assert all(devices == [] for devices in forked)


def masks_of(masks):
    return feataug.DatasetMasks(masks)


class Elsewhere(nn.Module):
    """A model whose weights lie where tensors have no values: what is sent elsewhere meets another device."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1, device="meta")
        self.seen = []

    def forward(self, images):
        self.seen.append(images.device.type)
        raise RuntimeError("seen")


def test_measures_follow_the_model(monkeypatch):
    pairs = [(torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))]
    model = Elsewhere()
    for predict in (model, model.forward):
        with pytest.raises(RuntimeError, match="seen"):
            feataug.evaluate(predict, pairs, 4)
    with pytest.raises(DtypeError, match="float32 on meta"):
        feataug.evaluate(feataug.Inference(model), pairs, 4)
    with pytest.raises(RuntimeError, match="seen"):
        feataug.evaluate(model, pairs, 4, device="cpu")
    assert model.seen[:2] == ["meta", "meta"]
    assert model.seen[-1] == "cpu"
    # A plain function has no device.
    assert feataug.evaluate(lambda images: torch.zeros(2, 4, 8, 8), pairs, 4)["pixel_acc"] == 100
    cut = types.SimpleNamespace(model=model, encode=model.forward)
    generator = small_generator(4, feataug.FeatureSpec((feataug.LevelSpec("x", 4, 1),)))
    with pytest.raises(RuntimeError, match="seen"):
        feataug.recognition(cut, generator, pairs)
    assert model.seen[-1] == "meta"
