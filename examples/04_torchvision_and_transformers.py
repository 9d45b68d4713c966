# %% [markdown]
# # torchvision and transformers
#
# **What you will see.** Two models with different calls: torchvision's DeepLabV3 returns a
# dictionary and has an auxiliary head in training; transformers' SegFormer takes labels and
# computes its loss inside. Each is cut, gets a generator, and is trained for a few steps on mixed
# batches, called as its documentation says.
#
# **How long it takes.** One to two minutes on two CPU cores. Nothing is downloaded: both start from
# random weights.
#
# **Install.** `pip install . transformers` in a clone of the repository (Python 3.11 or newer);
# `pip install ".[notebooks]"` adds Jupyter and everything that these notebooks use.

# %%
import os

import torch
import torchvision
from matplotlib import pyplot as plt
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.reporting.plots import color_images, color_masks, draw_grid, feature_colors

QUICK = bool(os.environ.get("FEATAUG_QUICK"))  # set by the project's tests: a few steps of everything
torch.manual_seed(0)
size, batch_size = (64, 96), 8

train_set = Scenes(16 if QUICK else 128, size, seed=0, transforms=train_transforms(size, scale=(0.75, 1.5)))
val_set = Scenes(8 if QUICK else 32, size, seed=1, transforms=eval_transforms())
loader = seeded_loader(train_set, batch_size)
val_loader = seeded_loader(val_set, batch_size, shuffle=False)
num_classes, palette = train_set.num_classes, train_set.palette
images, masks = next(iter(val_loader))
images, masks = images[:3], masks[:3]


