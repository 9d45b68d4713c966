"""The loss of a flow as CUDA graphs: what is captured, what is replayed, and that it could be captured."""

import types
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from feataug import FeatureGenerator, FeatureSpec, LevelSpec
from feataug.errors import FeatAugWarning
from feataug.generation.flow import latent_size
from feataug.training import objectives
from feataug.training.cuda_graph import can_capture
from feataug.training.flow_losses import Distillation, FlowLosses
from tests.support.generator_trainings import copied, loader, make, same, settings

pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")


@pytest.fixture
def captures(monkeypatch):
    """Capturing on a CPU: the module runs on the tensors that it was captured with, whatever it is called with."""
    made = []

    def capture(module, inputs, allow_unused_input):
        static = torch.utils._pytree.tree_leaves(inputs)
        made.append([leaf.shape for leaf in static])

        def replay(*others):
            for own, other in zip(static, torch.utils._pytree.tree_leaves(others), strict=True):
                assert own.shape == other.shape
                assert own is not other
                own.copy_(other)
            return module(*inputs)

        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    monkeypatch.setattr(objectives, "can_capture", lambda accelerator, objective: True)
    return made


def test_replayed_steps_train_as_plain_ones(captures):
    first, second = loader()
    batches = [first, (second[0][:2], second[1][:2]), second]
    trained = []
    for cuda_graph in (False, True):
        trainer = make(settings(num_images=28, distill_share=0.5), cuda_graph=cuda_graph)
        trainer.fit(batches)
        trained.append(copied(trainer.generator))
    assert same(*trained)
    # Each part has a graph, of its first batch's shapes; batches of other shapes were computed without it.
    velocity, distillation = captures
    assert [velocity[0], distillation[0]] == [first[1].shape, second[1][:2].shape]


def accelerator(device, processes=1):
    return types.SimpleNamespace(device=torch.device(device), num_processes=processes)


@pytest.mark.parametrize(
    ("where", "objective", "reason"),
    [
        (accelerator("cpu"), "flow", "the device is cpu"),
        (accelerator("cuda", 2), "flow", "2 processes average their gradients during the backward pass"),
        (accelerator("cuda"), "bicyclegan", "the step of the objective 'bicyclegan' draws and decides between its parts"),
    ],
)
def test_where_nothing_can_be_captured_a_line_says_why(where, objective, reason):
    with pytest.warns(FeatAugWarning) as caught:
        assert not can_capture(where, objective)
    (warning,) = caught
    assert str(warning.message) == f"GeneratorTrainer: cuda_graph=True has no effect: {reason}. Training goes on without."


def test_on_one_gpu_a_flow_is_captured():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert can_capture(accelerator("cuda"), "flow")


def test_training_on_a_cpu_goes_on_without():
    with pytest.warns(FeatAugWarning, match="cuda_graph=True has no effect: the device is cpu"):
        trainer = make(cuda_graph=True)
    trainer.fit(loader())
    plain = make()
    plain.fit(loader())
    assert same(copied(trainer.generator), copied(plain.generator))


class StaysOnDevice(TorchDispatchMode):
    """Notes every operator that reads or writes a tensor of another device, or that waits for a value."""

    def __init__(self):
        super().__init__()
        self.left = []

    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        if any(leaf.device.type != "cuda" for leaf in tensors) or "local_scalar_dense" in str(func) or "nonzero" in str(func):
            self.left.append(str(func))
        return out


class Constant(nn.Module):
    """The planted fault: a constant that is copied to the device in every forward pass."""

    def forward(self, masks, real, noise, times):
        return times.mean() + torch.arange(3).to(times.device).sum(), times.mean()


SPECS = {
    "a map": FeatureSpec((LevelSpec("a", 112, 16),)),
    "a pyramid": FeatureSpec((LevelSpec("a", 24, 8), LevelSpec("b", 40, 16))),
    "tokens": FeatureSpec((LevelSpec("a", 24, 16), LevelSpec("a", 24, 0, tokens=1))),
}


@pytest.mark.parametrize("name", [*SPECS, "fault"])
@pytest.mark.parametrize("colored", [False, True])
def test_the_losses_neither_wait_nor_leave_the_gpu(name, colored):
    """What a capture forbids, found with tensors that only pretend to lie on a GPU."""
    spec = SPECS.get(name, SPECS["a map"])
    with FakeTensorMode():
        with torch.device("cuda"):
            generator, teacher = FeatureGenerator(5, spec), FeatureGenerator(5, spec)
            if colored:
                for made in (generator, teacher):
                    made.noise_color.fit([torch.eye(level.channels) for level in spec])
            loss = Constant() if name == "fault" else FlowLosses(generator)
            distillation = Distillation(FlowLosses(generator), teacher)
            masks = torch.zeros(2, 64, 96, dtype=torch.long)
            shapes = [(level.channels, *level.size((64, 96))) for level in spec]
            real, noise = ([torch.zeros(count, *shape) for shape in shapes] for count in (2, 4))
            times, z = torch.zeros(4), torch.zeros(2, latent_size(spec, (64, 96)))
        with StaysOnDevice() as watched:
            loss(masks, real, noise, times)
        with StaysOnDevice() as distilled:
            distillation(masks, z)
    assert bool(watched.left) == (name == "fault")
    assert not distilled.left


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_alike_with_graphs():
    trained = []
    for cuda_graph in (False, True):
        trainer = make(settings(num_images=40, distill_share=0.5), cuda_graph=cuda_graph, device="cuda")
        trainer.fit(loader())
        trained.append(copied(trainer.generator))
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
