"""Generators and checkpoints that an earlier version saved still load; saved/README.md says how they were made."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from feataug import FeatureGenerator
from feataug.training.checkpoint import checkpoints, load_checkpoint
from tests.io.saved import make

SAVED = Path(__file__).parent / "saved"


def expected():
    return load_file(SAVED / "expected.safetensors")


def test_the_generator_loads_and_gives_the_stored_output():
    cut, _ = make.setup()
    generator = FeatureGenerator.from_pretrained(SAVED / "generator", cut=cut, num_classes=make.CLASSES).eval()
    assert generator.card == {"images": 8}
    (mask, *_), z = [mask for _, mask in make.data()], torch.linspace(-1, 1, generator.latent_dim)[None]
    with torch.no_grad():
        (output,) = generator(mask[None], z)
    torch.testing.assert_close(output, expected()["output"], rtol=1e-4, atol=1e-5)


def test_a_generator_whose_settings_were_left_to_the_preset_loads_and_is_saved_under_its_new_name(tmp_path):
    """Earlier versions saved the preset's name and nothing of what it stands for."""
    cut, _ = make.setup()
    for preset, earlier in (("bicyclegan", "default"), ("paper", "paper")):
        torch.manual_seed(0)
        generator = FeatureGenerator(make.CLASSES, cut.spec, preset)
        generator.save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        del config["steps"]
        file.write_text(json.dumps(config | {"preset": earlier, "depth": None, "mask_widths": None, "modulation": None}))
        found = FeatureGenerator.from_pretrained(tmp_path, cut=cut)
        assert found.preset == preset
        assert all(torch.equal(value, found.state_dict()[name]) for name, value in generator.state_dict().items())
        found.save_pretrained(tmp_path)
        assert json.loads(file.read_text()) == config | {"steps": None}


@pytest.mark.parametrize("trainer", [make.generator_trainer, make.finetuner])
@pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
def test_a_training_goes_on_from_the_checkpoint_and_ends_with_the_stored_weights(tmp_path, trainer):
    (packed,) = SAVED.glob(f"{trainer.__name__}-checkpoint-*.gz")
    path = tmp_path / packed.name.removeprefix(f"{trainer.__name__}-").removesuffix(".gz")
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    training, module = trainer(tmp_path)
    before = load_checkpoint(path)[1]["state"]["generator" if trainer is make.generator_trainer else "model"]
    steps = []
    module.register_forward_pre_hook(lambda *_: steps.append(module.training))
    training.fit(make.loader())
    # Half of the training is left: two steps. The generator is also called for its moving average's check of diversity.
    assert steps.count(True) == 2
    found, wanted = module.state_dict(), expected()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[f"{trainer.__name__}/{name}"], rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(value, found[name], rtol=1e-3, atol=1e-4) for name, value in before.items())
    assert checkpoints(tmp_path)[-1] == path
    assert len(checkpoints(tmp_path)) == 2
