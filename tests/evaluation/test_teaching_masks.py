"""Sources of a teaching score that bring masks of their own, or a loss."""

from __future__ import annotations

import pytest
import torch

import feataug
from feataug.errors import LabelError, ShapeError
from feataug.evaluation import ClassGaussians
from feataug.losses import segmentation_loss
from tests.support.teaching_runs import CLASSES, SIZE, loud, planted  # noqa: F401

CONFIG = feataug.FinetuneConfig(num_steps=60, lr=0.1)


def score(model, source):
    return feataug.teaching_score(
        model, "encoder", None, lambda seed: planted("loud", 10 + seed), planted("loud", 2), CONFIG, seeds=[0], sources=("real",),
        others={"own": source}, window=None, num_classes=CLASSES, device="cpu", progress=False,
    )  # fmt: skip


class OwnMasks:
    """Features of class Gaussians for masks that are shifted by ``told`` labels against those that they are made for."""

    def __init__(self, model, told=0):
        self.draw = ClassGaussians.fit(feataug.split(model, "encoder"), planted("loud", 1), CLASSES)
        self.told = told

    def __call__(self, masks, real, rng):
        own = torch.randint(CLASSES, (len(masks), SIZE[0] // 4, SIZE[1] // 4), generator=rng)
        own = own.repeat_interleave(4, 1).repeat_interleave(4, 2)
        return self.draw(own, real, rng), (own + self.told) % CLASSES


def test_a_decoder_learns_the_masks_that_its_source_tells(loud):  # noqa: F811
    assert score(loud, OwnMasks(loud))["score"]["own"]["after"] > 0.9


def test_wrong_masks_teach_wrong_classes(loud):  # noqa: F811
    assert score(loud, OwnMasks(loud, told=1))["score"]["own"]["before"] < 0.1


def test_masks_of_another_size_are_refused(loud):  # noqa: F811
    def smaller(masks, real, rng):
        return real, masks[:, :8]

    with pytest.raises(ShapeError) as caught:
        score(loud, smaller)
    assert str(caught.value) == (
        "teaching_score: source 'own': its masks have another size.\n"
        "  given:   [4, 8, 24] int64 on cpu\n"
        "  needed:  [n, 16, 24]"
    )


def test_labels_that_are_no_class_are_refused(loud):  # noqa: F811
    def beyond(masks, real, rng):
        return real, masks + CLASSES

    with pytest.raises(LabelError, match="teaching_score: source 'own': a mask holds labels that are no class"):
        score(loud, beyond)


class OwnLoss:
    """Real features, and a loss for labels that are shifted by ``told``."""

    def __init__(self, told=0):
        self.told, self.seen = told, 0

    def __call__(self, masks, real, rng):
        return real, masks.flip(-1)  # which are others than those of the batch

    def decoder_loss(self, out, masks):
        self.seen += 1
        return segmentation_loss(out, (masks.flip(-1) + self.told) % CLASSES)


def test_a_source_may_have_a_loss_of_its_own_which_gets_its_masks(loud):  # noqa: F811
    source = OwnLoss()
    found = score(loud, source)
    (runs,) = found["seeds"]
    assert source.seen == CONFIG.num_steps
    assert runs["own"]["before"] == runs["real"]["before"]
    assert score(loud, OwnLoss(told=1))["score"]["own"]["before"] < 0.1
