"""What the loops take from accelerate: precision and trackers. Processes of their own, since accelerate keeps one state in each."""

from tests.support import forks
from tests.support.small_generators import PRESETS

SCRIPT = """
import math, sys, torch, feataug
from tests.support.small_generators import PRESETS, small_config, small_generator
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.models import PSPNet
from feataug.errors import ConfigError

data = Scenes(4, (32, 48), transforms=eval_transforms())
loader = seeded_loader(data, 4)
model = PSPNet("test_resnet", 10, output_stride=8, width=8)
cut = feataug.split(model, at="encoder.layer2.0")
dtypes = set()
for preset in PRESETS:
    generator = small_generator(10, cut.spec, preset)
    inner = generator.velocity_net.scales[0].blocks[0] if preset == "flow" else generator.unet.heads[0]
    hook = inner.register_forward_hook(lambda module, args, out: dtypes.add((preset, module.training, out.dtype)))
    config = small_config(preset, num_images=8, stats_images=4, log_images=4, mixed_precision="bf16", trackers=("tensorboard",))
    trainer = feataug.GeneratorTrainer(generator, cut, config, output=f"{sys.argv[1]}/{preset}", device="cpu", progress=False)
    results = trainer.fit(loader, loader)
    hook.remove()
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in generator.parameters())
    assert all(math.isfinite(line[name]) for line in trainer.run.history() for name in ("flow", "l1") if name in line)
    print(preset, "diversity", results[-1]["diversity"] > 0, "held out", math.isfinite(results[-1].get("held_out", 0)))
print("in training", all((preset, True, torch.bfloat16) in dtypes for preset in PRESETS))
try:
    feataug.Finetuner(model, feataug.FinetuneConfig(mixed_precision="no"), device="cpu")
except ConfigError as error:
    print(str(error).splitlines()[0])
for preset in PRESETS:
    mixer = feataug.FeatureMixer(small_generator(10, cut.spec, preset), feataug.DatasetMasks(data), ratio=0.5)
    further = feataug.FinetuneConfig(num_steps=2, lr=0.01, mixed_precision="bf16")
    tuner = feataug.Finetuner(model, further, mixer=mixer, cut=cut, device="cpu", progress=False)
    print("finetuned", preset, tuner.fit(loader, loader, num_classes=10)[-1]["miou"] >= 0)
"""


def test_bf16_tensorboard_and_one_precision_per_process(tmp_path):
    done = forks.run(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "flow diversity True held out True",
        "bicyclegan diversity True held out True",
        "in training True",
        "feataug: accelerate refuses these settings.",
        "finetuned flow True",
        "finetuned bicyclegan True",
    ]
    assert all(list((tmp_path / preset).rglob("events.out.tfevents.*")) for preset in PRESETS)
