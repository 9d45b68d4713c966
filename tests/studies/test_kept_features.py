"""Features that were encoded once: what a decoder is given of them, alone, mirrored, and with another source beside them."""

import torch
from torch import nn

from feataug import split
from studies.lib.kept_features import HalfAndHalf, KeptFeatures

MASKS = torch.arange(10)[:, None, None].expand(10, 8, 8).clone()
MASKS[:, :, 4:] += 100  # so that left and right differ


def kept(**options):
    """Ten samples whose features say which they are, at left, and which plus 100, at right."""
    return KeptFeatures((MASKS[:, None, ::4, ::4].float(),), MASKS, **options)


def draw(source, count=4, seed=0):
    given = torch.full((count, 8, 8), 77)
    return source(given, (torch.full((count, 1, 2, 2), 77.0),), torch.Generator().manual_seed(seed))


def test_samples_are_drawn_without_repetition_with_their_own_masks():
    (features,), masks = draw(kept())
    assert torch.equal(features[:, 0], masks[:, ::4, ::4].float())
    assert len(set(masks[:, 0, 0].tolist())) == 4
    assert set(draw(kept(), 10)[1][:, 0, 0].tolist()) == set(range(10))
    assert torch.equal(draw(kept())[1], masks)
    assert not torch.equal(draw(kept(), seed=1)[1], masks)


def test_a_mirrored_sample_is_mirrored_with_its_mask():
    (features,), masks = draw(kept(flipped=True), 10)
    assert torch.equal(features[:, 0], masks[:, ::4, ::4].float())
    mirrored = masks[:, 0, 0] >= 100
    assert 0 < int(mirrored.sum()) < 10


def test_half_of_a_batch_comes_from_each_source():
    class Other(nn.Module):
        def forward(self, masks, real, rng):
            return tuple(level + 1 for level in real)  # for the masks that it is given

        def settings(self):
            return {"other": 1}

    both = HalfAndHalf(kept(), Other())
    (features,), masks = draw(both, 5)
    assert features.shape == (5, 1, 2, 2)
    assert torch.equal(features[:2, 0], masks[:2, ::4, ::4].float())
    assert torch.equal(features[2:], torch.full((3, 1, 2, 2), 78.0))
    assert torch.equal(masks[2:], torch.full((3, 8, 8), 77))
    assert both.settings() == {"first": kept().settings(), "second": {"other": 1}}


def test_every_batch_of_the_loader_is_encoded_once(tiny_net):
    cut = split(tiny_net().train(), "body")
    batches = [(torch.rand(3, 3, 16, 16), torch.zeros(3, 16, 16, dtype=torch.long)) for _ in range(2)]
    found = KeptFeatures.encode(cut, batches)
    cut.model.eval()
    with torch.no_grad():
        assert torch.equal(found.features[0], torch.cat([cut.encode(images)[0] for images, _ in batches]))
    assert len(found.masks) == 6
    assert found.bytes_in_float16 == 2 * 6 * 16 * 4 * 4


def test_other_features_are_another_source():
    settings = kept().settings()
    assert settings == kept().settings()
    assert settings != kept(flipped=True).settings()
    assert settings != KeptFeatures((MASKS[:, None, ::4, ::4] + 1.0,), MASKS).settings()
