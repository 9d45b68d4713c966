"""Mixing at the cut, cuts that are refused, and copies of a model that was cut."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feataug.cutting.cut import split
from feataug.errors import ShapeError, SplitError


class Skipping(nn.Module):
    """A U-Net in small: what ``first`` makes is read at the end."""

    def __init__(self, skip=True, images=False, only_in_training=False):
        super().__init__()
        self.skip, self.images, self.only_in_training = skip, images, only_in_training
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 5, 1)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, images):
        first = self.first(images)
        grown = F.interpolate(self.second(first), images.shape[-2:])
        if self.skip and (self.training or not self.only_in_training):
            grown = grown + first
        if self.images:
            grown = grown + images.mean(1, keepdim=True)
        return self.last(grown)


@pytest.fixture
def cut(tiny_net):
    return split(tiny_net(), "body")


def test_mixing_is_decoding_the_joined_batch(cut):
    cut.model.eval()
    images, synthetic = torch.rand(3, 3, 32, 48), torch.rand(2, 16, 8, 12)
    with cut.mixing(synthetic):
        mixed = cut.model(images)
    assert len(mixed) == 5
    assert torch.equal(mixed, cut.decode(torch.cat([*cut.encode(images), synthetic]), (32, 48)))
    # Outside of `with` the model is itself again.
    assert torch.equal(cut.model(images), mixed[:3])


def test_mixing_in_two_steps_at_a_size_that_was_not_seen_before():
    cut = split(Skipping(), at=["first", "second"], example=torch.rand(1, 3, 32, 32))
    assert not cut.one_pass
    images, synthetic = torch.rand(3, 3, 48, 64), (torch.rand(2, 4, 48, 64), torch.rand(2, 4, 24, 32))
    with cut.mixing(synthetic):
        mixed = cut.model(images)
    joined = [torch.cat(pair) for pair in zip(cut.encode(images), synthetic, strict=True)]
    assert torch.equal(mixed, cut.decode(joined, (48, 64)))


@pytest.mark.parametrize("at", ["body:pre_act", "body:input", "body.1"])
def test_mixing_at_other_sides_of_a_layer(tiny_net, at):
    cut = split(tiny_net().eval(), at)
    images = torch.rand(3, 3, 32, 48)
    (real,) = cut.encode(images)
    synthetic = torch.randn_like(real[:2])
    with cut.mixing((synthetic,)):
        mixed = cut.model(images)
    assert torch.equal(mixed, cut.decode(torch.cat([real, synthetic]), (32, 48)))


def test_gradients_reach_the_encoder_through_real_samples_only(cut):
    images, synthetic = torch.rand(3, 3, 32, 32), torch.rand(2, 16, 8, 8)
    cut.model.eval()

    def gradients(chosen):
        cut.model.zero_grad()
        with cut.mixing(synthetic):
            cut.model(images)[chosen].square().sum().backward()
        encoder = sum(float(p.grad.abs().sum()) for p in cut.encoder_parameters())
        return encoder, sum(float(p.grad.abs().sum()) for p in cut.decoder_parameters())

    encoder, decoder = gradients(slice(3, None))
    assert encoder == 0 < decoder
    assert min(gradients(slice(3))) > 0


def test_mixing_keeps_the_real_features_dtype_and_format(cut):
    cut.model.to(torch.bfloat16, memory_format=torch.channels_last)
    seen = []
    cut.model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with cut.mixing(torch.rand(2, 16, 8, 8)):
        cut.model(torch.rand(3, 3, 32, 32, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last))
    assert seen[0].shape == (5, 16, 8, 8)
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_hooks_of_others_see_the_mixed_batch(tiny_net):
    model, seen = tiny_net(), []
    model.body.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    cut = split(model, "body")
    seen.clear()
    with cut.mixing(torch.rand(2, 16, 8, 8)):
        model(torch.rand(3, 3, 32, 32))
    assert seen == [5]


def test_a_model_that_is_not_called_while_mixing_is_an_error(cut, tiny_net):
    with pytest.raises(SplitError) as error, cut.mixing(torch.rand(2, 16, 8, 8)):
        tiny_net()(torch.rand(3, 3, 32, 32))
    assert str(error.value) == (
        "cut.mixing: the model did not pass the cut.\n"
        "  given:   no forward pass of the cut's model inside `with cut.mixing(...)`\n"
        "  needed:  one call of the model that was split\n"
        "Is another copy of the model trained? Split the one that you train, before torch.compile."
    )


def test_the_cut_can_do_one_thing_at_a_time(cut):
    images = torch.rand(3, 3, 32, 32)
    with pytest.raises(SplitError, match="the cut is in use"), cut.mixing(torch.rand(2, 16, 8, 8)):
        cut.encode(images)
    assert len(cut.model(images)) == 3


def test_features_of_another_size_or_cut_are_errors(cut):
    with pytest.raises(ShapeError) as error, cut.mixing(torch.rand(2, 16, 4, 4)):
        cut.model(torch.rand(3, 3, 32, 32))
    assert str(error.value) == (
        "cut.mixing: the synthetic features do not fit the cut.\n"
        "  given:   [2, 16, 4, 4] float32 on cpu\n"
        "  needed:  [n, 16, 8, 8]\n"
        "Generate from masks of the images' size, by a generator that was trained for this cut."
    )
    with pytest.raises(ShapeError) as error:
        cut.decode(torch.rand(2, 16, 8, 8), (64, 64))
    assert str(error.value) == (
        "cut.decode: the features do not fit the image size.\n"
        '  given:   [2, 16, 8, 8] float32 on cpu   at level "body"\n'
        "  needed:  [B, 16, 16, 16]   for images of 64 x 64"
    )
    for wrong in (torch.rand(2, 8, 8, 8), [torch.rand(2, 16, 8, 8)] * 2):
        with pytest.raises(ShapeError, match=r"^cut.decode: the features do not fit the spec\.\n"):
            cut.decode(wrong, (32, 32))


def test_a_skip_round_the_cut_is_refused_by_name():
    model = Skipping()
    with pytest.raises(SplitError) as error:
        split(model, "second")
    assert str(error.value) == (
        'split: the cut at "second" leaks.\n'
        "  given:   read after the cut, made before it: 'first'\n"
        "  needed:  everything that the decoder reads crosses the cut\n"
        'A skip connection goes round this layer. Complete cuts: split(model, at=["first", "second"])'
    )
    split(model, at=["first", "second"])
    assert not model.second._forward_hooks
    split(Skipping(skip=False), "second"), split(model, "first"), split(model, "last:input")


def test_images_read_round_the_cut_are_found_with_any_example():
    for example in (None, torch.rand(1, 3, 32, 32)):
        with pytest.raises(SplitError, match="made before it: the images themselves\n"):
            split(Skipping(skip=False, images=True), "second", example=example)


def test_a_skip_that_only_training_reads_is_refused_too():
    model = Skipping(only_in_training=True).eval()
    with pytest.raises(SplitError, match="read after the cut, in training, made before it: 'first'\n"):
        split(model, "second")
    assert not any(module.training for module in model.modules())


def test_layers_that_are_not_there(cut):
    with pytest.raises(SplitError) as error:
        split(cut.model, "boddy")
    assert str(error.value) == (
        'split: the model has no layer "boddy".\n'
        "  given:   TinyNet with 14 layers\n"
        "  needed:  a name from model.named_modules(), such as 'body', 'body.2', 'body.1'"
    )
    with pytest.raises(SplitError) as error:
        split(Skipping(skip=False), "unused")
    assert str(error.value) == (
        'split: the layer "unused" is not called in the model\'s forward pass.\n'
        "  given:   Conv2d, in eval mode\n"
        "  needed:  a layer that every forward pass calls"
    )
    with pytest.raises(SplitError) as error:
        split(cut.model, "body:after")
    assert str(error.value) == ('split: no such side of a layer.\n  given:   ":after"\n  needed:  nothing, ":input" or ":pre_act"')
    with pytest.raises(SplitError, match=r'^split: no activation makes the output of "body\.1"\.\n'):
        split(cut.model, "body.1:pre_act")
    with pytest.raises(SplitError, match=r'^split: the tensor that crosses at "1" is no feature map\.\n  given:   \[1, 4096\] float32'):
        split(nn.Sequential(nn.Conv2d(3, 1, 3, 2, 1), nn.Flatten(), nn.Linear(4096, 2)), "1")
    with pytest.raises(SplitError) as error:
        split(cut.model, encoder=cut.model)
    assert str(error.value) == (
        "split: a model and a layer, or an encoder and a decoder, are needed.\n"
        "  given:   model, encoder\n"
        '  needed:  split(model, at="layer3") or split(encoder=..., decoder=...)'
    )


@pytest.mark.parametrize("how", ["deepcopy", "torch.save"])
def test_a_copy_of_a_split_model_is_free_of_the_cut(cut, how):
    if how == "deepcopy":
        other = copy.deepcopy(cut.model)
    else:
        file = io.BytesIO()
        torch.save(cut.model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    images, synthetic = torch.rand(3, 3, 32, 32), torch.rand(2, 16, 8, 8)
    cut.model.eval(), other.eval()
    plain = cut.model(images)
    with cut.mixing(synthetic):
        assert torch.equal(other(images), plain)
        assert len(cut.model(images)) == 5
    second = split(other, "body")
    with second.mixing(synthetic):
        assert torch.equal(cut.model(images), plain)
        assert len(other(images)) == 5
    # A copy made while the original mixes is idle as well.
    with cut.mixing(synthetic):
        assert len(copy.deepcopy(cut.model)(images)) == 3
        cut.model(images)


@pytest.mark.parametrize("at", ["body", "body:input"])
@pytest.mark.parametrize("how", ["del", "remove"])
def test_a_deleted_cut_takes_its_hook_along(tiny_net, at, how):
    model = tiny_net()
    others = split(model, "stem")
    cut = split(model, at)
    assert len(model.body._forward_hooks) + len(model.body._forward_pre_hooks) == 1
    cut.encode(torch.rand(1, 3, 32, 32))
    if how == "del":
        del cut
        gc.collect()
    else:
        cut.remove()
    assert not model.body._forward_hooks
    assert not model.body._forward_pre_hooks
    assert len(model.stem._forward_hooks) == 1
    others.encode(torch.rand(1, 3, 32, 32))
