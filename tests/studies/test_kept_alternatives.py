"""What else one could do with kept features: pasting and noise keep features and labels together, and other losses take the loss's place."""

from __future__ import annotations

import pytest
import torch

from feataug.losses import segmentation_loss
from studies.lib.kept_alternatives import Noisy, Pasted, alternatives, frequency_weights
from studies.lib.kept_features import KeptFeatures

CLASSES = 4


def kept(count=12):
    """Samples whose features say for every cell which sample and place it is; two levels, of 2 and 4 pixels a cell."""
    rng = torch.Generator().manual_seed(0)
    # Labels are constant in each cell of the coarsest level.
    labels = torch.randint(CLASSES, (count, 4, 6), generator=rng).repeat_interleave(4, 1).repeat_interleave(4, 2)
    number = torch.arange(count).view(-1, 1, 1, 1).float()
    fine = torch.cat([number.expand(-1, 1, 8, 12), labels[:, None, ::2, ::2].float()], 1)
    coarse = torch.cat([number.expand(-1, 1, 4, 6), labels[:, None, ::4, ::4].float()], 1)
    return KeptFeatures((fine, coarse), labels)


def drawn(source, seed=0, count=12):
    masks = torch.full((count, 16, 24), 77)
    return source(masks, (torch.zeros(count, 2, 8, 12), torch.zeros(count, 2, 4, 6)), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["CutMix", "ClassMix"])
def test_a_pasted_region_has_features_and_labels_of_one_sample(name):
    shares = []
    for seed in range(20):
        (fine, coarse), masks = drawn(Pasted(kept(), name), seed)
        # Label and origin agree in every cell, on both levels.
        assert torch.equal(fine[:, 1], masks[:, ::2, ::2].float())
        assert torch.equal(coarse[:, 1], masks[:, ::4, ::4].float())
        assert torch.equal(fine[:, 0, ::2, ::2], coarse[:, 0])
        plain = kept()
        for sample in range(12):
            origins = coarse[sample, 0].unique()
            assert len(origins) <= 2
            for origin in origins.long().tolist():
                here = (coarse[sample, 0] == origin).repeat_interleave(4, 0).repeat_interleave(4, 1)
                assert torch.equal(masks[sample][here], plain.masks[origin][here])
            shares.append(float((coarse[sample, 0] != coarse[sample, 0].mode().values.mode().values).float().mean()))
    changed = [share for share in shares if share]
    assert 0.3 < len(changed) / len(shares) < 0.7
    assert 0.2 < sum(changed) / len(changed) < 0.6


def test_a_pasted_region_depends_on_the_generator_alone():
    torch.manual_seed(1)
    first = drawn(Pasted(kept(), "CutMix"), 3)[1]
    torch.manual_seed(2)
    assert torch.equal(first, drawn(Pasted(kept(), "CutMix"), 3)[1])
    assert not torch.equal(first, drawn(Pasted(kept(), "CutMix"), 4)[1])


def test_noise_has_the_size_of_each_channels_spread():
    plain = KeptFeatures((torch.randn(40, 2, 8, 8) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1),), torch.zeros(40, 16, 16, dtype=torch.long))
    source = Noisy(plain, 0.5)
    rng = [torch.Generator().manual_seed(0) for _ in range(2)]
    masks = torch.zeros(40, 16, 16, dtype=torch.long)
    (noisy,), labels = source(masks, (), rng[0])
    (clean,), same = plain(masks, (), rng[1])
    assert torch.equal(labels, same)
    assert (noisy - clean).std((0, 2, 3)).tolist() == pytest.approx([0.5, 5.0], rel=0.1)


def test_frequency_weights_favour_rare_classes_and_leave_the_mean_loss_as_it_is():
    masks = torch.tensor([0] * 90 + [1] * 9 + [3] + [255] * 20)
    weights = frequency_weights(masks, 4)
    assert weights[3] > weights[1] > weights[0]
    assert float(weights[1] / weights[0]) == pytest.approx(10**0.5, rel=1e-5)
    valid = masks[masks != 255]
    assert float(weights[valid].mean()) == pytest.approx(1, abs=1e-5)
    assert frequency_weights(masks, 4, 0.0).tolist() == pytest.approx([1.0] * 4)


def test_every_alternative_is_named_identified_and_brings_the_same_samples_or_changed_ones():
    source = kept()
    found = alternatives(source, torch.tensor([1.0, 2, 3, 4]))
    assert list(found) == [
        "kept, CutMix", "kept, ClassMix", "kept, noise", "kept, label smoothing", "kept, OHEM", "kept, class weights",
    ]  # fmt: skip
    assert len({str(one.settings()) for one in found.values()}) == len(found)
    out, masks = torch.randn(2, CLASSES, 4, 6), source.masks[:2]
    plain = segmentation_loss(out, masks)
    for name in ("kept, label smoothing", "kept, OHEM", "kept, class weights"):
        (fine, _), labels = drawn(found[name])
        (same, _), others = drawn(source)
        assert torch.equal(fine, same)
        assert torch.equal(labels, others)
        loss = found[name].decoder_loss(out, masks)
        assert loss.isfinite()
        assert float(loss) != pytest.approx(float(plain), rel=1e-3)
    weighted = found["kept, class weights"].decoder_loss(out, torch.full_like(masks, 2))
    assert float(weighted) == pytest.approx(3 * float(segmentation_loss(out, torch.full_like(masks, 2))), rel=1e-5)
