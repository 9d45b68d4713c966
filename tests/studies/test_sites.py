"""Two sites: whose features and masks an arm is trained on, in which classes and order."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from feataug.data import seeded_loader
from feataug.training.batches import endless
from studies.own import sites
from studies.own.sites import AS_IDD, Both, Relabelled, Sites


def numbered(start, count):
    """Items that tell their own number, in the image and in the mask."""
    numbers = torch.arange(start, start + count)
    return TensorDataset(numbers.float().view(-1, 1, 1, 1), numbers.view(-1, 1, 1))


def test_camvid_s_classes_become_those_of_idd_and_void_stays():
    mask = torch.tensor([[*range(11), 255]])
    data = Relabelled([(torch.zeros(3, 1, 12), mask)], AS_IDD, ["a"])
    # Sky; building and tree; road; pavement; pole, sign and fence; car; pedestrian and bicyclist.
    assert data[0][1].tolist() == [[6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 2, 255]]
    assert len(data) == 1


def test_a_trainer_sees_both_loaders_in_step_and_other_batches_in_every_epoch():
    def both():
        return Both(seeded_loader(numbered(0, 10), 4, seed=3), seeded_loader(numbered(100, 30), 4, seed=3))

    assert len(both()) == 2
    read = [images.flatten().tolist() for images, masks in islice(endless(both()), 6)]
    assert all(len(batch) == 8 and max(batch[:4]) < 10 and min(batch[4:]) >= 100 for batch in read)
    # An epoch has as many batches as the shorter loader. Each epoch has another order; a second reading gives the same batches.
    assert len({tuple(batch) for batch in read}) == 6
    assert read == [images.flatten().tolist() for images, masks in islice(endless(both()), 6)]


@pytest.mark.parametrize("arm", sites.ARMS)
def test_an_arm_gets_its_own_sites_features_and_masks(arm, monkeypatch):
    """Batches of 12 + 12: row ``i`` is ``i``; a generated feature is the mask's number plus 1000 at CamVid's, 2000 at IDD-Lite's."""

    class Made:
        def __init__(self, extra):
            self.extra = extra

        def __call__(self, masks, *rest):
            return (masks[:, None].float() + self.extra,)

    monkeypatch.setattr(sites, "draw_latents", lambda generator, masks, rng: None)
    fitted = iter([Made(1000), Made(2000)])
    monkeypatch.setattr(sites, "ClassGaussians", SimpleNamespace(fit=lambda *args: next(fitted)))
    study = SimpleNamespace(
        generator=lambda site: Made({"camvid": 1000, "idd": 2000}[site]), cut=lambda: None, classes=range(7),
        train={"camvid": numbered(0, 12), "idd": numbered(0, 12)},
    )  # fmt: skip
    rows = torch.arange(24)
    features, masks = Sites.source(study, arm)(rows.view(24, 1, 1), (rows.float().view(24, 1, 1, 1),), torch.Generator())
    mixed = [*range(6), *range(12, 18)]
    wanted = {"camvid alone": [*range(12)], "idd alone": [*range(12, 24)]}.get(arm, mixed)
    assert masks.flatten().tolist() == wanted
    extra = (0, 0) if "real" in arm or "alone" in arm else (1000, 2000)
    assert features[0].flatten().tolist() == [row + extra[row >= 12] for row in wanted]
