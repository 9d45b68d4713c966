"""What the loops take from accelerate: precision and trackers. Processes of their own, since accelerate keeps one state in each."""

from tests.support import forks

SCRIPT = """
import sys, torch, feataug
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.models import PSPNet
from feataug.errors import ConfigError

data = Scenes(4, (32, 48), transforms=eval_transforms())
loader = seeded_loader(data, 4)
model = PSPNet("test_resnet", 10, output_stride=8, width=8)
cut = feataug.split(model, at="encoder.layer2.0")
generator = feataug.FeatureGenerator(10, cut.spec, width=16, mask_widths=(6, 12))
config = feataug.GeneratorConfig(num_images=8, stats_images=4, log_images=4, mixed_precision="bf16", trackers=("tensorboard",))
results = feataug.GeneratorTrainer(generator, cut, config, output=sys.argv[1], device="cpu", progress=False).fit(loader, loader)
assert all(p.dtype == torch.float32 for p in generator.parameters())
print("diversity", results[-1]["diversity"] > 0)
try:
    feataug.Finetuner(model, feataug.FinetuneConfig(mixed_precision="no"), device="cpu")
except ConfigError as error:
    print(str(error).splitlines()[0])
mixer = feataug.FeatureMixer(generator, feataug.DatasetMasks(data), ratio=0.5)
further = feataug.FinetuneConfig(num_steps=2, lr=0.01, mixed_precision="bf16")
tuner = feataug.Finetuner(model, further, mixer=mixer, cut=cut, device="cpu", progress=False)
print("finetuned", tuner.fit(loader, loader, num_classes=10)[-1]["miou"] >= 0)
"""


def test_bf16_tensorboard_and_one_precision_per_process(tmp_path):
    done = forks.run(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["diversity True", "feataug: accelerate refuses these settings.", "finetuned True"]
    assert list(tmp_path.rglob("events.out.tfevents.*"))
