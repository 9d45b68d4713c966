"""What the cut must live with: keyword arguments, autocast, channels_last, compiling, several processes."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feataug.cutting.cut import split
from feataug.errors import ShapeError, SplitError
from tests.support import model_zoo
from tests.support.forks import Fork


def test_what_is_read_depends_on_the_call():
    model = model_zoo.EncoderDecoderMM(auxiliary=True)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(model_zoo.CLASSES, (2, 64, 64))
    plain = split(model, "backbone", example=images)
    assert [level.name for level in plain.spec] == ["backbone"]
    assert plain.spec.channels == (20,)
    plain.remove()
    cut = split(model, "backbone", example={"inputs": images, "labels": labels, "mode": "loss"})
    assert [level.name for level in cut.spec] == ["backbone[2]", "backbone[3]"]
    model.eval()
    with torch.no_grad():
        losses = model(images, labels, mode="loss")
        features = cut.encode(images)
        assert cut.decode(features, (64, 64), labels=labels) == losses
        # The mixed masks go in as the labels.
        mixed = torch.cat([labels, labels[:1]])
        with cut.mixing([f[:1] for f in features]):
            assert model(images, mixed, mode="loss").keys() == losses.keys()
        # A setting of the example is the default of every call, and can be overridden.
        assert cut.decode(features, (64, 64), mode="tensor").shape == (2, model_zoo.CLASSES, 4, 4)


def test_examples_without_images_are_refused(tiny_net):
    for wrong in (torch.rand(3, 32, 32), {"labels": torch.zeros(1, dtype=torch.long)}, "images"):
        with pytest.raises(SplitError) as error:
            split(tiny_net(), "body", example=wrong)
        assert str(error.value).startswith("split: the example holds no images.\n")
        assert str(error.value).endswith(
            "images (B, C, H, W), or a dictionary of the model's arguments with such images among them"
        )


class BatchReader(nn.Module):
    """Reads ``len(images)`` after the cut, as code with ``view`` does."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 1)

    def forward(self, images, *, scale=1.0):
        return scale * self.head(self.encoder(images)).view(len(images), 5, -1)


def test_mixing_takes_two_steps_where_one_pass_cannot_do():
    model = BatchReader().eval()
    cut = split(model, "encoder", example=torch.rand(1, 3, 16, 16))
    assert not cut.one_pass
    images, synthetic = torch.rand(3, 3, 16, 16), torch.rand(2, 6, 8, 8)
    with cut.mixing(synthetic):
        mixed = model(images, scale=2.0)
        with pytest.raises(SplitError, match="the cut is in use"):
            cut.encode(images)
    joined = torch.cat([*cut.encode(images), synthetic])
    assert torch.equal(mixed, cut.decode(joined, (16, 16), scale=2.0))
    assert "forward" not in model.__dict__
    model.train()
    with cut.mixing(synthetic):
        model(images).sum().backward()
    real = split(BatchReader(), "encoder")
    assert real.spec.channels == (6,)
    with (
        pytest.raises(ShapeError, match=r"^cut\.mixing: the synthetic features do not fit the cut"),
        cut.mixing(torch.rand(2, 6, 4, 4)),
    ):
        model(images)
    with pytest.raises(SplitError, match=r"^cut\.mixing: the model did not pass the cut"), cut.mixing(synthetic):
        pass
    assert model(images).shape == (3, 5, 64)


def test_class_tokens_that_are_read_cross_as_a_level_of_their_own():
    torch.manual_seed(0)
    model = model_zoo.TimmViT(reg_tokens=4).eval()
    images = torch.rand(3, 3, 64, 64)
    cut = split(model, "vit.blocks.1", example=images[:1])
    assert cut.spec.shapes == ((48, 16, 0), (48, 0, 5))
    assert cut.spec.layers == ("vit.blocks.1",)
    maps, prefix = cut.encode(images)
    tokens = model.vit.blocks[:2](model.vit._pos_embed(model.vit.patch_embed(images)))
    assert torch.equal(prefix, tokens[:, :5].transpose(1, 2)[:, :, None])
    assert torch.equal(maps, tokens[:, 5:].transpose(1, 2).unflatten(2, (4, 4)))
    # After the last block nobody reads them.
    assert split(model, "vit.norm", example=images[:1]).spec.shapes == ((48, 16, 0),)


def test_nothing_that_is_read(tiny_net):
    class Ignored(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1)

        def forward(self, images):
            self.one(images)
            return self.two(images)

    with pytest.raises(SplitError) as error:
        split(Ignored(), "one", example=torch.rand(1, 3, 8, 8))
    # The images go round it.
    assert "read after the cut, made before it: the images themselves" in str(error.value)
    with pytest.raises(SplitError) as error:
        split(tiny_net(), ["body", "body"])
    assert str(error.value) == (
        "split: a layer is named twice, or none is named.\n  given:   ('body', 'body')\n  needed:  one or several different names"
    )


@pytest.mark.parametrize("at", ["encoder.layer2", "encoder"])
def test_channels_last_and_autocast(at):
    model, images = model_zoo.build("pspnet aux")
    model = model.to(memory_format=torch.channels_last).eval()
    images = images.contiguous(memory_format=torch.channels_last)
    place = "encoder" if at == "encoder" else ["encoder.layer3", "encoder.layer4"]
    cut = split(model, place, example=images[:1])
    with torch.no_grad():
        features = cut.encode(images)
        assert all(f.is_contiguous(memory_format=torch.channels_last) for f in features)
        assert torch.equal(cut.decode(features, (64, 64)), model(images))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = cut.encode(images)
            assert {f.dtype for f in half} == {torch.bfloat16}
            assert torch.equal(cut.decode(half, (64, 64)), model(images))
            # Synthetic features in full precision do not promote the batch.
            seen = []
            handle = model.pyramid.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
            with cut.mixing([f[:1] for f in features]):
                model(images)
            handle.remove()
            assert seen == [torch.bfloat16]


