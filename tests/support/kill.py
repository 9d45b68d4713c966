"""Kill trainings at random moments, run them again, compare: ``python -m tests.support.kill --kills 50``.

Each trial starts a training in a process of its own, sends SIGKILL after a random time, perhaps more than once, runs the same training to its end,
and wants the weights of the undisturbed run, bit for bit, and a folder without anything unreadable. By turns they train a
generator by flow matching, train one by BicycleGAN, and finetune with synthetic features and learned hard negatives.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from feataug import (
    FeatureGenerator,
    FeatureMixer,
    FinetuneConfig,
    Finetuner,
    GeneratorConfig,
    GeneratorTrainer,
    HardNegativeSampler,
    split,
)
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.training.checkpoint import checkpoints, load_checkpoint

SIZE, CLASSES = (32, 48), Scenes.num_classes
KINDS = ("generator", "bicyclegan", "finetune")


def make(kind: str, folder: Path | None) -> tuple[Finetuner | GeneratorTrainer, nn.Module]:
    """A trainer, and what it trains."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1))
    model = nn.Sequential(stem, nn.BatchNorm2d(24), nn.Conv2d(24, CLASSES, 1))
    cut = split(model, "0")
    lengths = {"num_images": 72, "stats_images": 12, "snapshot_images": 6, "log_images": 6}
    if kind == "bicyclegan":
        generator = FeatureGenerator(CLASSES, cut.spec, "bicyclegan", mask_widths=(12,), width=16, depth=1, latent_dim=2)
        config = GeneratorConfig.bicyclegan(critic_width=8, **lengths)
        return GeneratorTrainer(generator, cut, config, output=folder, device="cpu", progress=False), generator
    generator = FeatureGenerator(CLASSES, cut.spec, width=16, depth=1)
    if kind == "generator":
        config = GeneratorConfig(**lengths)
        return GeneratorTrainer(generator, cut, config, output=folder, device="cpu", progress=False), generator
    masks = HardNegativeSampler(data(), keep=6, learn=True)
    config = FinetuneConfig(num_steps=36, lr=0.05, save_every=2)
    mixer = FeatureMixer(generator, masks, 0.4, cut=cut)
    return Finetuner(model, config, mixer=mixer, cut=cut, output=folder, device="cpu", progress=False), model


def data() -> Scenes:
    """A few scenes."""
    return Scenes(13, SIZE, transforms=train_transforms(SIZE))


def train(kind: str, folder: Path) -> None:
    """Train to the end, and write a digest of the weights beside the run."""
    warnings.simplefilter("ignore")
    trainer, module = make(kind, folder)
    trainer.fit(seeded_loader(data(), 3, seed=1))
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    folder.with_suffix(".weights").write_text(digest.hexdigest())


def in_a_process(kind: str, folder: Path, kill_after: float | None = None) -> bool:
    """Train in a fork, which is killed after some seconds; whether it came to its end."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            train(kind, folder)
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def trial(kind: str, folder: Path, seconds: float, weights: str, rng: random.Random) -> str:
    """What went wrong, or nothing."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        in_a_process(kind, folder, rng.uniform(0, seconds))
    if not in_a_process(kind, folder):
        return "the run did not go on"
    if folder.with_suffix(".weights").read_text() != weights:
        return "other weights"
    left = sorted(file.name for file in folder.iterdir() if file.suffix not in (".safetensors", ".jsonl") and file.name != ".lock")
    if left:
        return f"left behind: {', '.join(left)}"
    for path in checkpoints(folder):
        load_checkpoint(path)
    return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="trials; each kills at least once")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a fork takes no threads along
    rng, failures = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as place:
        known = {}
        for kind in KINDS:
            began = time.monotonic()
            folder = Path(place) / f"undisturbed-{kind}"
            assert in_a_process(kind, folder), "the undisturbed run failed"
            known[kind] = (time.monotonic() - began, folder.with_suffix(".weights").read_text())
        for number in range(args.kills):
            kind = KINDS[number % len(KINDS)]
            folder = Path(place) / f"trial-{number}"
            wrong = trial(kind, folder, *known[kind], rng)
            failures += bool(wrong)
            print(f"{number + 1:>4} {kind:<10} {wrong or 'equal, bit for bit'}", flush=True)
            shutil.rmtree(folder)
    print(f"{args.kills - failures} of {args.kills} runs ended with the weights of the undisturbed run")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
