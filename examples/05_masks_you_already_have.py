# %% [markdown]
# # Masks you already have
#
# **What you will see.** A synthetic sample needs a mask and no image. So masks may come from
# sources without labelled images: predictions on unlabelled frames, a renderer, rare objects pasted
# into other layouts, or those of your own masks that the decoder finds hard. This page draws from
# each source and shows the masks; at the end it mixes them 3 : 1.
#
# **How long it takes.** About a minute on two CPU cores. Nothing is downloaded.
#
# **Install.** `pip install .` in a clone of the repository (Python 3.11 or newer);
# `pip install ".[notebooks]"` adds Jupyter.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

import feataug
from feataug.data import Images, MaskFolder, Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.reporting.plots import color_images, color_masks, draw_grid

QUICK = bool(os.environ.get("FEATAUG_QUICK"))  # set by the project's tests: a few steps of everything
torch.manual_seed(0)
size, batch_size = (64, 96), 8
crop = train_transforms(size, scale=(0.75, 1.5))
train_set = Scenes(24 if QUICK else 128, size, seed=0, transforms=crop)
loader = seeded_loader(train_set, batch_size)
classes, palette, num_classes = train_set.classes, train_set.palette, train_set.num_classes
folder = tempfile.TemporaryDirectory()  # stands in for the folders that you have


def show(**columns: torch.Tensor):
    """Masks, four of each source, in the data set's colours."""
    return draw_grid({name.replace("_", " "): color_masks(masks, palette) for name, masks in columns.items()})


# %% [markdown]
# ## One method
#
# A mask source is any object with `draw(n, generator)` that returns `(n, H, W)` integers. The
# generator is a `torch.Generator` and the only source of randomness: the same seed draws the same
# masks, on every machine. The simplest source is a data set's own masks, with the crops of
# training:

# %% alt="Four masks of the training set"
plain = feataug.DatasetMasks(train_set)
masks = plain.draw(4, torch.Generator().manual_seed(0))
again = plain.draw(4, torch.Generator().manual_seed(0))
print(tuple(masks.shape), masks.dtype, "the same again:", torch.equal(masks, again))
show(masks_of_the_training_set=masks)

# %% [markdown]
# ## Rare classes as often as common ones
#
# If masks are drawn evenly, most of them show only common classes. `ClassBalancedMasks` first draws
# a class, then a mask that holds it.

# %% alt="The share of drawn masks that hold each class, drawn evenly and drawn by class"
balanced = feataug.ClassBalancedMasks(train_set, num_classes)
count = 32 if QUICK else 256


def held(source) -> list[float]:
    """The share of masks that hold at least 16 pixels of each class."""
    drawn = source.draw(count, torch.Generator().manual_seed(0))
    return [float(((drawn == number).flatten(1).sum(1) >= 16).float().mean()) for number in range(num_classes)]


evenly, by_class = held(plain), held(balanced)
figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
places = np.arange(num_classes)
axes.bar(places - 0.2, evenly, 0.4, label="drawn evenly")
axes.bar(places + 0.2, by_class, 0.4, label="drawn by class")
axes.set_xticks(places, classes, fontsize=8)
axes.set_title("share of the masks that hold a class", fontsize=10)
axes.legend(fontsize=8)
rare = min(range(num_classes), key=lambda number: evenly[number])
print(
    f"rarest class: {classes[rare]}, in {evenly[rare]:.0%} of the masks drawn evenly and in {by_class[rare]:.0%} of those drawn by class"
)

# %% [markdown]
# ## New layouts: rare objects pasted into other masks
#
# Pasting objects into *images* leaves seams and inconsistent light, and needs the images. In a mask
# only the labels have to fit; the generator makes features for the whole. A pasted object keeps
# about its height in the picture and moves anywhere sideways.

# %% alt="Four masks, and the same masks with signs, pedestrians and bicyclists pasted in"
rare_classes = [classes.index(name) for name in ("sign", "pedestrian", "bicyclist")]
plain_masks = feataug.DatasetMasks([train_set.mask(index) for index in range(len(train_set))])  # without crops, to compare
donors = feataug.ClassBalancedMasks(plain_masks.dataset, num_classes)
composer = feataug.LayoutComposer(plain_masks, donors, classes=rare_classes, min_pixels=12)
before = plain_masks.draw(4, torch.Generator().manual_seed(3))
after = composer.draw(4, torch.Generator().manual_seed(3))  # draws the same masks first, then pastes
print(
    f"pixels of the pasted classes: {sum((before == c).sum().item() for c in rare_classes)} before, "
    f"{sum((after == c).sum().item() for c in rare_classes)} after"
)
show(masks=before, composed=after)

