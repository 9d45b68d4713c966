# %% [markdown]
# # A timm backbone, a head and a loop of your own
#
# **What you will see.** You have a timm backbone (`features_only=True`), a decoder that you wrote,
# and a plain PyTorch training loop. You will see which lines feataug adds to that loop, which
# samples each half computes in a mixed step, and where gradients go.
#
# **How long it takes.** About a minute on two CPU cores. Nothing is downloaded: the backbone starts
# from random weights.
#
# **Install.** `pip install .` in a clone of the repository (Python 3.11 or newer);
# `pip install ".[notebooks]"` adds Jupyter.

# %%
import os

import timm
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
# ## What you have: data, a backbone, a head, a loop
#
# `Scenes` stands in for your data set of `(image, mask)`. The backbone is a ResNet-18 that stops at
# stride 8; any timm model that supports `features_only` can take its place. **In a real project
# start from pretrained weights**: `pretrained=True` fetches them from the hub. This notebook
# downloads nothing, so its backbone starts from random weights.

# %%
train_set = Scenes(24 if QUICK else 160, size, seed=0, transforms=train_transforms(size, scale=(0.75, 1.5)))
val_set = Scenes(8 if QUICK else 48, size, seed=1, transforms=eval_transforms())
loader = seeded_loader(train_set, batch_size)
val_loader = seeded_loader(val_set, batch_size, shuffle=False)
num_classes = train_set.num_classes

encoder = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(2,))
print("channels", encoder.feature_info.channels(), "at strides", encoder.feature_info.reduction())


