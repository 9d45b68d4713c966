"""Generator training and finetuning, small, as one process or as one of several: what test_processes.py compares.

RANK=.. WORLD_SIZE=.. python -m tests.support.distributed_run FOLDER BATCH IMAGES STEPS MODE [MODE ...]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

import feataug
from feataug.core.distributed import rank_and_world
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from tests.support.small_generators import small_config, small_generator

SIZE, CLASSES = (32, 48), Scenes.num_classes
# Planted faults: every process counts its own pixels alone; every process draws the noise of the first.
FAULTS = {
    "deaf": ("feataug.losses.all_reduce_sum", lambda value: value),
    "same noise": ("feataug.training.flow_matching.local_slice", lambda: slice(0, None, rank_and_world()[1])),
}
TERMS = {"flow": {}, "bicyclegan": {"task_weight": 1.0, "task_balance": 0.5, "diversity_weight": 0.1}}


class Model(nn.Module):
    """Norms that look at the whole batch would see another one in each process, and SyncBatchNorm has no CPU form: none of those."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        )  # fmt: skip
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(12, CLASSES, 1))

    def forward(self, images):
        return self.head(self.encoder(images))


class Voided(Scenes):
    """Another share of void in every image: a mean of the processes' means is not the mean."""

    def __getitem__(self, index):
        image, mask = super().__getitem__(index)
        mask[: 5 * (index % 6)] = 255
        return image, mask


def source(mode, data):
    plain = feataug.DatasetMasks(data)
    if mode not in ("mined", "learned"):
        return plain
    return feataug.HardNegativeSampler(plain, 10, 5, 2, learn=mode == "learned")


def stop_before_step(objective, images):
    """A SIGTERM to this process at the step after so many images."""
    step = objective.step

    def stopped(batch, masks, seen):
        if seen == images:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch, masks, seen)

    objective.step = stopped


def run(folder, batch, images, steps, mode):
    """Train both; weights go to ``folder/weights-RANK.pt``, figures of the main process to ``folder/results.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    loader = seeded_loader(Voided(26, SIZE, transforms=train_transforms(SIZE)), batch, seed=1)
    val = seeded_loader(Voided(7, SIZE, transforms=eval_transforms()), 3, shuffle=False)
    cut = feataug.split(Model(), at="encoder")
    preset = "bicyclegan" if mode == "bicyclegan" else "flow"
    generator = small_generator(CLASSES, cut.spec, preset)
    lengths = {"num_images": images, "stats_images": 24, "log_images": 12, "ema_images": 24, "snapshot_images": 12}
    config = small_config(preset, **lengths, **TERMS[preset])
    trainer = feataug.GeneratorTrainer(generator, cut, config, output=folder / "generator", device="cpu", progress=False)
    if "STOP_AT" in os.environ and rank_and_world()[0] == 1:
        stop_before_step(trainer.objective, int(os.environ["STOP_AT"]))
    measured = trainer.fit(loader, val)
    masks = source(mode, loader.dataset.dataset)
    weights = torch.linspace(0.5, 2, CLASSES)
    kept = {"bank": 12, "fresh": 0.4} if mode == "bank" else {}
    mixer = feataug.FeatureMixer(generator, masks, ratio=0.4, label_smoothing=0.1, class_weights=weights, cut=cut, **kept)
    further = feataug.FinetuneConfig(num_steps=steps, lr=0.05, eval_every=2, save_every=1)
    tuner = feataug.Finetuner(cut.model, further, mixer=mixer, cut=cut, output=folder / "tuned", device="cpu", progress=False)
    tuned = tuner.fit(loader, val, num_classes=CLASSES)
    number, count = rank_and_world()
    state = {"generator": generator.state_dict(), "model": cut.model.state_dict(), "pool": getattr(masks, "pool", None)}
    torch.save(state, folder / f"weights-{number}.pt")
    if number == 0:
        (folder / "results.json").write_text(json.dumps({"processes": count, "generator": measured, "tuned": tuned}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    target, *numbers = sys.argv[1:5]
    for mode in sys.argv[5:]:
        with patch(*FAULTS[mode]) if mode in FAULTS else nullcontext():
            run(Path(target) / mode, *map(int, numbers), mode)
