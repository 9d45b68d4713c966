# %% [markdown]
# # A frozen ViT, each image encoded once
#
# **What you will see.** A timm ViT stays frozen, and only a head is trained. Then every image needs
# to be encoded only once: its features go to disk, and a step takes milliseconds. The price is that
# stored features cannot be augmented, so that the head learns 32 pictures by heart. A generator that
# was trained for this cut makes new features of the same masks in every step. In the end you will see
# how much of what fresh crops of the images would bring comes back.
#
# **How long it takes.** About five minutes on two CPU cores. Nothing is downloaded.
#
# **Install.** `pip install .` in a clone of the repository (Python 3.11 or newer);
# `pip install ".[notebooks]"` adds Jupyter.

# %%
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.reporting.plots import color_images, color_masks, draw_grid, feature_colors

QUICK = bool(os.environ.get("FEATAUG_QUICK"))  # set by the project's tests: a few steps of everything
torch.manual_seed(0)
size, batch_size = (64, 96), 8
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## What you have: a ViT, a head, 32 labelled scenes


# %%
class Segmenter(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, patch_size=8, depth=4)
        self.head = nn.Sequential(
            nn.Conv2d(192, 96, 3, padding=1, bias=False), nn.BatchNorm2d(96), nn.ReLU(), nn.Conv2d(96, 4 * num_classes, 1), nn.PixelShuffle(2)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows, columns = images.shape[-2] // 8, images.shape[-1] // 8
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        logits = self.head(tokens.transpose(1, 2).unflatten(2, (rows, columns)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


crops = train_transforms(size, scale=(1.0, 1.5))
train_set = Scenes(16 if QUICK else 32, size, seed=0, transforms=crops)
val_set = Scenes(8 if QUICK else 96, size, seed=1, transforms=eval_transforms())
loader = seeded_loader(train_set, batch_size)
val_loader = seeded_loader(val_set, batch_size, shuffle=False)
num_classes = train_set.num_classes
model = Segmenter(num_classes)

# %% [markdown]
# **In your project the ViT comes from the hub**, with `pretrained=True`, and has seen millions of
# images. Nothing is downloaded here, so this one learns from other scenes first. It stands for what
# somebody else has trained; from here on nothing but the 32 scenes is used.

# %%
elsewhere = seeded_loader(Scenes(16 if QUICK else 192, size, seed=5, transforms=crops), 16)
steps = 2 if QUICK else 200
optimizer = torch.optim.AdamW(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)


def endless(batches) -> Iterator:
    while True:
        yield from batches  # with another order and other crops in each pass


for _, (images, masks) in zip(range(steps), endless(elsewhere), strict=False):
    loss = F.cross_entropy(model(images), masks, ignore_index=255)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# %% [markdown]
# ## Cut, freeze, store
#
# A ViT is cut behind any of its blocks. The spec is a map of its patch tokens; prefix tokens stay
# inside. `freeze_encoder` freezes weights *and* norms and dropout, and `model.train()` leaves them
# frozen.

# %%
cut = feataug.split(model, at="vit.blocks.3", example=torch.zeros(1, 3, *size))
cut.freeze_encoder()
print(cut)
bank = feataug.FeatureBank.write(folder / "bank", cut, loader, len(train_set), progress=False)
megabytes = sum(file.stat().st_size for file in bank.folder.glob("*.safetensors")) / 1e6
print(f"{len(bank)} encoded images, {megabytes:.1f} MB")

# %% [markdown]
# ## Once: a generator for this cut
#
# While the images are still at hand, a generator learns how the ViT encodes them: new crops in
# every step, where the bank holds one of each image.

# %%
generator = feataug.FeatureGenerator(num_classes, cut.spec)
config = feataug.GeneratorConfig(num_images=16 if QUICK else 3_000, lr=8e-3, ema_images=200)
feataug.GeneratorTrainer(generator, cut, config, progress=False).fit(loader)
generator = generator.eval()

# %% alt="Images, masks, the ViT's features of the images and features generated for the masks"
images, masks = next(iter(val_loader))
images, masks = images[:4], masks[:4]
with torch.no_grad():
    (real,) = cut.encode(images)
    (synthetic,) = generator(masks, generator.draw_z(masks, torch.Generator().manual_seed(0)))
real_colors, synthetic_colors = feature_colors([real, synthetic])
palette = train_set.palette
draw_grid(
    {
        "image": color_images(images),
        "mask": color_masks(masks, palette),
        "features of the image": real_colors,
        "features of the mask": synthetic_colors,
    }
)

# %% [markdown]
# ## Three ways to train the head
#
# Each loop is an ordinary one, over features. Half of each batch are stored ones. The other half are
# stored ones, too; or generated for masks of the same scenes; or, which costs a pass of the ViT in
# every step and needs the images, encoded from new crops.


# %%
def stored(seed: int) -> Iterator:
    for (features,), masks in endless(seeded_loader(bank, batch_size, seed=seed)):
        yield features, masks


def generated(seed: int) -> Iterator:
    source, rng = feataug.DatasetMasks(train_set), torch.Generator().manual_seed(seed)
    while True:
        masks = source.draw(batch_size, rng)
        yield generator(masks, generator.draw_z(masks, rng))[0], masks


def encoded(seed: int) -> Iterator:
    for images, masks in endless(seeded_loader(train_set, batch_size, seed=seed)):
        yield cut.encode(images)[0], masks


def train_head(seed: int, others) -> dict:
    torch.manual_seed(seed)
    model.head.load_state_dict(Segmenter(num_classes).head.state_dict())
    model.train()
    steps = 3 if QUICK else 600
    optimizer = torch.optim.SGD(cut.decoder_parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    halves = zip(range(steps), stored(seed), others(seed + 1000), strict=False)
    for _ in range(steps):
        with torch.no_grad():
            _, first, second = next(halves)
        features, masks = (torch.cat(parts) for parts in zip(first, second, strict=True))
        loss = F.cross_entropy(cut.decode((features,), size), masks, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return feataug.evaluate(model, val_loader, num_classes) | {"loss": loss.item()}


# %%
found = {}
for name, others in {"stored": stored, "stored, generated": generated, "stored, new crops": encoded}.items():
    runs = [train_head(seed, others) for seed in ((0,) if QUICK else (0, 1, 2))]
    found[name] = [run["miou"] for run in runs]
    loss, accuracy = (statistics.mean(run[key] for run in runs) for key in ("loss", "class_acc"))
    print(f"{name:18}last loss {loss:.2f}   ClassAcc {accuracy:.1f}   mIoU {statistics.mean(found[name]):.1f}")

# %% [markdown]
# The loss tells why: heads that see the stored features alone come to know them. Generated features
# are new in every step, as new crops are.

# %%
gains = {name: [a - b for a, b in zip(values, found["stored"], strict=True)] for name, values in found.items()}
generated_gain, crops_gain = (statistics.mean(gains[name]) for name in ("stored, generated", "stored, new crops"))
print(f"generated: mIoU {generated_gain:+.2f} for the seeds {', '.join(f'{gain:+.2f}' for gain in gains['stored, generated'])}")
print(f"new crops: mIoU {crops_gain:+.2f}; share of that without an image: {generated_gain / crops_gain:.0%}")

# %% [markdown]
# On CamVid, with ImageNet features, the same comparison gains more:
# [images are gone](../docs/results.md#images-are-gone). If your images stay at hand and your encoder
# is fast, encode new crops in every step: nothing beats the real thing.
#
# ## Where to go next
#
# - A decoder for a site that never has the images:
#   [07_decoder_without_images](07_decoder_without_images.ipynb).
# - What a bank costs, on one machine and on many: [scale](../docs/scale.md).
# - A timm backbone that is trained, too: [02_timm_backbone](02_timm_backbone.ipynb).
