"""Planted data, models and generators for the tests of ``feataug.teaching_score``."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import feataug
from feataug.evaluation import ClassGaussians

CLASSES, SIZE = 4, (16, 24)


class Net(nn.Module):
    """Every pixel by itself: a linear encoder, a decoder that can draw any boundary."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
        self.head = nn.Sequential(nn.Conv2d(6, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, CLASSES, 1))

    def forward(self, images):
        return self.head(self.encoder(images))


def planted(kind: str, seed: int, batches: int = 6):
    """Batches of 4 images whose pixels hold three numbers, drawn by class.

    ``"loud"``: the first number tells the classes apart. Their means differ more in the second, whose spread is larger still: who knows the
    means alone relies on it. ``"ring"``: two pairs of classes; those of a pair have equal means and covariances, and lie on different parts
    of a ring.
    """
    rng, made = torch.Generator().manual_seed(seed), []
    for _ in range(batches):
        masks = torch.randint(CLASSES, (4, SIZE[0] // 4, SIZE[1] // 4), generator=rng)
        masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
        noise = torch.randn(*masks.shape, 3, generator=rng)
        if kind == "loud":
            parts = [masks + 0.2 * noise[..., 0], 4 * (masks % 2) + 3 * (masks // 2) + 4 * noise[..., 1], noise[..., 2]]
        else:
            angle = (torch.randint(4, masks.shape, generator=rng) + (masks % 2) / 2) * torch.pi / 2
            parts = [3 * angle.cos(), 3 * angle.sin(), 2.0 * (masks // 2)]
            parts = [part + 0.3 * noise[..., number] for number, part in enumerate(parts)]
        made.append((torch.stack(parts, 1), masks))
    return made


def trained_on(kind):
    torch.manual_seed(0)
    model = Net()
    config = feataug.FinetuneConfig(num_steps=200, lr=0.2)
    feataug.Finetuner(model, config, device="cpu", progress=False).fit(planted(kind, 1))
    return model


@pytest.fixture(scope="module")
def loud():
    return trained_on("loud")


class Prototypes(feataug.FeatureGenerator):
    """The planted fault: a generator that gives each class one feature."""

    def __init__(self, cut):
        super().__init__(CLASSES, cut.spec, width=4, depth=1)
        self.means = ClassGaussians.fit(cut, planted("loud", 1), CLASSES, spread=0.0)
        means, stds = zip(*((x.mean((0, 2, 3)), x.std((0, 2, 3))) for x in cut.encode(planted("loud", 1)[0][0])), strict=True)
        self.set_statistics(means, stds)

    def forward(self, masks, z=None, *, samples=1, **kwargs):
        like = [torch.zeros(samples * len(masks), level.channels, *level.size(masks.shape[-2:])) for level in self.spec]
        return self.means(masks.repeat(samples, 1, 1), like, torch.Generator())


@pytest.fixture(scope="module")
def prototypes(loud):
    return Prototypes(feataug.split(copy.deepcopy(loud).eval(), "encoder"))


def teach(model, kind="loud", *, generator=None, steps=80, loader=None, **kwargs):
    kwargs.setdefault("sources", ("real",))
    kwargs.setdefault("seeds", (0,))
    return feataug.teaching_score(
        model,
        "encoder",
        generator,
        loader or (lambda seed: planted(kind, seed + 10)),
        planted(kind, 2, 3),
        feataug.FinetuneConfig(num_steps=steps, lr=0.2, save_every=2),
        num_classes=CLASSES,
        device="cpu",
        progress=False,
        **kwargs,
    )


def figures(result, name, number=0):
    return {moment: result["seeds"][number][name][moment] for moment in ("before", "after")}


class Dropping(Net):
    """A decoder whose training draws random numbers."""

    def __init__(self):
        super().__init__()
        self.head.insert(2, nn.Dropout2d(0.2))


def text_of(kind, function):
    with pytest.raises(kind) as error:
        function()
    return str(error.value)
