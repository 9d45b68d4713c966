# %% [markdown]
# # feataug in one sitting
#
# **What you will see.** A small segmentation model is cut in two. From a *label mask* and some
# noise, a generator learns to make the features that the first half would compute for an image with
# that mask. Then the model is trained further on batches with some generated samples, and compared
# with the same model trained further without them. You will see the masks, the features, the
# model's predictions from both kinds, and one measured answer.
#
# **How long it takes.** One to two minutes on two CPU cores. Nothing is downloaded: a program draws
# the images, street-like scenes.
#
# **Install.** `pip install .` in a clone of the repository (Python 3.11 or newer);
# `pip install ".[notebooks]"` adds Jupyter.

# %%
import copy
import json
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from torch import nn

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.reporting.plots import color_images, color_masks, draw_grid, feature_colors

QUICK = bool(os.environ.get("FEATAUG_QUICK"))  # set by the project's tests: a few steps of everything
torch.manual_seed(0)
size, batch_size = (64, 96), 8

# %% [markdown]
# ## The data
#
# `Scenes` stands in for your data set. feataug needs pairs of an image and a mask, nothing else:
# integers from 0 to `num_classes - 1`, and 255 for "void". Poles, signs, pedestrians and bicyclists
# cover few pixels, as they do in real streets.

# %%
train_set = Scenes(24 if QUICK else 160, size, seed=0, transforms=train_transforms(size, scale=(0.75, 1.5)))
val_set = Scenes(8 if QUICK else 48, size, seed=1, transforms=eval_transforms())
loader = seeded_loader(train_set, batch_size)
val_loader = seeded_loader(val_set, batch_size, shuffle=False)
classes, palette = train_set.classes, train_set.palette

# %% alt="The colour of each class"
figure, axes = plt.subplots(figsize=(9, 0.5), layout="constrained")
axes.imshow(color_masks(torch.arange(len(classes))[None, None], palette)[0], aspect="auto")
axes.set_xticks(range(len(classes)), classes, fontsize=8)
axes.set_yticks([])

# %% alt="Three street scenes drawn by the computer, and the masks that label each of their pixels"
images, masks = next(iter(val_loader))
images, masks = images[:3], masks[:3]
draw_grid({"image": color_images(images), "mask": color_masks(masks, palette)})

# %% [markdown]
# ## A model to start from
#
# Any `nn.Module` will do. This one is plain: an encoder of stride 4, dilated convolutions, a
# classifier. feataug starts *after* a model has been trained (here briefly, from scratch), because
# the generator imitates *this* encoder.


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


model = Net(len(classes))
base_config = feataug.FinetuneConfig(num_steps=6 if QUICK else 260, lr=0.2)
feataug.Finetuner(model, base_config, progress=False).fit(loader)
base = feataug.evaluate(model, val_loader, len(classes))
print(f"base: mIoU {base['miou']:.1f} %, mean accuracy of the classes {base['class_acc']:.1f} %")

# %% [markdown]
# ## Cut it
#
# `feataug.cuts` lists the places where a model can be cut completely: everything that later layers
# read crosses there. With an early cut more layers learn from generated samples; features at a late
# cut are easier to generate. We take a place in the middle.

# %%
for place in feataug.cuts(model, images):
    print(place)

# %%
cut = feataug.split(model, at="encoder")
print(cut)
features = cut.encode(images)  # the first half alone
print("crosses the cut:", [tuple(level.shape) for level in features], "for images", tuple(images.shape))

# %% [markdown]
# ## Train the generator
#
# The generator sees pairs of a mask and the encoder's features of the image with that mask. That
# needs no new image and no new label. The model itself stays as it is.
#
# It learns the way from noise to features: real features are mixed with noise, and from the mixture,
# the share of noise and the mask it has to tell the direction of the features. The loss is the squared
# error of that direction. It starts at 2 and cannot come near 0, because the noise cannot be
# predicted. [Reading the losses](../docs/losses.md) says more.

# %%
generator = feataug.FeatureGenerator(len(classes), cut.spec)
generator_config = feataug.GeneratorConfig(num_images=24 if QUICK else 2_400, ema_images=200, log_images=8 if QUICK else 80)
with tempfile.TemporaryDirectory() as folder:
    trainer = feataug.GeneratorTrainer(generator, cut, generator_config, output=folder, progress=False)
    score = trainer.fit(loader, val_loader)[-1]
    lines = [json.loads(line) for line in (Path(folder) / "stats.jsonl").read_text().splitlines()]

# %% alt="The generator's loss over the images that it has seen"
curve = [line for line in lines if "flow" in line]
figure, panel = plt.subplots(figsize=(5, 2.4), layout="constrained")
panel.set(title="loss", xlabel="images seen")
lines_drawn = panel.plot([line["progress"] for line in curve], [line["flow"] for line in curve])

# %% [markdown]
# Is it any good? The **recognition score** asks the model's own second half. It segments features
# generated from masks that the generator has never seen; the score compares its mIoU against those
# masks with its mIoU on real features. (A ratio above 1 is no merit: then the features are typical
# ones, which are easier than real ones.) The **diversity ratio** guards against the opposite
# failure: it is 0 if the noise is ignored, and 1 if samples differ among themselves as much as real
# features differ from them.

