"""Features on disk: what is read is what was encoded, a stopped write goes on, damage is noticed."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from feataug import FeatureBank, GeneratorTrainer, split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.errors import DataError
from tests.support.small_generators import PRESETS, small_config, small_generator

SIZE, CLASSES = (32, 48), Scenes.num_classes


def make_cut():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
    return split(nn.Sequential(encoder, nn.Conv2d(12, CLASSES, 1)), "0")


def loader(count=7):
    return seeded_loader(Scenes(count, SIZE, transforms=train_transforms(SIZE)), 3, seed=1)


def write(folder, cut=None, images=13, source=None, **kwargs):
    kwargs = {"dtype": torch.float32, "shard_images": 5, "progress": False} | kwargs
    return FeatureBank.write(folder, cut or make_cut(), source or loader(), images, **kwargs)


def expected(cut, images):
    """Batches of the loader, epoch after epoch, encoded in eval mode."""
    items, epoch, batches = [], 0, loader()
    cut.model.eval()
    while len(items) < images:
        batches.batch_sampler.set_epoch(epoch)
        for pictures, masks in batches:
            if len(items) < images:
                with torch.no_grad():
                    (features,) = cut.encode(pictures)
                items += list(zip(features, masks, strict=True))
        epoch += 1
    return items


def test_what_is_read_is_what_was_encoded(tmp_path):
    cut = make_cut()
    before = {name: value.clone() for name, value in cut.model.state_dict().items()}
    cut.model.train()
    bank = write(tmp_path, cut)
    assert cut.model.training
    assert all(torch.equal(value, before[name]) for name, value in cut.model.state_dict().items())  # running statistics, too
    items = expected(cut, 13)
    assert len(bank) == len(items) == 15  # whole batches
    assert bank.spec == cut.spec
    for index, (features, mask) in enumerate(items):
        (level,), labels = bank[index]
        torch.testing.assert_close(level, features)
        assert level.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert torch.equal(labels, mask)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bank.json", *(f"shard-0000{n}.safetensors" for n in range(3))]
    with pytest.raises(IndexError):
        bank[15]


def test_half_precision_halves_the_file(tmp_path):
    whole, half = write(tmp_path / "a"), write(tmp_path / "b", dtype=torch.bfloat16)
    a, b = whole[4][0][0], half[4][0][0]
    assert float((a - b).norm() / a.norm()) < 1e-2
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("shard-*")) for name in "ab"]
    assert sizes[1] < 0.75 * sizes[0]


class Stopping:
    """A loader that is interrupted at a batch."""

    def __init__(self, at):
        self.inner, self.left, self.batch_sampler = loader(), at, None
        self.batch_sampler = self.inner.batch_sampler

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        for batch in self.inner:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield batch


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_a_stopped_write_goes_on(tmp_path, at):
    whole = write(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b", source=Stopping(at))
    if (tmp_path / "b/bank.json").exists():
        with pytest.raises(DataError, match=r"^FeatureBank: the bank is incomplete\.\n  given:   \d+ of 13 images in "):
            FeatureBank(tmp_path / "b")
    again = write(tmp_path / "b")
    assert len(again) == len(whole)
    for index in range(len(whole)):
        assert torch.equal(again[index][0][0], whole[index][0][0])
        assert torch.equal(again[index][1], whole[index][1])
    # And one that is there is not written again.
    assert len(write(tmp_path / "b", source=Stopping(0))) == len(whole)


def test_other_settings_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError) as error:
        write(tmp_path, dtype=torch.float16)
    assert str(error.value) == (
        "FeatureBank: the folder holds a bank with other settings.\n  given:   dtype=float16\n  needed:  dtype=float32\nUse another folder."
    )


@pytest.mark.parametrize("place", [0.01, 0.5, 0.99])
def test_a_flipped_bit_is_noticed(tmp_path, place):
    write(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    bank = FeatureBank(tmp_path)
    bank[0]
    with pytest.raises(DataError, match=r"^FeatureBank: a file was altered after it was written\.\n  given:   .*shard-00001"):
        bank[len(bank) // 2]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "settings": {}, "shards": [], "complete": true}'])
def test_an_index_that_is_none(tmp_path, text):
    write(tmp_path)
    (tmp_path / "bank.json").write_text(text)
    with pytest.raises(DataError, match=r"^FeatureBank: the index cannot be read\.\n"):
        FeatureBank(tmp_path)


def test_no_bank_a_lost_file_and_another_format(tmp_path):
    with pytest.raises(DataError, match=r"^FeatureBank: no bank there\.\n"):
        FeatureBank(tmp_path)
    write(tmp_path)
    (tmp_path / "shard-00002.safetensors").unlink()
    bank = FeatureBank(tmp_path)
    with pytest.raises(DataError, match=r"^FeatureBank: a file cannot be read\.\n"):
        bank[14]
    index = json.loads((tmp_path / "bank.json").read_text())
    (tmp_path / "bank.json").write_text(json.dumps(index | {"format": 2}))
    with pytest.raises(DataError, match=r"^FeatureBank: another format\.\n  given:   .*, format 2\n  needed:  format 1"):
        FeatureBank(tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_generator_learns_the_same_from_a_bank(tmp_path, preset):
    """Batches in the bank's order are the loader's, encoded before: the same losses."""
    weights = []
    for name in ("images", "bank"):
        cut = make_cut()
        torch.manual_seed(1)
        generator = small_generator(CLASSES, cut.spec, preset)
        source = loader() if name == "images" else DataLoader(write(tmp_path, cut, images=12, shard_images=6), batch_size=3)
        config = small_config(preset, num_images=6, stats_images=6)
        trainer = GeneratorTrainer(generator, cut, config, device="cpu", progress=False)
        trainer.fit(source)
        weights.append([parameter.detach().clone() for parameter in generator.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_workers_open_the_files_for_themselves(tmp_path):
    bank = write(tmp_path)
    bank[0]
    batches = list(DataLoader(bank, batch_size=5, num_workers=1))
    assert sum(len(masks) for _, masks in batches) == len(bank)
    assert torch.equal(batches[0][0][0][0], bank[0][0][0])
