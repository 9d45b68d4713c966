"""The recipes in docs/cut.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import feataug
from tests.support import model_zoo

PAGE = (Path(__file__).parents[2] / "docs" / "cut.md").read_text()
RECIPES = re.findall(r"```python\n(.*?)```", PAGE.partition("## Recipes")[2], re.DOTALL)


def surroundings(recipe):
    """What a reader has before the recipe starts."""
    images, masks = torch.rand(2, 3, 64, 64), torch.randint(model_zoo.CLASSES, (2, 64, 64))
    names = {"feataug": feataug, "images": images, "masks": masks}
    for package, name in (("timm", "timm"), ("segmentation_models_pytorch", "smp"), ("torchvision", "torchvision")):
        if f"{name}." in recipe:
            names[name] = pytest.importorskip(package)
    if "decoder=decoder" in recipe:
        pair = model_zoo.OwnPair()
        names |= {"encoder": pair.encoder, "decoder": pair.decoder}
    if "decoder=head" in recipe:
        names["head"] = LastMap()
    if "vit_segmenter" in recipe:
        names["vit_segmenter"] = model_zoo.TimmViT()
    if "segformer" in recipe:
        pytest.importorskip("transformers")
        names["segformer"] = model_zoo.ZOO["transformers Segformer"][0]().eval()
        names["mixed_masks"] = torch.cat([masks, masks[:1]])
        names["synthetic"] = [torch.rand(1, c, 64 // r, 64 // r) for c, r in ((8, 4), (16, 8), (20, 16), (32, 32))]
    if "mmseg_model" in recipe:
        names["mmseg_model"] = model_zoo.EncoderDecoderMM(neck=True, auxiliary=True)
    return names


class LastMap(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(256, model_zoo.CLASSES, 1)

    def forward(self, features, image_size):
        return nn.functional.interpolate(self.conv(features[-1]), image_size)


def test_there_are_recipes():
    assert len(RECIPES) == 7


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda text: text.strip().splitlines()[0][:60])
def test_a_recipe_runs_as_it_stands(recipe):
    names = surroundings(recipe)
    exec(recipe, names)
    cut, images = names["cut"], names["images"]
    cut.model.eval()
    with torch.no_grad():
        features = cut.encode(images)
        assert [f.shape[1] for f in features] == list(cut.spec.channels)
        if "loss" in recipe and "mmseg" not in recipe:
            assert names["loss"].isfinite()
        if "mode" not in recipe:
            out, plain = cut.decode(features, (64, 64)), cut.model(images)
            assert torch.equal(tree_leaves(out)[0], tree_leaves(plain)[0])