# %% [markdown]
# ## Rendered masks, with labels of their own
#
# A game engine, a simulator or another data set gives masks in *its* labels. `ids` says which class
# each of them is; 255 is void. A label that is not in the table is an error that names the file,
# the label and the pixel. Here a "renderer" of a few lines writes PNG files; in a real project use
# `MaskFolder("renderings/masks", classes, ids=...)`, or `feataug.data.Synscapes`.

# %% alt="Four rendered masks: sky, houses, a road that narrows into the distance, cars, and a crowd of pedestrians"
ENGINE = {"sky": 23, "house": 11, "road": 7, "car": 26, "person": 24, "dashboard": 1}


def render(rng: np.random.Generator) -> np.ndarray:
    """A wide road with a crowd on it, which the training set seldom has."""
    rows, columns = size
    labels = np.full(size, ENGINE["sky"], np.uint8)
    horizon = int(rows * rng.uniform(0.35, 0.5))
    for left in range(0, columns, 12):
        labels[horizon - rng.integers(4, horizon) : horizon, left : left + 12] = ENGINE["house"]
    labels[horizon:] = ENGINE["road"]
    for _ in range(rng.integers(1, 3)):
        foot, left = rng.integers(horizon + 8, rows - 4), rng.integers(0, columns - 20)
        scale = (foot - horizon) / (rows - horizon)
        labels[foot - int(14 * scale) : foot, left : left + int(26 * scale) + 3] = ENGINE["car"]
    for _ in range(rng.integers(4, 9)):
        foot, left = rng.integers(horizon + 6, rows - 4), rng.integers(0, columns - 6)
        scale = (foot - horizon) / (rows - horizon)
        labels[foot - int(26 * scale) - 3 : foot, left : left + int(5 * scale) + 2] = ENGINE["person"]
    labels[-4:] = ENGINE["dashboard"]
    return labels


rendered_folder = Path(folder.name) / "rendered"
rendered_folder.mkdir()
for number in range(24):
    Image.fromarray(render(np.random.default_rng(number))).save(rendered_folder / f"{number:03}.png")

names = {"sky": "sky", "house": "building", "road": "road", "car": "car", "person": "pedestrian"}
ids = {label: classes.index(names[name]) if name in names else 255 for name, label in ENGINE.items()}
rendered = feataug.DatasetMasks(MaskFolder(rendered_folder, classes, ids=ids, transforms=crop))
print("their labels to our classes:", ids)
show(rendered=rendered.draw(4, torch.Generator().manual_seed(0)))

# %% [markdown]
# ## Pseudo labels of images that nobody labelled
#
# This needs a trained model; here it is a small one, trained briefly. `pseudo_masks` takes the
# model's class wherever its posterior exceeds the threshold, and elsewhere the class of the nearest
# such pixel. Some labels are wrong. In the mask of a *synthetic* sample a wrong label does less
# harm than as the label of the image: the features are generated from the mask, so they agree with
# it.


