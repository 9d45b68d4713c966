import pytest
import torch

from feataug.errors import ConfigError
from feataug.models import PSPNet
from feataug.models.pspnet import PyramidPooling

TINY = {"width": 8, "encoder_kwargs": {"channels": (8, 8, 16, 16), "stem_width": 8}}


def tiny(**kwargs):
    return PSPNet("resnet10t", 5, **TINY | kwargs)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 47)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_logits_have_the_images_size(output_stride, size):
    model = tiny(output_stride=output_stride).eval()
    images = torch.randn(2, 3, *size)
    assert model(images).shape == (2, 5, *size)
    features = model.encoder(images)
    assert len(features) == 1
    assert features[0].shape[-2:] == tuple(-(-n // output_stride) for n in size)


def test_the_auxiliary_head_speaks_in_training_only():
    model, images = tiny(auxiliary=True), torch.randn(2, 3, 48, 64)
    out = model.train()(images)
    assert set(out) == {"out", "aux"}
    assert all(value.shape == (2, 5, 48, 64) for value in out.values())
    out["aux"].sum().backward()
    assert model.auxiliary[0][0].weight.grad is not None
    assert model.head[0][0].weight.grad is None
    assert isinstance(model.eval()(images), torch.Tensor)
    assert isinstance(tiny().train()(images), torch.Tensor)


def test_eval_is_deterministic_and_samples_do_not_mix():
    model, images = tiny().eval(), torch.randn(3, 3, 32, 32)
    whole = model(images)
    assert torch.equal(whole, model(images))
    torch.testing.assert_close(whole[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_the_pyramid_sees_the_whole_image():
    # A change in one corner reaches the opposite one through the coarsest bin; without bins it does not.
    changed = torch.zeros(1, 8, 16, 16)
    changed[..., 0, 0] = 10
    pyramid = PyramidPooling(8).eval()
    with torch.no_grad():
        for parameter in pyramid.parameters():
            parameter.fill_(1.0)
        far = pyramid(changed)[..., -1, -1] - pyramid(torch.zeros(1, 8, 16, 16))[..., -1, -1]
    assert pyramid.out_channels == far.shape[1] == 16
    assert far[0, :8].abs().max() == 0
    assert far[0, 8:10].abs().min() > 0  # the bin of the whole image
    assert far[0, 10:].abs().max() == 0  # finer bins


@pytest.mark.parametrize("output_stride", [4, 7, 64, "8"])
def test_refuses_output_stride(output_stride):
    with pytest.raises(ConfigError) as error:
        tiny(output_stride=output_stride)
    assert str(error.value) == f"PSPNet: output_stride is not offered.\n  given:   {output_stride!r}\n  needed:  8, 16 or 32"


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("num_classes", 0, "an integer in [1, inf)"),
        ("width", 2.5, "an integer in [1, inf)"),
        ("dropout", 1.0, "a number in [0, 1)"),
        ("dropout", -0.1, "a number in [0, 1)"),
    ],
)
def test_refuses_numbers(name, value, needed):
    with pytest.raises(ConfigError) as error:
        PSPNet("resnet10t", **{"num_classes": 5} | TINY | {name: value})
    assert str(error.value) == f"PSPNet: {name} is out of range.\n  given:   {value!r}\n  needed:  {needed}"


def test_an_untrained_model_has_the_settings_and_other_weights(tmp_path):
    model = PSPNet("test_resnet", 3, output_stride=16, width=8, dropout=0.3, auxiliary=True)
    model.save_pretrained(tmp_path, card={"data": "some"})
    new = PSPNet.from_pretrained(tmp_path).untrained()
    shapes = [{name: value.shape for name, value in x.state_dict().items()} for x in (model, new)]
    assert shapes[0] == shapes[1]
    assert new.head[1].p == 0.3
    assert not torch.equal(model.head[2].weight, new.head[2].weight)
