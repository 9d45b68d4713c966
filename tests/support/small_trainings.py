"""Three small trainings that can be interrupted before any batch."""


import torch
from torch import nn

from feataug import FinetuneConfig, Finetuner, GeneratorTrainer, split
from feataug.data import Scenes, seeded_loader, train_transforms
from tests.support.small_generators import small_config, small_generator

SIZE, CLASSES = (32, 48), Scenes.num_classes


def finetuner(folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, CLASSES, 1))
    config = FinetuneConfig(num_steps=6, lr=0.05, save_every=2)
    return Finetuner(model, config, output=folder, device="cpu", progress=False), model


def flow_trainer(folder):
    return generator_trainer(folder, "flow")


def bicyclegan_trainer(folder):
    return generator_trainer(folder, "bicyclegan")


def generator_trainer(folder, preset):
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
    cut = split(nn.Sequential(stem, nn.Conv2d(12, CLASSES, 1)), "0")
    generator = small_generator(CLASSES, cut.spec, preset)
    config = small_config(preset, num_images=18, stats_images=6, snapshot_images=6)
    return GeneratorTrainer(generator, cut, config, output=folder, device="cpu", progress=False), generator


class Loader:
    """Batches of a seeded loader; does something before one of them."""

    def __init__(self, at=None, act=None):
        self.inner = seeded_loader(Scenes(7, SIZE, transforms=train_transforms(SIZE)), 3, seed=1)
        self.batch_sampler, self.at, self.act = self.inner.batch_sampler, at, act

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        for batch in self.inner:
            if self.at is not None:
                self.at -= 1
                if self.at < 0:
                    self.at = None
                    self.act()
            yield batch


def run(make, folder, loader=None):
    trainer, module = make(folder)
    trainer.fit(loader or Loader())
    return {name: value.clone() for name, value in module.state_dict().items()}


TRAININGS = (finetuner, flow_trainer, bicyclegan_trainer)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