# %%
class Head(nn.Module):
    """The decoder: what the backbone returns, and the images' size, to logits."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, num_classes, 1)
        )

    def forward(self, features: list[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
        return F.interpolate(self.layers(features[-1]), image_size, mode="bilinear", align_corners=False)


decoder = Head(encoder.feature_info.channels()[-1], num_classes)

# %% [markdown]
# ## Line 1: join the two halves
#
# If your encoder and decoder are two modules, `split` joins them. `cut.model` is the whole model,
# for your optimizer, your evaluation, DDP or `torch.compile`; its parameters are those of the two
# modules. (Cut a model in one piece by a layer's name: `feataug.split(model, at="...")`.)

# %%
cut = feataug.split(encoder=encoder, decoder=decoder)
model = cut.model
print(cut)

# %% [markdown]
# ## The loop that you have
#
# This loop does not know feataug.

# %%
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def train(num_epochs: int, step) -> list[float]:
    losses = []
    model.train()
    for _ in range(num_epochs):
        for images, masks in loader:
            loss = step(images, masks)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def plain_step(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(images), masks, ignore_index=255)


plain_losses = train(1 if QUICK else 8, plain_step)
print(f"after {len(plain_losses)} plain steps: mIoU {feataug.evaluate(model, val_loader, num_classes)['miou']:.1f} %")

# %% [markdown]
# ## Once: a generator for this encoder
#
# `cut.spec` describes the features that the generator has to make. Its training uses your loader
# and leaves the model as it is. In your project you would save it:
# `generator.save_pretrained("runs/generator")`, and later
# `feataug.FeatureGenerator.from_pretrained("runs/generator")`.

# %%
generator = feataug.FeatureGenerator(num_classes, cut.spec)
config = feataug.GeneratorConfig(num_images=24 if QUICK else 2_000, ema_images=200)
score = feataug.GeneratorTrainer(generator, cut, config, progress=False).fit(loader, val_loader)[-1]
ratio = score["synthetic"]["miou"] / score["real"]["miou"]
print(f"recognition ratio: {ratio:.2f}, diversity ratio: {score['diversity']:.2f}")

# %% alt="Images, masks, real features and synthetic features of the same masks"
images, masks = next(iter(val_loader))
images, masks = images[:4], masks[:4]
model.eval()
with torch.no_grad():
    (real,) = cut.encode(images)
    (synthetic,) = generator(masks, generator.draw_z(masks, torch.Generator().manual_seed(0)))
real_colors, synthetic_colors = feature_colors([real, synthetic])
draw_grid(
    {
        "image": color_images(images),
        "mask": color_masks(masks, train_set.palette),
        "real features": real_colors,
        "synthetic features": synthetic_colors,
    }
)

# %% [markdown]
# ## The lines that you add to the loop
#
# Two lines set it up, and two go into the step. The masks of the synthetic samples come from any
# source of masks. `HardNegativeSampler` draws some, asks the current decoder which of them it finds
# hard, and uses those in the next steps.

# %%
hard = feataug.HardNegativeSampler(feataug.DatasetMasks(train_set), candidates=16 if QUICK else 32, keep=8, refresh_every=10)
mixer = feataug.FeatureMixer(generator, hard, ratio=0.3)


def mixed_step(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    with mixer.on(cut, masks) as batch:
        out = model(images)
    return mixer.loss(out, batch)


# %% [markdown]
# ## What goes where in a mixed step
#
# Two hooks count the samples that the first layer of each half computes. The encoder sees the real
# images alone, which saves time; the decoder sees real and synthetic samples in one batch.

# %%
arrived = {"encoder": [], "decoder": []}
hooks = [
    encoder.conv1.register_forward_pre_hook(lambda module, inputs: arrived["encoder"].append(len(inputs[0]))),
    decoder.layers.register_forward_pre_hook(lambda module, inputs: arrived["decoder"].append(len(inputs[0]))),
]
mixed_losses = train(1 if QUICK else 3, mixed_step)
for hook in hooks:
    hook.remove()

# %% [markdown]
# Some passes go through the decoder alone: the hard negative sampler computes losses, 16 masks at a
# time. The others are the steps:

# %%
per_step = [count for count in arrived["decoder"] if count < 16]
share = 1 - batch_size * len(mixed_losses) / sum(per_step)
print(f"samples at the encoder: {sorted(set(arrived['encoder']))}")
print(f"samples at the decoder: {sorted(set(per_step))}, in {len(mixed_losses)} steps")
print(f"synthetic share: {share:.3f}")

# %% [markdown]
# 8 real samples and a share of 0.3 ask for 3.43 synthetic ones. The number is rounded at random in
# each step, so that its mean is exact.
#
# Where do gradients go? Take the loss of the synthetic samples alone. With BatchNorm's statistics
# fixed (`model.eval()`) its gradients reach the decoder and nothing before the cut. In train mode a
# small part does reach the encoder: not through the synthetic features, which carry no gradient,
# but through the statistics that real and synthetic samples share in the decoder's BatchNorm.

# %%
images, masks = next(iter(loader))


def norm(module: nn.Module) -> float:
    return sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None) ** 0.5


for mode in ("eval", "train"):
    model.train(mode == "train")
    optimizer.zero_grad()
    with mixer.on(cut, masks) as batch:
        out = model(images)
    F.cross_entropy(out[batch.is_synthetic], batch.masks[batch.is_synthetic], ignore_index=255).backward()
    print(
        f"{mode:>5} mode: gradient of the synthetic samples' loss {norm(decoder):.3f} at the decoder, {norm(encoder):.3f} at the encoder"
    )
optimizer.zero_grad()

# %% [markdown]
# ## In the end
#
# BatchNorm's running statistics have seen synthetic features. Measure them again on real images:
# [on CamVid](../docs/whole-images.md) leaving that out cost more than the synthetic features
# gained.

# %% alt="The training loss over the steps, first plain, then mixed"
before = feataug.evaluate(model, val_loader, num_classes)
feataug.update_bn(model, loader)
after = feataug.evaluate(model, val_loader, num_classes)
print(f"after {len(mixed_losses)} mixed steps: mIoU {before['miou']:.1f} %, with BatchNorm measured again {after['miou']:.1f} %")

figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
axes.plot(range(len(plain_losses)), plain_losses, label="plain steps")
axes.plot(range(len(plain_losses), len(plain_losses) + len(mixed_losses)), mixed_losses, label="mixed steps")
axes.set_title("training loss", fontsize=10)
axes.set_xlabel("step", fontsize=8)
axes.legend(fontsize=8)

# %% [markdown]
# The curve may rise where mixing begins, since the masks were chosen because they are hard. And the
# model has been trained *further*, which changes it by itself. Only a control can show whether the
# synthetic features helped: see [06_does_it_help](06_does_it_help.ipynb).
#
# ## Where to go next
#
# - The same as a script with options, as a start for your own:
#   [timm_backbone.py](timm_backbone.py).
# - `feataug.recommended(cut, train_set, plain_loader, num_classes)`: suggested masks, ratio and
#   filter.
# - Vision transformers, Swin, cuts between blocks: [cut any model](../docs/cut.md).
# - Does it help *your* model? [06_does_it_help](06_does_it_help.ipynb).
