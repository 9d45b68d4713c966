"""Generators of the U-Net: the paper's mask encoder, modulation by class, their settings."""

from __future__ import annotations

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import ConfigError
from feataug.generation.generator import FeatureGenerator
from feataug.generation.layers.unet import unet_widths

K = 11
ONE = FeatureSpec((LevelSpec("layer", 6, 8),))


def small(**kwargs):
    torch.manual_seed(0)
    return FeatureGenerator(K, ONE, "bicyclegan", **{"mask_widths": (6, 9, 12), "width": 8, "depth": 1, **kwargs}).eval()


def test_the_papers_mask_encoder():
    encoder = FeatureGenerator(K, ONE, "paper", width=8, depth=0).mask_encoder
    assert [sum(branch.weight.shape[0] for branch in stage.branches) for stage in encoder.stages] == [96, 192, 384]
    assert [[branch.dilation for branch in stage.branches] for stage in encoder.stages] == [[1, 2, 4]] + 2 * [
        [(1, 1), (2, 2), (4, 4)]
    ]
    masks = torch.randint(K, (1, 24, 40), generator=torch.Generator().manual_seed(0))
    assert encoder(masks).shape == (1, 384, 3, 5)


def test_noise_does_not_depend_on_the_masks_size():
    generator = small(latent_dim=3)
    z = generator.draw_z(2, torch.Generator().manual_seed(1))
    assert z.shape == (2, 3)
    assert torch.equal(z, generator.draw_z(2, torch.Generator().manual_seed(1), image_size=(40, 50)))
    assert generator.latent_size((8, 8)) == generator.latent_size((80, 8)) == 3


def test_fine_scales_are_narrow():
    # Half of the channels, of wide features a quarter.
    for channels, width in ((64, 128), (512, 256), (768, 256), (1024, 256), (2048, 512)):
        assert unet_widths([LevelSpec("x", channels, 8)], 8, 2, None) == [width, 2 * width, 2 * width]
    pyramid = [LevelSpec("x", c, r) for c, r in ((64, 2), (64, 4), (128, 8), (512, 32))]
    assert unet_widths(pyramid, 2, 1, None) == [32, 64, 128, 128, 256, 512]
    assert unet_widths(pyramid, 2, 0, 16) == [16, 32, 64, 64, 128]


def test_class_modulation_starts_as_none_and_then_acts_where_the_class_is():
    plain, classed = small(modulation="latent"), small(modulation="class")
    tables = [value for name, value in classed.named_parameters() if name.endswith(".table")]
    assert tables
    assert all(value.shape[0] == K + 1 for value in tables)  # void has a row of its own
    classed.load_state_dict(plain.state_dict(), strict=False)
    masks = torch.zeros(1, 64, 128, dtype=torch.long)
    masks[:, :, 64:] = 3
    z = classed.draw_z(1, torch.Generator().manual_seed(0))
    (before,) = classed(masks, z)
    torch.testing.assert_close(before, plain(masks, z)[0])
    with torch.no_grad():
        last = classed.unet.norms[0].table
        last[3] += 1.0
    (after,) = classed(masks, z)
    moved = (after - before).abs().sum(1)[0]  # 8 x 16 cells; the head sees one further
    assert moved[:, 8:].min() > 0
    assert moved[:, :7].max() == 0


ERRORS = {
    "modulation": (
        {"modulation": "spade"},
        "FeatureGenerator: no such modulation.\n  given:   'spade'\n  needed:  'none' or 'latent' or 'class'",
    ),
    "no width": ({"mask_widths": ()}, "FeatureGenerator: mask_widths is empty.\n  given:   ()\n  needed:  at least one width"),
    "a flow's setting": (
        {"steps": 2},
        "FeatureGenerator: steps is not a setting of this preset.\n  given:   steps=2, preset 'bicyclegan'\n"
        "  needed:  latent_dim, mask_widths, width, depth, modulation",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_messages(name):
    settings, text = ERRORS[name]
    with pytest.raises(ConfigError) as error:
        FeatureGenerator(K, ONE, "bicyclegan", **settings)
    assert str(error.value) == text
