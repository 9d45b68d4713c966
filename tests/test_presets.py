"""The recommended settings fit the mixer and the comparison."""

import torch

from feataug import (
    DatasetMasks,
    FeatureGenerator,
    FeatureMixer,
    PixelFilter,
    deficit_weights,
    recommended,
    split,
)
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms

SIZE, CLASSES = (32, 48), Scenes.num_classes


def make(tiny_net):
    net = tiny_net(CLASSES)
    cut = split(net, at="body")
    data = Scenes(6, SIZE, transforms=train_transforms(SIZE))
    return net, cut, data, seeded_loader(Scenes(6, SIZE, transforms=eval_transforms()), 4, shuffle=False)


def test_what_is_recommended(tiny_net):
    net, cut, data, loader = make(tiny_net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = recommended(cut, data, loader, CLASSES, power=0.5, factor=2.0, ratio=0.5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert isinstance(found["masks"], DatasetMasks)
    assert isinstance(found["pixel_filter"], PixelFilter)
    assert found["pixel_filter"].factor == 2.0
    assert found["pixel_filter"].cut.model is not net
    torch.testing.assert_close(found["class_weights"], deficit_weights(net, loader, CLASSES, 0.5))
    generator = FeatureGenerator(CLASSES, cut.spec, mask_widths=(4,), width=4, depth=0)
    mixer = FeatureMixer(generator, cut=cut, **found)
    images, targets = next(iter(loader))
    with mixer.on(cut, targets) as batch:
        out = net(images)
    assert batch.num_synthetic == 4
    assert mixer.loss(out, batch).isfinite()
