"""A file that cannot be read in the middle of an epoch: an error, or skipped and counted."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from feataug import FinetuneConfig, Finetuner
from feataug.data import MaskedImages, eval_transforms, seeded_loader
from feataug.errors import ConfigError, DataError, FeatAugWarning

BROKEN = {2: b"no picture", 4: b""}


@pytest.fixture
def data(tmp_path):
    """Six images whose mask is their number everywhere; two cannot be read."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(tmp_path / f"masks/{number}.png")
    for number, content in BROKEN.items():
        (tmp_path / f"images/{number}.png").write_bytes(content)
    return MaskedImages(tmp_path / "images", tmp_path / "masks", [str(k) for k in range(6)], transforms=eval_transforms())


def test_by_default_the_error_names_the_file(data):
    with pytest.raises(DataError, match=r"^MaskedImages: a file cannot be decoded\.\n  given:   .*/images/2\.png"):
        list(seeded_loader(data, 2, shuffle=False))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:seeded_loader. skipped a sample")
def test_skipped_samples_are_replaced_by_the_next_and_counted(data, num_workers):
    loader = seeded_loader(data, 2, shuffle=False, num_workers=num_workers, on_bad_sample="skip")
    found = torch.cat([masks[:, 0, 0] for _, masks in loader])
    assert found.tolist() == [0, 1, 3, 3, 5, 5]
    assert loader.dataset.bad_samples == 2


def test_the_count_is_in_the_results(data):
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1))
    loader = seeded_loader(data, 3, on_bad_sample="skip")
    tuner = Finetuner(model, FinetuneConfig(num_steps=2, lr=0.01), device="cpu", progress=False)
    with pytest.warns(FeatAugWarning, match=r"^seeded_loader: skipped a sample: MaskedImages: a file cannot be decoded\."):
        (result,) = tuner.fit(loader, lambda model: {})
    assert result["bad_samples"] == loader.dataset.bad_samples > 0


def test_nothing_to_take_instead(data, tmp_path):
    for number in range(6):
        (tmp_path / f"images/{number}.png").write_bytes(b"")
    with pytest.warns(FeatAugWarning), pytest.raises(DataError, match=r"images/0\.png"):
        next(iter(seeded_loader(data, 2, shuffle=False, on_bad_sample="skip")))


def test_another_policy(data):
    with pytest.raises(ConfigError) as error:
        seeded_loader(data, 2, on_bad_sample="ignore")
    assert str(error.value) == "seeded_loader: unknown on_bad_sample.\n  given:   'ignore'\n  needed:  'raise' or 'skip'"
