"""Parts in TorchScript, operators that take functions; and what a model with a cut on it becomes elsewhere: pickled, scripted, exported."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.cutting.cut import split
from feataug.cutting.hooks import CutHook
from feataug.errors import SplitError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*TorchScript.*"),
]
IMAGES = torch.rand(2, 3, 32, 48)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return self.head(self.encoder(images))


def halves_agree(model, cut):
    model.eval()
    with torch.no_grad():
        plain, features = model(IMAGES), cut.encode(IMAGES)
        assert torch.equal(cut.decode(features, (32, 48)), plain)
        with cut.mixing([features[0][:1]]):
            assert torch.allclose(model(IMAGES), torch.cat([plain, plain[:1]]), atol=1e-6)
        assert torch.equal(model(IMAGES), plain)


@pytest.mark.parametrize("part", ["head", "encoder.0", "encoder.1"])
def test_parts_in_torchscript(part):
    model = Net().eval()
    parent, _, name = part.rpartition(".")
    owner = model.get_submodule(parent)
    scripted = torch.jit.script(model.get_submodule(part))
    if parent:
        owner[int(name)] = scripted
    else:
        setattr(owner, name, scripted)
    halves_agree(model, split(model, "encoder"))
    assert "encoder" in [place.at for place in feataug.cuts(model)]
    with pytest.raises(SplitError) as error:
        split(model, part)
    assert str(error.value) == (
        f'split: the layer "{part}" is in TorchScript, which takes no hooks.\n'
        "  given:   RecursiveScriptModule\n"
        "  needed:  a layer in Python, such as the one before it or around it"
    )


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, IMAGES)], ids=["script", "trace"])
def test_a_model_in_torchscript_is_refused(make):
    model = make(Net().eval())
    for who, call in (("split", lambda: split(model, "encoder")), ("cuts", lambda: feataug.cuts(model))):
        with pytest.raises(SplitError) as error:
            call()
        assert str(error.value) == (
            f"{who}: the model is in TorchScript, which takes no hooks.\n"
            f"  given:   {type(model).__name__}\n"
            "  needed:  a model in Python"
        )


def test_operators_without_a_schema():
    from feataug.cutting.dataflow import trace

    class Operator:
        """Stands for a higher-order operator in whatever release of torch."""

        def __call__(self, *args, **kwargs):
            return args[1](args[0])

    model = Net().eval()
    operator = Operator()
    _, _, flow = trace(model, [IMAGES], lambda: model(IMAGES))
    before = len(flow.operations)
    out = flow.__torch_dispatch__(operator, (), (IMAGES, lambda x: x + 1))
    assert flow.operations[before:][0].reads == {flow.images}
    assert flow.key(out) in flow.tainted


def test_a_cut_model_is_scripted_traced_and_exported():
    model = Net().eval()
    cut = split(model, "encoder")
    with torch.no_grad():
        plain = model(IMAGES)
        scripted = torch.jit.script(model)
        assert torch.equal(scripted(IMAGES), plain)
        # The cut is usable afterwards, and so is scripting.
        halves_agree(model, cut)
        assert torch.equal(torch.jit.script(model)(IMAGES), plain)
        assert torch.equal(torch.jit.trace(model, IMAGES)(IMAGES), plain)
        assert torch.equal(torch.export.export(model, (IMAGES,)).module()(IMAGES), plain)
    halves_agree(model, cut)
    cut.remove()
    assert not any("prepare" in name for module in model.modules() for name in module.__dict__)
    with pytest.raises(SplitError) as error:
        cut.encode(IMAGES)
    assert str(error.value) == (
        "feataug: the cut was removed.\n  given:   encode, decode or mixing after cut.remove()\n  needed:  a cut: split again"
    )


@pytest.mark.parametrize("at", ["1", "1:input", ["0", "1:pre_act"]])
def test_a_pickled_model_is_loaded_where_the_library_is_not(at, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    model[1] = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    cut = split(model, at)
    torch.save(model, tmp_path / "model.pt")
    torch.save(model(IMAGES), tmp_path / "out.pt")
    torch.save(IMAGES, tmp_path / "images.pt")
    code = (
        "import sys; sys.modules['feataug'] = None; import torch\n"
        "load = lambda name: torch.load(sys.argv[1] + name, weights_only=False)\n"
        "model = load('/model.pt')\n"
        "assert torch.equal(model(load('/images.pt')), load('/out.pt'))\n"
        "torch.save(model, sys.argv[1] + '/again.pt')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = torch.load(tmp_path / "again.pt", weights_only=False)
    assert not any(isinstance(hook, CutHook) for module in loaded.modules() for hook in module._forward_hooks.values())
    # The loaded model can be cut in its turn, and the first one still is.
    with torch.no_grad():
        for this, its in ((loaded, split(loaded, at)), (model, cut)):
            this.eval()
            assert torch.equal(its.decode(its.encode(IMAGES), (32, 48)), this(IMAGES))


def test_copies_are_free_of_the_cut():
    model = Net()
    cut = split(model, "encoder")
    twin = copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(model))
    buffer = io.BytesIO()
    torch.save(twin, buffer)
    for other in (twin, again):
        with torch.no_grad():
            assert torch.equal(other(IMAGES), model(IMAGES))
            synthetic = cut.encode(IMAGES)[0][:1]
            with pytest.raises(SplitError, match="the model did not pass the cut"), cut.mixing(synthetic):
                other(IMAGES)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(twin.eval())(IMAGES), model.eval()(IMAGES))
    halves_agree(model, cut)


def test_a_model_with_weight_norm_is_cloned():
    model = Net()
    model.encoder[0] = torch.nn.utils.weight_norm(model.encoder[0])
    model(IMAGES).sum().backward()
    cut = split(model, "encoder")
    clone = cut.clone()
    assert clone.model is not model
    with torch.no_grad():
        assert torch.equal(clone.encode(IMAGES)[0], cut.encode(IMAGES)[0])
    halves_agree(clone.model, clone)
    assert F.mse_loss(clone.model(IMAGES), model(IMAGES)) == 0