# %%
ratio = score["synthetic"]["miou"] / score["real"]["miou"]
print(f"mIoU on real features {score['real']['miou']:.1f} %, on synthetic ones {score['synthetic']['miou']:.1f} %")
print(f"recognition ratio: {ratio:.2f}")
print(f"diversity ratio: {score['diversity']:.2f}")

# %% [markdown]
# ## Look at the features
#
# Features have many channels. `feature_colors` shows the three directions in which the real ones
# differ most as red, green and blue, the same three for all columns. Two draws of the noise give
# two different maps for the same mask, as two images with the same mask would.

# %% alt="Image, mask, real features, two synthetic ones of the same mask, and what the model makes of real and synthetic features"
with torch.no_grad():
    noise = generator.draw_z(masks, torch.Generator().manual_seed(0), samples=2)
    (both,) = generator(masks, noise, samples=2)
    first, second = both.chunk(2)
    real_colors, first_colors, second_colors = feature_colors([features[0], first, second])
    on_real = cut.decode(features, size).argmax(1)
    on_synthetic = cut.decode([first], size).argmax(1)
draw_grid(
    {
        "image": color_images(images),
        "mask": color_masks(masks, palette),
        "real features": real_colors,
        "synthetic, noise 1": first_colors,
        "synthetic, noise 2": second_colors,
        "model on real": color_masks(on_real, palette),
        "model on synthetic": color_masks(on_synthetic, palette),
    }
)

# %% [markdown]
# These are the channels that vary most over the real features, real above synthetic, each channel
# in one grey scale.

# %% alt="Six channels of the features of one image in grey, the real ones above the synthetic ones"
busiest = features[0].var(dim=(0, 2, 3)).topk(6).indices.tolist()
pairs = torch.stack([features[0][0], first[0]]).detach()


def grey(channel: int) -> torch.Tensor:
    values = pairs[:, channel]
    low, high = values.min(), values.max()
    return ((values - low) / (high - low))[..., None].expand(-1, -1, -1, 3)


draw_grid({f"channel {channel}": grey(channel) for channel in busiest})

# %% [markdown]
# ## Train further, with and without
#
# Training a model further changes it by itself. So two arms start from the same weights. The
# *control* sees real batches only. *feataug* sees the same real batches, in the same order and for
# as many steps, with 30 % synthetic samples appended at the cut. The encoder never runs for those
# and learns from real images alone; the decoder learns from both.
#
# At the end BatchNorm's statistics are measured again on real images, in both arms, because
# feataug's have seen synthetic features.

# %%
further = feataug.FinetuneConfig(num_steps=3 if QUICK else 60, lr=0.02)


def train_further(mixed: bool):
    student = copy.deepcopy(model)
    mixer = half = None
    if mixed:
        half = feataug.split(student, at="encoder")
        mixer = feataug.FeatureMixer(generator, feataug.DatasetMasks(train_set), ratio=0.3)
    tuner = feataug.Finetuner(student, further, mixer=mixer, cut=half, progress=False)
    tuner.fit(loader)
    tuner.update_bn(loader)
    return student, feataug.evaluate(student, val_loader, len(classes))


control, control_figures = train_further(mixed=False)
mixed, mixed_figures = train_further(mixed=True)

# %% [markdown]
# ## The answer

# %%
measures = {"pixel_acc": "PixelAcc", "class_acc": "ClassAcc", "miou": "mIoU", "fw_iou": "fwIoU"}
print(f"{'':22}" + "".join(f"{title:>10}" for title in measures.values()))
for name, figures in (("base", base), ("control", control_figures), ("feataug", mixed_figures)):
    print(f"{name:22}" + "".join(f"{figures[measure]:10.2f}" for measure in measures))
gaps = {measure: mixed_figures[measure] - control_figures[measure] for measure in measures}
print(f"{'feataug minus control':22}" + "".join(f"{gap:+10.2f}" for gap in gaps.values()))

# %% [markdown]
# The last line is the answer of *one* run on a small made-up data set. Another seed may differ by
# about a point either way. The line shows what is measured; it does not show a gain. That takes
# several seeds and an interval: see [06_does_it_help](06_does_it_help.ipynb). Measurements on real
# data are in [results](../docs/results.md).

# %% alt="Image and mask, and the predictions of the base, of the control and of the model trained with synthetic features"
with torch.no_grad():
    arms = {"base": model, "control": control, "feataug": mixed}
    predictions = {name: color_masks(arm.eval()(images).argmax(1), palette) for name, arm in arms.items()}
draw_grid({"image": color_images(images), "mask": color_masks(masks, palette), **predictions})

# %% [markdown]
# ## Where to go next
#
# - Your encoder comes from timm, and the training loop is yours:
#   [02_timm_backbone](02_timm_backbone.ipynb).
# - You have a codebase on segmentation_models_pytorch:
#   [03_segmentation_models_pytorch](03_segmentation_models_pytorch.ipynb).
# - torchvision, transformers:
#   [04_torchvision_and_transformers](04_torchvision_and_transformers.ipynb).
# - Masks without images, rare classes, hard ones:
#   [05_masks_you_already_have](05_masks_you_already_have.ipynb).
# - The ideas on one page: [concepts](../docs/concepts.md).
