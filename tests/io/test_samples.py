"""Pictures that a run keeps: those of its images, masks and models, and never at the run's cost."""

import json

import pytest
import torch
from safetensors.torch import save_file

import feataug
from feataug.core.latents import draw_latents
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from feataug.errors import DataError, FeatAugWarning
from feataug.io.results import write_command
from feataug.io.samples import SAMPLES, keep_samples, read_samples
from tests.support.small_generators import PRESETS, small_generator

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (1, 2, 3))


def batches(count=6, size=(32, 48), seed=0):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 5, (count, *size), generator=rng)
    masks[:, :3] = 255
    return [(torch.randn(count, 3, *size, generator=rng), masks)]


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_kept_is_what_the_models_say(tmp_path, tiny_net, preset):
    net = tiny_net()
    cut = feataug.split(net, at="body")
    generator = small_generator(5, cut.spec, preset)
    generator.set_statistics([torch.zeros(16)], [torch.ones(16)])
    loader = batches()
    kept = keep_samples(
        tmp_path / "run" / SAMPLES, loader, {"mine": net}, cut=cut, generator=generator, classes="abcde", palette=PALETTE, count=3
    )
    read = read_samples(tmp_path / "run" / SAMPLES)
    (images, masks) = (part[:3] for part in loader[0])
    with torch.no_grad():
        net.eval()
        expected = net(images).argmax(1)
        z = draw_latents(generator, masks, torch.Generator().manual_seed(0), samples=2)
        made = generator.eval()(masks, z, samples=2)[0]
        synthetic = cut.decode((made[:3],), masks.shape[-2:]).argmax(1)
    assert torch.equal(read.predictions["mine"].long(), expected)
    assert torch.equal(read.predictions["real features"].long(), expected)
    assert torch.equal(read.predictions["synthetic features"].long(), synthetic)
    assert torch.equal(read.masks.long(), masks.where(masks != 255, -1))
    assert list(read.colors) == ["real", "synthetic, z1", "synthetic, z2"]
    assert read.colors["real"].shape == (3, 8, 12, 3)
    assert read.channels["real"].shape == (3, 4, 8, 12)
    features = cut.encode(images)[0].detach()
    spread = features.movedim(1, 0).flatten(1).std(1)
    assert read.about["shown"] == spread.topk(4).indices.tolist()
    assert not torch.equal(read.colors["synthetic, z1"], read.colors["synthetic, z2"])
    assert (read.about["classes"], read.about["palette"]) == (list("abcde"), [list(c) for c in PALETTE])
    assert read.about["level"] == "body"
    assert torch.equal(kept.images, read.images)
    assert (tmp_path / "run" / SAMPLES).stat().st_size < 60_000


def test_images_have_their_colours_again(tmp_path):
    plain, normal = Scenes(9, (32, 48)), Scenes(9, (32, 48), transforms=eval_transforms())
    samples = keep_samples(tmp_path / SAMPLES, seeded_loader(normal, 4, shuffle=False), units=(IMAGENET_MEAN, IMAGENET_STD))
    # Evenly over the set.
    for row, index in enumerate((0, 3, 5, 8)):
        image, mask = plain[index]
        assert torch.equal(samples.images[row].movedim(-1, 0), image)
        assert torch.equal(samples.masks[row].long(), mask.where(mask != 255, -1))


def test_without_units_colours_are_stretched(tmp_path):
    images = torch.rand(2, 3, 16, 16) * 1000 - 300
    samples = keep_samples(tmp_path / SAMPLES, [(images, torch.zeros(2, 16, 16, dtype=torch.long))])
    assert (int(samples.images.min()), int(samples.images.max())) == (0, 255)
    assert samples.images.float().std() > 50


