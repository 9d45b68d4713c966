# %% [markdown]
# # Ten lines into a codebase on segmentation_models_pytorch
#
# **What you will see.** An ordinary smp training loop, with a Unet, Dice loss and smp's own
# metrics, and the ten lines that bring synthetic features into it. Your loss stays yours: the mixed
# batch is a batch with more masks than images.
#
# **How long it takes.** A few minutes on two CPU cores. Nothing is downloaded.
#
# **Install.** `pip install . segmentation-models-pytorch` in a clone of the repository (Python 3.11
# or newer); `pip install ".[notebooks]"` adds Jupyter and everything that these notebooks use.

# %%
import os

import segmentation_models_pytorch as smp
import torch

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.reporting.plots import color_images, color_masks, draw_grid, feature_colors

QUICK = bool(os.environ.get("FEATAUG_QUICK"))  # set by the project's tests: a few steps of everything
torch.manual_seed(0)
size, batch_size = (64, 96), 8

train_set = Scenes(24 if QUICK else 160, size, seed=0, transforms=train_transforms(size, scale=(0.75, 1.5)))
val_set = Scenes(8 if QUICK else 48, size, seed=1, transforms=eval_transforms())
loader = seeded_loader(train_set, batch_size)
val_loader = seeded_loader(val_set, batch_size, shuffle=False)
num_classes = train_set.num_classes

# %% [markdown]
# ## The codebase that you have
#
# `encoder_weights=None` keeps this notebook offline. In a real project use
# `encoder_weights="imagenet"`, which downloads pretrained weights, or load a checkpoint of your
# own: a generator learns from a *trained* model. `tu-resnet10t` is a small timm encoder; `resnet34`
# or any other works the same way.

# %%
model = smp.Unet("tu-resnet10t", encoder_weights=None, classes=num_classes, decoder_channels=(64, 48, 32, 24, 16))
dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
cross_entropy = torch.nn.CrossEntropyLoss(ignore_index=255)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)


def criterion(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return dice(logits, masks) + cross_entropy(logits, masks)


@torch.no_grad()
def validate() -> float:
    """Mean IoU over the classes, in percent, counted over the whole set."""
    model.eval()
    counts = []
    for images, masks in val_loader:
        predicted = model(images).argmax(1)
        stats = smp.metrics.get_stats(predicted, masks, mode="multiclass", num_classes=num_classes)
        counts.append(torch.stack(stats).sum(1))
    hits, false_positives, false_negatives, _ = torch.stack(counts).sum(0)
    union = hits + false_positives + false_negatives
    return float(100 * (hits / union)[union > 0].mean())


for epoch in range(1 if QUICK else 8):
    model.train()
    for images, masks in loader:
        loss = criterion(model(images), masks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch}: loss {loss.item():.2f}, mIoU {validate():.1f} %")

# %% [markdown]
# ## Where to cut
#
# A Unet's skips bypass most of its layers, so a cut in mid-encoder would let image features leak
# past the generator. At `"encoder"` all of them cross together. `feataug.split` finds what crosses
# (smp passes the image along, too, but never reads it), and the generator makes all levels from one
# mask. This is what happens if you forget the skips:

# %%
try:
    feataug.split(model, at="encoder.model.layer2")
except feataug.errors.SplitError as error:
    print(error)

# %% [markdown]
# The error names complete cuts to paste.
#
# ## The ten lines
#
# Five before the loop:

# %%
cut = feataug.split(model, at="encoder")  # 1
generator = feataug.FeatureGenerator(num_classes, cut.spec)  # 2
config = feataug.GeneratorConfig(num_images=16 if QUICK else 1_200, ema_images=200)  # 3
score = feataug.GeneratorTrainer(generator, cut, config, progress=False).fit(loader, val_loader)[-1]  # 4
mixer = feataug.FeatureMixer(generator, feataug.DatasetMasks(train_set), ratio=0.3)  # 5

print(cut)
print(f"recognition: mIoU {score['real']['miou']:.1f} % on real features, {score['synthetic']['miou']:.1f} % on synthetic ones")

# %% [markdown]
# (So few images keep this page quick; a useful generator sees twenty thousand and more.)
#
# In the loop one line goes around the forward pass, and `batch.masks` replaces `masks`. After the
# loop, one line mends BatchNorm's running statistics, which have seen synthetic features.

# %%
for group in optimizer.param_groups:
    group["lr"] = 5e-4
sizes = []
for epoch in range(1 if QUICK else 3):
    model.train()
    for images, masks in loader:
        with mixer.on(cut, masks) as batch:  # 6
            logits = model(images)
        loss = criterion(logits, batch.masks)  # 7: was masks
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        sizes.append(len(logits) / len(images))
    feataug.update_bn(model, loader)  # 8
    print(f"epoch {epoch}: loss {loss.item():.2f}, mIoU {validate():.1f} %")

# %% [markdown]
# These are eight lines. `import feataug` is the ninth, and the tenth saves the generator:
# `generator.save_pretrained("runs/generator")`.
#
# From the same images the decoder got more samples in every step:

# %%
growth = sum(sizes) / len(sizes)
print(f"decoder's samples for each image: {growth:.3f} (a synthetic share of 0.3 makes 1 / 0.7 = {1 / 0.7:.3f} on average)")

# %% [markdown]
# ## What the decoder gets
#
# Several levels cross. The generator makes all of them, and they match each other. For one mask,
# real (left) and synthetic (right) at every level, from fine to coarse:

# %% alt="For two masks: the real and the synthetic features at each level of the Unet's encoder, from fine to coarse"
images, masks = next(iter(val_loader))
images, masks = images[:3], masks[:3]
model.eval()
with torch.no_grad():
    real = cut.encode(images)
    synthetic = generator(masks, generator.draw_z(masks, torch.Generator().manual_seed(0)))
columns = {"image": color_images(images), "mask": color_masks(masks, train_set.palette)}
for level, made, spec in list(zip(real, synthetic, cut.spec, strict=True))[:3]:
    columns[f"real, stride {spec.reduction}"], columns[f"synthetic, stride {spec.reduction}"] = feature_colors([level, made])
draw_grid(columns)

# %% [markdown]
# ## Variations
#
# - **`mixer.loss(logits, batch)`** in place of your criterion is the paper's loss: cross entropy
#   with smoothed labels on the synthetic samples. In your own loss, `batch.is_synthetic` says which
#   samples are synthetic.
# - **Models without skips** (PSPNet, DeepLabV3, PAN) can be cut in mid-backbone, so that more
#   layers learn from synthetic samples: `at="encoder.layer3.0:pre_act"`. **DeepLabV3+** has one
#   skip: `at=["encoder.layer1", "encoder.layer3.0:pre_act"]`. FPN, Linknet and others are cut at
#   `"encoder"` as here. [Recipes](../docs/cut.md).
# - **Lightning**: the two lines of the loop go into `training_step`, with `mixer` an attribute of
#   the module.
#
# This page shows that feataug fits in, not that it helps. To see that you need a control, trained
# further for as many steps on the same images.
#
# ## Where to go next
#
# - Does it help *your* model? [06_does_it_help](06_does_it_help.ipynb).
# - torchvision and transformers:
#   [04_torchvision_and_transformers](04_torchvision_and_transformers.ipynb).
# - Masks beyond those of the training set:
#   [05_masks_you_already_have](05_masks_you_already_have.ipynb).