def test_optimizer_and_parameters_are_the_users():
    model, images = model_zoo.build("own unet")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.clone() for p in model.parameters()]
    cut = split(model, ["acts.0", "acts.1", "acts.2"], example=images)
    assert [id(p) for p in model.parameters()] == [id(p) for p in optimizer.param_groups[0]["params"]]
    # A step on synthetic samples alone moves the decoder and nothing else.
    features = [f.detach() for f in cut.encode(images)]
    cut.decode(features, (64, 64)).square().mean().backward()
    optimizer.step()
    moved = {id(p) for p, old in zip(model.parameters(), before, strict=True) if not torch.equal(p, old)}
    assert moved == {id(p) for p in cut.decoder_parameters()}


@pytest.mark.parametrize("at", ["encoder.layer3.0:pre_act", "encoder.layer2"])
def test_a_compiled_model_mixes(at):
    torch._dynamo.reset()
    model, images = model_zoo.build("pspnet")
    model.eval()
    cut = split(model, at, example=images[:1])
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        synthetic = [f[:1] for f in cut.encode(images)]
        plain = compiled(images)
        with cut.mixing(synthetic):
            mixed = compiled(images)
            expected = None
        with cut.mixing(synthetic):
            expected = model(images)
        torch.testing.assert_close(plain, model(images))
        torch.testing.assert_close(mixed, expected)
        torch.testing.assert_close(compiled(images), plain)
        # The halves are those of the model that was compiled.
        torch.testing.assert_close(cut.decode(cut.encode(images), (64, 64)), plain)


def test_a_model_that_was_compiled_before_the_cut_does_not_mix():
    """The documented limit: hooks that come after torch.compile has seen the model are not in what it made."""
    torch._dynamo.reset()
    model, images = model_zoo.build("pspnet")
    model.eval()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(images)
        cut = split(model, "encoder.layer2", example=images[:1])
        synthetic = [f[:1] for f in cut.encode(images)]
        with pytest.raises(SplitError, match=r"Split the one that you train, before torch\.compile\."), cut.mixing(synthetic):
            compiled(images)
        cut.remove()
        # Where mixing takes two steps, it replaces the model's forward: that is seen.
        cut = split(model, ["encoder.layer2", "encoder.layer3.0:pre_act"], example=images[:1])
        synthetic = [f[:1] for f in cut.encode(images)]
        with cut.mixing(synthetic):
            assert len(compiled(images)) == 3


PROCESS = """
import os, torch, torch.nn.functional as F
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.support import model_zoo
from feataug.cutting.cut import split
torch.set_num_threads(1)
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
dist.init_process_group("gloo")
for name, at in (("mmseg fpn", "neck"), ("own unet", ["acts.0", "acts.1", "acts.2"])):
    model, _ = model_zoo.build(name)
    model.eval()  # norms see the same statistics in one process and in two
    torch.manual_seed(1)
    images = torch.randn(4, 3, 64, 64)
    cut = split(model, at, example=images[:1])
    with torch.no_grad():
        synthetic = [torch.randn_like(f[:2]) for f in cut.encode(images)]
    whole = {}
    with cut.mixing(synthetic):
        out = model(images)
    out.square().mean().backward()
    whole = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    own = slice(2 * rank, 2 * rank + 2)
    with cut.mixing([f[rank : rank + 1] for f in synthetic]):
        out = ddp(images[own])
    assert len(out) == 3, out.shape
    out.square().mean().backward()
    for n, p in model.named_parameters():
        if n in whole:
            torch.testing.assert_close(p.grad, whole[n], rtol=1e-4, atol=1e-6)
print("equal", rank)
"""


def test_two_processes_train_as_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2}
    both = [Fork(PROCESS, env=env | {"RANK": rank}) for rank in range(2)]
    for rank, process in enumerate([process.wait() for process in both]):
        assert f"equal {rank}" in process.stdout, process.stderr[-3000:]


def test_loss_computed_inside_a_transformers_model():
    if package := model_zoo.missing("transformers Segformer"):
        pytest.skip(f"{package} is not installed")
    model, images = model_zoo.build("transformers Segformer")
    labels = torch.randint(model_zoo.CLASSES, (3, 64, 64))
    cut = split(model, "segformer", example={"pixel_values": images, "labels": labels[:2]})
    model.eval()
    with torch.no_grad():
        features = cut.encode(images)
        with cut.mixing([f[:1] for f in features]):
            out = model(pixel_values=images, labels=labels)
        logits = cut.decode([torch.cat([f, f[:1]]) for f in features], (64, 64)).logits
    torch.testing.assert_close(out.logits, logits)
    resized = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out.loss, F.cross_entropy(resized, labels))


class WithDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Dropout2d(0.5), nn.Conv2d(8, 8, 3, 1, 1), nn.Dropout(0.3))
        self.decoder = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.Dropout(0.5), nn.Conv2d(8, 5, 1))

    def forward(self, images):
        return self.decoder(self.encoder(images))


@pytest.mark.parametrize("at", ["encoder", "encoder.2", "decoder.1"])
def test_dropout_draws_what_it_would_have_drawn(at):
    model = WithDropout().train()
    cut = split(model, at, example=torch.rand(1, 3, 32, 32))
    images = torch.rand(4, 3, 32, 32)
    torch.manual_seed(7)
    plain = model(images)
    torch.manual_seed(7)
    assert torch.equal(cut.decode(cut.encode(images), (32, 32)), plain)
    assert not torch.equal(model(images), plain)