def test_large_pictures_are_made_smaller_alike(tmp_path):
    masks = torch.arange(700).div(70, rounding_mode="floor").expand(1, 500, 700).contiguous()
    images = (masks[:, None].float() / 10).expand(-1, 3, -1, -1).contiguous()
    samples = keep_samples(
        tmp_path / SAMPLES, [(images, masks)], {"m": lambda x: torch.zeros(1, 2, 500, 700)}, units=([0] * 3, [1] * 3)
    )
    assert samples.masks.shape == samples.predictions["m"].shape == samples.images.shape[:3]
    assert max(samples.masks.shape) <= 320
    agree = (samples.images[..., 0].float() / 25.5 - samples.masks).abs() < 0.1
    assert agree.float().mean() > 0.95


def test_nothing_else_changes(tmp_path, tiny_net):
    net = tiny_net().train()
    net.head.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    keep_samples(tmp_path / SAMPLES, batches(), {"a": net})
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("loader", "model", "said"),
    [
        (batches(), lambda images: 1 / 0, "ZeroDivisionError: division by zero"),
        ([], None, "StopIteration: "),
        ([torch.zeros(1)], None, "ValueError: "),
        (None, None, "DataError: samples: the loader cannot be read."),
    ],
)
def test_what_goes_wrong_is_a_warning(loader, model, said, tmp_path):
    with pytest.warns(FeatAugWarning, match=f"^keep_samples: no pictures were kept: {said}"):
        assert keep_samples(tmp_path / SAMPLES, loader, {"m": model} if model else None) is None
    assert list(tmp_path.iterdir()) == []


def good():
    return {"images": torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "masks": torch.zeros(1, 4, 4, dtype=torch.int16)}


@pytest.mark.parametrize(
    ("change", "header", "said"),
    [
        ({}, None, "KeyError: 'feataug'"),
        ({}, '{"format": 9}', "ValueError: another format"),
        ({}, "[]", "ValueError: another format"),
        ({}, "{", "JSONDecodeError: "),
        (
            {"images": torch.zeros(1, 4, 4, 3)},
            '{"format": 1}',
            "ValueError: [1, 4, 4, 3] torch.float32 where [1, 4, 4, 3] torch.uint8",
        ),
        ({"masks": torch.zeros(1, 4, dtype=torch.int16)}, '{"format": 1}', "ValueError: not enough values to unpack"),
        (
            {"predictions/a": torch.zeros(2, 4, 4, dtype=torch.int16)},
            '{"format": 1}',
            "ValueError: [2, 4, 4] torch.int16 where [1, 4, 4]",
        ),
        ({"channels/a": torch.zeros(1, 4, dtype=torch.uint8)}, '{"format": 1}', "ValueError: the channels are not maps"),
        ({"colors/a": torch.zeros(1, 4, 2000, 3, dtype=torch.uint8)}, '{"format": 1}', "ValueError: [1, 4, 2000, 3]"),
    ],
)
def test_a_file_of_another_kind_is_one_error(change, header, said, tmp_path):
    path = tmp_path / SAMPLES
    save_file(good() | change, path, {"feataug": header} if header else None)
    with pytest.raises(DataError) as error:
        read_samples(path)
    lines = str(error.value).splitlines()
    assert lines[0] == "feataug: pictures of a run cannot be read."
    assert lines[1].startswith(f"  given:   {path} ({said}")
    assert lines[2:] == ["  needed:  the samples.safetensors that a command wrote", "Delete it and run that command again."]
    save_file(good(), path, {"feataug": json.dumps({"format": 1})})
    assert read_samples(path).images.shape == (1, 4, 4, 3)


def test_how_a_command_was_called(tmp_path):
    options = {"command": "finetune", "output": tmp_path, "seed": 3, "quiet": True, "traceback": False, "data": tmp_path / "x"}
    stored = json.loads(write_command(options, 0.0, finished=False).read_text())
    assert stored["command"] == "finetune"
    assert stored["arguments"] == {"output": str(tmp_path), "seed": 3, "data": str(tmp_path / "x")}
    assert stored["versions"]["feataug"]
    assert stored["seconds"] > 0
    assert not stored["finished"]
    assert write_command(options | {"output": tmp_path / "none"}, 0.0, finished=True) is None
    assert write_command({"command": "inspect", "output": None}, 0.0, finished=True) is None
