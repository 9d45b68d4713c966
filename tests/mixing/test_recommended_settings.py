"""The recommended settings fit the mixer and the comparison."""

import warnings

import pytest
import torch
from torch import nn

from feataug import DatasetMasks, FeatureGenerator, FeatureMixer, PixelFilter, deficit_weights, recommended, split
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms

SIZE, CLASSES = (32, 48), Scenes.num_classes


def make(tiny_net):
    net = tiny_net(CLASSES)
    cut = split(net, at="body")
    data = Scenes(6, SIZE, transforms=train_transforms(SIZE))
    return net, cut, data, seeded_loader(Scenes(6, SIZE, transforms=eval_transforms()), 4, shuffle=False)


@pytest.mark.filterwarnings("ignore:recommended")
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
    generator = FeatureGenerator(CLASSES, cut.spec, width=4, depth=1)
    mixer = FeatureMixer(generator, cut=cut, **found)
    images, targets = next(iter(loader))
    with mixer.on(cut, targets) as batch:
        out = net(images)
    assert batch.num_synthetic == 4
    assert mixer.loss(out, batch).isfinite()


def test_by_default_there_are_no_class_weights_and_the_loader_is_read_once(tiny_net):
    _, cut, data, loader = make(tiny_net)
    passes = []

    class Counted:
        def __iter__(self):
            passes.append(True)
            return iter(loader)

    found = recommended(cut, data, Counted(), CLASSES)
    assert found["class_weights"] is None
    assert len(passes) == 1


class Reads(nn.Module):
    """Takes the first channel of an image for its labels, but for class 3, of which it finds every ``share``-th column."""

    def __init__(self, share):
        super().__init__()
        self.body, self.share, self.scale = nn.Identity(), share, nn.Parameter(torch.ones(()))

    def forward(self, images):
        labels = self.body(images)[:, 0].long()
        kept = torch.arange(labels.shape[-1]) % self.share == 0
        return self.scale * nn.functional.one_hot(torch.where((labels == 3) & ~kept, 0, labels), CLASSES).movedim(-1, 1).float()


@pytest.mark.parametrize(("share", "power", "warns"), [(8, 1.5, False), (16, 1.5, True), (16, 0, False)])
def test_classes_that_the_model_has_not_learned(share, power, warns):
    masks = torch.randint(0, 3, (2, 32, 48))
    masks[:, :, :32] = 3  # of these 32 columns, 4 or 2 are predicted
    images = masks[:, None].float().expand(-1, 3, -1, -1)
    net = Reads(share)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = recommended(split(net, at="body", example=images), list(masks), [(images, masks)], CLASSES, power=power)
    assert (found["class_weights"] is None) is (power == 0)
    told = [str(entry.message) for entry in caught if str(entry.message).startswith("recommended")]
    assert bool(told) is warns
    if warns:
        assert told == [
            "recommended: class weights for classes that the model has not learned.\n"
            "  given:   fewer than 1 pixel predicted for 8 labelled ones of classes 3; weights up to 22.6\n"
            "  needed:  a model that predicts every class, if too rarely\n"
            "Train it longer first, or expect pixel accuracy and perhaps mIoU to fall; power=0 goes without class weights."
        ]