# %%
def block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(block(3, 32, stride=2), block(32, 48, stride=2), block(48, 64), block(64, 64))
        self.context = nn.Sequential(block(64, 64, dilation=2), block(64, 64, dilation=4), block(64, 64, dilation=8))
        self.classifier = nn.Conv2d(64, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(self.context(self.encoder(images)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


model = Net(num_classes)
feataug.Finetuner(model, feataug.FinetuneConfig(num_steps=6 if QUICK else 200, lr=0.2), progress=False).fit(loader)

frames = Path(folder.name) / "frames"
frames.mkdir()
unlabelled = Scenes(8 if QUICK else 32, size, seed=2)
for number in range(len(unlabelled)):
    Image.fromarray(unlabelled[number][0].permute(1, 2, 0).numpy()).save(frames / f"{number:03}.png")

extra = torch.utils.data.DataLoader(Images(frames, transforms=eval_transforms()), batch_size=8)
found = feataug.pseudo_masks(model, extra, threshold=0.7)
truth = torch.stack([unlabelled.mask(number) for number in range(len(unlabelled))])  # known here, since the scenes are drawn
agreement = float((torch.stack(found) == truth).float().mean())
print(f"pseudo labels agree with the truth in {agreement:.0%} of the pixels")

# %% alt="Four unlabelled images, the pseudo labels that a small model gives them, and the true masks"
draw_grid(
    {
        "image": color_images(torch.stack([unlabelled[number][0] for number in range(4)])),
        "pseudo labels": color_masks(torch.stack(found[:4]), palette),
        "truth, for comparison": color_masks(truth[:4], palette),
    }
)

# %% [markdown]
# ## What the decoder finds hard
#
# `HardNegativeSampler` draws candidates from any source, scores them, uses the hardest in the next
# steps, and then mines again. By default the score is the loss of the current decoder on features
# generated from the masks; that needs no image and no encoder. In training `mixer.on(cut, ...)`
# sets this up; here we do it by hand, to look at it.

# %%
cut = feataug.split(model, at="encoder")
generator = feataug.FeatureGenerator(num_classes, cut.spec)
config = feataug.GeneratorConfig(num_images=16 if QUICK else 1_600, ema_images=200)
feataug.GeneratorTrainer(generator, cut, config, progress=False).fit(loader)

hard = feataug.HardNegativeSampler(plain, candidates=16 if QUICK else 96, keep=8)
hard.refresh(feataug.synthetic_loss(generator, cut), torch.Generator().manual_seed(0))
print(f"mean loss of the candidates {hard.candidate_losses.mean():.2f}, of those that are kept {hard.pool_losses.mean():.2f}")

# %% alt="Histogram of the candidates' losses, with those that are kept at its upper end"
figure, axes = plt.subplots(figsize=(6, 2.2), layout="constrained")
bins = np.linspace(float(hard.candidate_losses.min()), float(hard.candidate_losses.max()), 25)
axes.hist(hard.candidate_losses.numpy(), bins, label="candidates")
axes.hist(hard.pool_losses.numpy(), bins, label="kept")
axes.set_title("loss of the decoder on features generated from a mask", fontsize=10)
axes.legend(fontsize=8)

# %% alt="Four masks drawn evenly beside the four hardest"
show(drawn_evenly=masks, hardest=hard.pool[:4])

# %% [markdown]
# A mask that is hard for a decoder need not be worth learning: wrong labels are hard, too, and so
# are masks that the generator cannot render. `learn=True` mines from losses that training computes
# anyway; `PixelFilter` leaves out pixels that were generated badly.
#
# ## Three to one
#
# The paper takes three masks of the training set to one of another source in each batch. Sources
# nest: any source can be part of a mixture, and a mixture can be the source of hard negatives.

# %% alt="Eight masks drawn from the mixture: six of the training set, two rendered"
mixture = feataug.MaskMixture([plain, rendered], weights=(3, 1))


class Counted:
    """A source of your own: draws what another one draws, and counts."""

    def __init__(self, source) -> None:
        self.source, self.drawn = source, 0

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        self.drawn += n
        return self.source.draw(n, generator)


first, second = Counted(plain), Counted(rendered)
counted = feataug.MaskMixture([first, second], weights=(3, 1))
draws = torch.Generator().manual_seed(0)
for _ in range(100):
    counted.draw(3, draws)
print(f"share of rendered masks: {second.drawn / (first.drawn + second.drawn):.3f} in 100 draws of 3")
eight = mixture.draw(8, torch.Generator().manual_seed(1))
show(a_batch=eight[:4], of_the_mixture=eight[4:])

# %% [markdown]
# Three masks cannot be split three to one, so the numbers are rounded at random; the share is right
# on average.
#
# ## Into training
#
# Any source goes into the mixer, and nothing else changes:

# %%
source = feataug.HardNegativeSampler(
    feataug.MaskMixture([plain, feataug.DatasetMasks(found, transforms=crop), composer], weights=(3, 1, 1)), candidates=16, keep=8
)
mixer = feataug.FeatureMixer(generator, source, ratio=0.3)
images, targets = next(iter(loader))
with mixer.on(cut, targets) as batch:
    out = model.train()(images)
loss = mixer.loss(out, batch)
print(f"{batch.num_real} real and {batch.num_synthetic} synthetic samples, loss {loss.item():.2f}")
folder.cleanup()

# %% [markdown]
# This page shows what the sources draw, not which of them helps. That has not been measured again
# since [we changed how we measure](../docs/results.md); `feataug.compare` measures it on your data.
#
# ## Where to go next
#
# - [Masks and filters](../docs/masks.md), [readers for data sets](../docs/data.md), [a source of
#   your own](../docs/extend.md).
# - Does it help *your* model? [06_does_it_help](06_does_it_help.ipynb).
