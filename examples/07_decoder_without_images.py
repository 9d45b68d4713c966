# %% [markdown]
# # A decoder without images
#
# **What you will see.** Two sites. One has images that may not leave it; the other wants a
# segmentation model. The first hands out an encoder, a feature generator and label masks. The second
# trains a decoder from these alone, and it works on images that it has never seen. In the end you
# will see how much of what the images themselves teach such a decoder has learned.
#
# **How long it takes.** About three minutes on two CPU cores. Nothing is downloaded.
#
# **Install.** `pip install .` in a clone of the repository (Python 3.11 or newer);
# `pip install ".[notebooks]"` adds Jupyter.

# %%
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.reporting.plots import color_images, color_masks, draw_grid

QUICK = bool(os.environ.get("FEATAUG_QUICK"))  # set by the project's tests: a few steps of everything
torch.manual_seed(0)
size, batch_size = (64, 96), 8
handed_out = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The site with the images
#
# It has trained a model, as usual. Any model and any layer will do; here it is a small one on scenes
# that a program draws.

# %%
train_set = Scenes(16 if QUICK else 192, size, seed=0, transforms=train_transforms(size, scale=(0.75, 1.5)))
val_set = Scenes(8 if QUICK else 64, size, seed=1, transforms=eval_transforms())
loader = seeded_loader(train_set, batch_size)
val_loader = seeded_loader(val_set, batch_size, shuffle=False)
classes, num_classes = train_set.classes, train_set.num_classes


def block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(block(3, 32, stride=2), block(32, 48, stride=2), block(48, 64, stride=2), block(64, 64))
        self.context = nn.Sequential(block(64, 64), block(64, 64, dilation=2), block(64, 64, dilation=4))
        self.classifier = nn.Conv2d(64, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(self.context(self.encoder(images)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


theirs = Net()
feataug.Finetuner(theirs, feataug.FinetuneConfig(num_steps=4 if QUICK else 300, lr=0.2), progress=False).fit(loader)

# %% [markdown]
# Then it trains a generator: label masks and noise in, features of its encoder out.

# %%
cut = feataug.split(theirs, at="encoder")
generator = feataug.FeatureGenerator(num_classes, cut.spec)
config = feataug.GeneratorConfig(num_images=16 if QUICK else 8_000, lr=8e-3, ema_images=400)
feataug.GeneratorTrainer(generator, cut, config, progress=False).fit(loader)

# %% [markdown]
# Three things leave the site: the encoder's weights, the generator, and masks. Whether a generator
# has learned single images by heart is for `feataug.feature_quality` to say; its memory test compares
# samples with the features of training images and of others.

# %%
generator.save_pretrained(handed_out / "generator")
torch.save(theirs.encoder.state_dict(), handed_out / "encoder.pt")
masks = torch.stack([train_set.mask(number) for number in range(len(train_set))])
torch.save(masks.to(torch.uint8), handed_out / "masks.pt")
for name in ("generator/model.safetensors", "encoder.pt", "masks.pt"):
    print(f"{name:30}{(handed_out / name).stat().st_size / 1e6:6.1f} MB")

# %% [markdown]
# ## The site without images
#
# It has the encoder, frozen, and puts a decoder of its own behind it. The loop is an ordinary one;
# where the images would be encoded, features are generated for masks instead. Every step has new
# noise, so no two batches are alike.

# %%
ours = Net()
ours.encoder.load_state_dict(torch.load(handed_out / "encoder.pt", weights_only=True))
cut = feataug.split(ours, at="encoder")
cut.freeze_encoder()
generator = feataug.FeatureGenerator.from_pretrained(handed_out / "generator", cut=cut).eval()
masks = feataug.DatasetMasks(torch.load(handed_out / "masks.pt", weights_only=True).long())

steps = 4 if QUICK else 240
optimizer = torch.optim.SGD(cut.decoder_parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
rng = torch.Generator().manual_seed(0)
ours.train()
for _ in range(steps):
    labels = masks.draw(batch_size, rng)
    with torch.no_grad():
        features = generator(labels, generator.draw_z(labels, rng))
    loss = F.cross_entropy(cut.decode(features, labels.shape[-2:]), labels, ignore_index=255)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
ours.eval()
print(f"loss on generated features in the end: {loss.item():.2f}")

# %% [markdown]
# The decoder has seen no image, and no feature of one. The model takes images all the same: the
# encoder is whole.

# %% alt="Three street scenes that the decoder has never seen, their masks, and what it predicts"
images, labels = next(iter(val_loader))
images, labels = images[:3], labels[:3]
with torch.no_grad():
    predicted = ours(images).argmax(1)
palette = train_set.palette
draw_grid({"image": color_images(images), "mask": color_masks(labels, palette), "prediction": color_masks(predicted, palette)})

# %%
found = feataug.evaluate(ours, val_loader, num_classes)
print(f"on real images: PixelAcc {found['pixel_acc']:.1f}, ClassAcc {found['class_acc']:.1f}, mIoU {found['miou']:.1f}")

# %% [markdown]
# ## How much is that?
#
# Only who has the images can say. `teaching_score` trains fresh decoders on real features, on
# generated ones and on *class Gaussians* (a mean and a covariance for each class, without any
# network), all for the same steps and masks, and measures them on real images.

# %%
score = feataug.teaching_score(
    theirs,
    "encoder",
    generator,
    lambda seed: seeded_loader(train_set, batch_size, seed=seed),
    val_loader,
    feataug.FinetuneConfig(num_steps=4 if QUICK else 160, lr=0.2),
    seeds=(0,) if QUICK else (0, 1, 2),
    classes=classes,
    progress=False,
)
for name, parts in score["sources"].items():
    print(f"{name:12}mIoU {parts['after']['miou']:5.1f}   share of the real features': {score['score'][name]['after']:.2f}")

# %%
print(score["verdict"])

# %% [markdown]
# **What to take home.** A decoder can learn most of its task without images. And measure class
# Gaussians beside every generator: they cost no training. Here they stay well behind, although these
# scenes, which a program draws, have few colours for each class. In photographs, too: on CamVid and
# IDD-Lite, with ImageNet features and decoders that were trained ten times as long, the generator
# comes close to real features and leaves the Gaussians far behind:
# [images are gone](../docs/results.md#images-are-gone).
#
# ## Where to go next
#
# - The same as a recipe: [loops](../docs/loops.md#a-decoder-without-images).
# - Masks that nobody has images for: [05_masks_you_already_have](05_masks_you_already_have.ipynb).
# - Does it help a model that has images? [06_does_it_help](06_does_it_help.ipynb).
