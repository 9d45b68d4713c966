"""What identifies a source of the teaching study."""

import torch

from feataug import DatasetMasks, FeatureGenerator
from feataug.core.specs import FeatureSpec, LevelSpec
from studies.own.teaching import GeneratorSource


def test_a_source_is_identified_by_weights_steps_and_masks(tmp_path):
    spec = FeatureSpec((LevelSpec("layer", 4, 4),))
    generator = FeatureGenerator(2, spec, width=8, depth=1)
    folders = {steps: tmp_path / f"{steps}-model" for steps in (2, 4)}
    for steps, folder in folders.items():
        generator.steps = steps
        generator.save_pretrained(folder)
    found = [GeneratorSource(folder).settings() for folder in folders.values()]
    # The same weights, which give other samples in more steps.
    assert found[0]["generator"] == found[1]["generator"]
    assert found[0] != found[1]
    assert GeneratorSource(folders[2]).settings() == found[0]
    masks = DatasetMasks(torch.zeros(3, 16, 16, dtype=torch.long))
    assert GeneratorSource(folders[2], masks).settings() != found[0]
