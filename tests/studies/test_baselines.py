"""The baselines do what their papers say: each against a slow or sampled oracle, and end to end on a small model."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feataug import FinetuneConfig, split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.models import PSPNet
from studies.lib import baselines
from studies.lib.backbone import PhasedConv2d, phase_dilations

SIZE = (32, 48)


def study():
    train = Scenes(12, SIZE, transforms=train_transforms(SIZE))
    return SimpleNamespace(
        train=train, classes=train.classes, batch=4, at="encoder.blocks.4", further=FinetuneConfig(num_steps=2, lr=0.01),
        args=SimpleNamespace(device="cpu"), device=torch.device("cpu"), generator_distance=lambda: torch.full((112,), 0.5),
        class_weights=lambda power=None: torch.ones(train.num_classes),
    )  # fmt: skip


def model():
    torch.manual_seed(0)
    return PSPNet("tf_efficientnet_lite0", Scenes.num_classes, output_stride=16, width=16)


@pytest.mark.parametrize("name", [name for name in baselines.BASELINES if name != "images"])
def test_every_baseline_trains(name):
    one = study()
    net = model()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    trained = baselines.BASELINES[name](one)(net, seeded_loader(one.train, 4, seed=100), one.further, None)
    assert trained is net
    moved = [key for key, value in net.named_parameters() if not torch.equal(value, before[key])]
    assert "head.2.weight" in moved
    assert "encoder.conv_stem.weight" in moved
    assert all(bool(value.isfinite().all()) for value in net.state_dict().values() if value.is_floating_point())


def test_isda_is_the_bound_on_sampled_features():
    """The logits' shift equals the expectation's bound: log E exp of Gaussian features, by sampling."""
    one = study()
    one.further = FinetuneConfig(num_steps=1)
    net = model().eval()
    losses = []

    class Spy:
        def __init__(self, model, config, *, loss, **kwargs):
            losses.append(loss)

        def fit(self, loader):
            pass

    original, baselines.Finetuner = baselines.Finetuner, Spy
    try:
        baselines.isda(one)(net, None, one.further, None)
    finally:
        baselines.Finetuner = original
    net.head[0].train()
    torch.manual_seed(1)
    masks = torch.randint(Scenes.num_classes, (2, *SIZE))
    images = torch.randn(2, 3, *SIZE)
    out = net(images)
    features = net.head[0](net.pyramid(net.encoder(images)[-1])).detach()
    small = F.interpolate(masks[:, None].float(), features.shape[-2:])[:, 0].long()
    found = losses[0](out, masks)
    weight = net.head[-1].weight.detach().flatten(1)
    shift = torch.zeros(Scenes.num_classes, Scenes.num_classes)
    for y in range(Scenes.num_classes):
        chosen = features.permute(0, 2, 3, 1)[small == y]
        if len(chosen):
            noise = torch.randn(20_000, chosen.shape[1]) * chosen.std(0, unbiased=False) * 0.5**0.5
            # log E exp((w_k - w_y) noise) of a normal distribution is half its variance.
            shift[y] = 0.5 * (noise @ (weight - weight[y]).T).var(0)
    expected = F.cross_entropy(out.detach() + shift[masks].permute(0, 3, 1, 2), masks)
    plain = F.cross_entropy(out.detach(), masks)
    assert found.item() == pytest.approx(expected.item(), rel=2e-3)
    assert found > plain


def test_ohem_keeps_hard_pixels_and_never_fewer_than_a_tenth():
    one = study()
    losses = []
    original, baselines.Finetuner = (
        baselines.Finetuner,
        lambda *a, loss, **k: losses.append(loss) or SimpleNamespace(fit=lambda loader: None),
    )
    try:
        baselines.ohem(one)(model(), None, one.further, None)
    finally:
        baselines.Finetuner = original
    (loss,) = losses
    logits = torch.zeros(1, 2, 10, 10)
    logits[:, 0] = 8.0  # easy everywhere
    masks = torch.zeros(1, 10, 10, dtype=torch.long)
    masks[0, 0, :3] = 1  # but for three pixels
    masks[0, 1] = 255
    pixels = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")[masks != 255].sort(descending=True).values
    assert loss(logits, masks).item() < pixels[:3].mean().item()
    assert loss(logits, masks).item() == pytest.approx(pixels.mean().item())  # all the easy ones tie with the ninth
    logits[0, 0] -= torch.linspace(0, 1, 100).view(10, 10)
    pixels = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")[masks != 255].sort(descending=True).values
    assert loss(logits, masks).item() == pytest.approx(pixels[:9].mean().item())


def test_pasting_takes_image_and_mask_from_the_same_place():
    images = [(torch.full((3, 8, 8), float(k)), torch.full((8, 8), k)) for k in range(3)]

    class Data(list):
        pass

    for region in (baselines.box, baselines.half_of_the_classes):
        pasted = baselines.Pasted(Data(images), region)
        torch.manual_seed(0)
        mixed = 0
        for _ in range(40):
            image, mask = pasted[0]
            assert torch.equal(image[0], mask.float())
            mixed += int(bool((mask != 0).any()))
        assert 5 <= mixed <= 25  # a half, of which a third is pasted into itself


def test_class_uniform_shows_a_rare_class_more_often():
    masks = [torch.zeros(8, 8, dtype=torch.long) for _ in range(20)]
    masks[7][:4] = 1

    class Data(list):
        pass

    data = Data((torch.zeros(3, 8, 8), mask) for mask in masks)
    uniform = baselines.ClassUniform(data, [list(range(20)), [7]])
    torch.manual_seed(0)
    share = sum(int(uniform[k % 20][1].max()) for k in range(200)) / 200
    assert 0.2 < share < 0.4  # half of the draws, half of which ask for it; 0.05 without


def test_noisy_copies_go_to_the_decoder_alone():
    net = model()
    noisy = baselines.NoisyFeatures(net, "encoder.blocks.4", torch.full((112,), 1.0)).train()
    net.eval()  # BatchNorm in train mode would tie the samples of a batch together
    images = torch.randn(5, 3, *SIZE)
    out = noisy(images)
    assert len(out) in (7, 8)
    torch.testing.assert_close(out[:5], net(images), atol=1e-5, rtol=1e-4)
    out[5:].square().sum().backward()
    assert all(p.grad is None or not p.grad.abs().sum() for p in split(net, "encoder.blocks.4").encoder_parameters())
    assert len(noisy.eval()(images)) == 5


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (1, 3)])
def test_phased_convolutions_equal_dilated_ones(size):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 5, padding=8, dilation=4, groups=6)
    other = nn.Sequential(nn.Conv2d(6, 6, 5, padding=8, dilation=4, groups=6), nn.Conv2d(6, 6, 3, dilation=2, padding=2))
    other[0].load_state_dict(conv.state_dict())
    assert phase_dilations(other) == 1
    assert [type(m) for m in other] == [PhasedConv2d, nn.Conv2d]
    inputs = torch.randn(2, 6, *size)
    torch.testing.assert_close(other[0](inputs), conv(inputs), atol=1e-5, rtol=1e-5)
    for layer in (conv, other[0]):
        layer(inputs).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, other[0].weight.grad, atol=1e-3, rtol=1e-4)