def train(model: torch.nn.Module, step, num_epochs: int, lr: float) -> list[float]:
    """The loop that you have: `step` turns a batch into a loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    model.train()
    for _ in range(num_epochs):
        for batch in loader:
            loss = step(*batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def fit_generator(cut: feataug.Cut) -> feataug.FeatureGenerator:
    """A generator, trained briefly; leave out the numbers for a useful one."""
    generator = feataug.FeatureGenerator(num_classes, cut.spec)
    config = feataug.GeneratorConfig(num_images=16 if QUICK else 800, ema_images=200)
    feataug.GeneratorTrainer(generator, cut, config, progress=False).fit(loader, val_loader)
    return generator


def show(cut: feataug.Cut, generator: feataug.FeatureGenerator, levels: range):
    """Real beside synthetic features, for some of the levels that cross the cut."""
    cut.model.eval()
    with torch.no_grad():
        real = cut.encode(images)
        synthetic = generator(masks, generator.draw_z(masks, torch.Generator().manual_seed(0)))
    columns = {"image": color_images(images), "mask": color_masks(masks, palette)}
    for number in levels:
        stride = cut.spec[number].reduction
        columns[f"real, stride {stride}"], columns[f"synthetic, stride {stride}"] = feature_colors(
            [real[number], synthetic[number]]
        )
    return draw_grid(columns)


# %% [markdown]
# ## torchvision: DeepLabV3 with an auxiliary head
#
# In a real project use `weights="DEFAULT"` and a new classifier, or `weights_backbone="DEFAULT"`.
# The model returns `{"out": ..., "aux": ...}`; the auxiliary head reads an earlier layer of the
# backbone, in training only.

# %%
deeplab = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
    weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True
)


def cross_entropy(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, masks, ignore_index=255)


def deeplab_step(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    out = deeplab(images)
    return cross_entropy(out["out"], masks) + 0.4 * cross_entropy(out["aux"], masks)


deeplab_plain = train(deeplab, deeplab_step, 1 if QUICK else 5, lr=2e-3)

# %% [markdown]
# The backbone's output is a dictionary as well. The classifier reads one of its maps, the auxiliary
# head the other, so two levels cross.

# %%
deeplab_cut = feataug.split(deeplab, at="backbone")
for level in deeplab_cut.spec:
    print(level)

# %% [markdown]
# The mixer knows outputs of this form, so its loss covers both heads on all samples. `aux_weight`
# is the factor from the loop above.

# %%
deeplab_generator = fit_generator(deeplab_cut)
deeplab_mixer = feataug.FeatureMixer(deeplab_generator, feataug.DatasetMasks(train_set), ratio=0.3, aux_weight=0.4)


def deeplab_mixed_step(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    with deeplab_mixer.on(deeplab_cut, masks) as batch:
        out = deeplab(images)
    assert len(out["out"]) == len(out["aux"]) == len(batch.masks)  # both heads see real and synthetic samples
    return deeplab_mixer.loss(out, batch)


deeplab_mixed = train(deeplab, deeplab_mixed_step, 1 if QUICK else 2, lr=5e-4)
feataug.update_bn(deeplab, loader)  # its BatchNorm has seen synthetic features
figures = feataug.evaluate(deeplab, val_loader, num_classes)
print(f"DeepLabV3: loss {deeplab_plain[0]:.2f} at first, {deeplab_mixed[-1]:.2f} in the end; mIoU {figures['miou']:.1f} %")

# %% alt="Images, masks, and DeepLabV3's real and synthetic features at both levels that cross"
show(deeplab_cut, deeplab_generator, range(2))

# %% [markdown]
# ## transformers: SegFormer, with the loss inside
#
# This is a tiny one, built from a configuration; in a real project use
# `SegformerForSemanticSegmentation.from_pretrained("nvidia/mit-b0", num_labels=...)`. It takes
# `labels` and returns `.loss` and `.logits`, the latter at a quarter of the size.

# %%
small = {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 64}
segformer = SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_classes, semantic_loss_ignore_index=255, **small))


def segformer_step(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return segformer(pixel_values=images, labels=masks).loss


segformer_plain = train(segformer, segformer_step, 1 if QUICK else 8, lr=2e-3)

# %% [markdown]
# The tensors that cross may depend on the call. So split a model that computes its loss inside with
# the arguments of *that* call as the example:

# %%
segformer_cut = feataug.split(segformer, at="segformer", example={"pixel_values": images, "labels": masks})
for level in segformer_cut.spec:
    print(level)

# %% [markdown]
# In the step the call stays the same, with one difference: `labels` are the masks of the mixed
# batch, first the real ones, then those of the synthetic samples. The loss is the model's own, over
# all samples. For `Trainer`, override `compute_loss` with these lines.

# %%
segformer_generator = fit_generator(segformer_cut)
segformer_mixer = feataug.FeatureMixer(segformer_generator, feataug.DatasetMasks(train_set), ratio=0.3)
counts = []


def segformer_mixed_step(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    with segformer_mixer.on(segformer_cut, masks) as batch:
        out = segformer(pixel_values=images, labels=batch.masks)
    counts.append((batch.num_real, batch.num_synthetic, len(out.logits)))
    return out.loss


segformer_mixed = train(segformer, segformer_mixed_step, 1 if QUICK else 2, lr=5e-4)
feataug.update_bn(segformer, loader)  # its head has BatchNorm
figures = feataug.evaluate(segformer, val_loader, num_classes)
print(f"SegFormer: loss {segformer_plain[0]:.2f} at first, {segformer_mixed[-1]:.2f} in the end; mIoU {figures['miou']:.1f} %")
print("samples of the steps (real, synthetic, logits):", sorted(set(counts)))

# %% alt="Images, masks, and SegFormer's real and synthetic features at the first three of four levels"
show(segformer_cut, segformer_generator, range(3))

# %% alt="The training losses of DeepLabV3 and of SegFormer over the steps, first plain, then mixed"
figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
runs = {"DeepLabV3": (deeplab_plain, deeplab_mixed), "SegFormer": (segformer_plain, segformer_mixed)}
for panel, (name, (plain, mixed)) in zip(axes, runs.items(), strict=True):
    panel.plot(range(len(plain)), plain, label="plain steps")
    panel.plot(range(len(plain), len(plain) + len(mixed)), mixed, label="mixed steps")
    panel.set_title(name, fontsize=10)
    panel.set_xlabel("step", fontsize=8)
axes[0].legend(fontsize=8)

# %% [markdown]
# Do not compare the plain and the mixed part of a curve: the mixed loss is over more samples, and
# some of them are generated. The curves show that both models train on mixed batches as they did on
# plain ones. Whether that helps is the question of [06_does_it_help](06_does_it_help.ipynb).
#
# ## Where to go next
#
# - Other torchvision and transformers models (LR-ASPP, FCN, UPerNet, DPT, BEiT, ...),
#   mmsegmentation's shape: [recipes](../docs/cut.md).
# - DDP, autocast, `torch.compile`, gradient checkpointing: [living with the rest of
#   PyTorch](../docs/cut.md).
# - Masks beyond those of the training set:
#   [05_masks_you_already_have](05_masks_you_already_have.ipynb).
