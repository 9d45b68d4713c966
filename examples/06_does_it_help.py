# %% [markdown]
# # Does it help?
#
# **What you will see.** `feataug.compare` trains a model further with synthetic features and
# without, several times, and gives a verdict that the differences support. You will see how to call
# it, how to read its intervals and its plot, why it needs a control, a class bias, a ceiling and
# baselines, and the result for a small model on made-up scenes: a gain, a loss, or no difference
# shown.
#
# **How long it takes.** About three minutes on two CPU cores. Nothing is downloaded.
#
# **Install.** `pip install .` in a clone of the repository (Python 3.11 or newer);
# `pip install ".[notebooks]"` adds Jupyter.

# %%
import os

import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.reporting.plots import draw_comparison

QUICK = bool(os.environ.get("FEATAUG_QUICK"))  # set by the project's tests: a few steps of everything
torch.manual_seed(0)
size, batch_size = (64, 96), 8

# %% [markdown]
# ## What you need: a trained model and a generator
#
# Both are made briefly here, as in [01_quick_start](01_quick_start.ipynb). In a real project use
# your own: a model that has been trained until it gains no more, and a generator whose recognition
# score and diversity you have checked.

# %%
train_set = Scenes(16 if QUICK else 128, size, seed=0, transforms=train_transforms(size, scale=(0.75, 1.5)))
plain_set = Scenes(16 if QUICK else 128, size, seed=0, transforms=eval_transforms())  # the same scenes without random crops
val_set = Scenes(8 if QUICK else 64, size, seed=1, transforms=eval_transforms())
loader = seeded_loader(train_set, batch_size)
plain_loader = seeded_loader(plain_set, batch_size, shuffle=False)
val_loader = seeded_loader(val_set, batch_size, shuffle=False)
classes = train_set.classes


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
feataug.Finetuner(model, feataug.FinetuneConfig(num_steps=4 if QUICK else 240, lr=0.2), progress=False).fit(loader)

at = "encoder"
cut = feataug.split(model, at=at)
generator = feataug.FeatureGenerator(len(classes), cut.spec)
config = feataug.GeneratorConfig(num_images=16 if QUICK else 2_000, ema_images=200)
score = feataug.GeneratorTrainer(generator, cut, config, progress=False).fit(loader, val_loader)[-1]
print(f"recognition: mIoU {score['real']['miou']:.1f} % on real features, {score['synthetic']['miou']:.1f} % on synthetic ones")

# %% [markdown]
# ## What feataug has to beat
#
# A model that is trained further changes by itself. Comparing "before" with "after" would credit us
# with that. So there is always the **control**: it starts from the same weights and takes as many
# steps on the same real batches in the same order, without synthetic samples.
#
# The control is not enough if a part of the recipe works without generating anything. Here
# `power=1.5` asks `recommended` for class weights: classes that the model predicts too rarely get
# more weight. That alone changes class accuracy a lot. So whenever there are class weights,
# `compare` also trains an arm with the **class weights** and no synthetic features: only a gain
# over *that* arm is due to the features.
#
# A **class bias** does most of what the weights do: one number for each class, added to the logits,
# fitted on training images after training. It costs nothing, so `compare` fits one to the base and
# to every arm, and compares after it. The figures before it are kept.
#
# Is any gain possible at all? The **ceiling** trains like feataug, with the encoder's features of
# *real* images in place of synthetic ones: labelled images that the other arms do not see. If these
# gain nothing, no generator can be shown to gain.
#
# Finally there are **baselines**, arms of your own: any function of
# `(model, loader, config, folder)` that returns the trained model. Here one smooths the labels of
# real images.
#
# `recommended` warns here: a model as weak as this one predicts hardly a pixel of four of the ten
# classes, and their weights stand at the limit. Its advice is to train longer first. This page
# continues anyway, to show what such weights cost.

# %%
settings = feataug.recommended(cut, train_set, plain_loader, len(classes), power=1.5)
weights = settings["class_weights"]
print("class weights:", ", ".join(f"{name} {weight:.1f}" for name, weight in zip(classes, weights.tolist(), strict=True)))


def smoothed_labels(student, real_loader, arm_config, folder):
    """Label smoothing on real images, nothing else."""

    def loss(out, masks):
        return F.cross_entropy(out, masks, ignore_index=255, label_smoothing=0.1)

    feataug.Finetuner(student, arm_config, loss=loss, output=folder, progress=False).fit(real_loader)
    return student


# %% [markdown]
# ## Ask
#
# `loader` is a function of the seed, so that both arms of a pair see the same batches, and pairs
# differ. With `output="runs/compare"` a run that was stopped continues where it was, and finished
# arms are not repeated. At the end BatchNorm is measured again on real images, in every arm.
# `plain_loader` holds whole training images: the class biases are fitted on them, not on validation
# images. `compare` checks that no image is in both before it trains anything.

# %%
further_set = Scenes(16 if QUICK else 128, size, seed=2, transforms=train_transforms(size, scale=(0.75, 1.5)))
result = feataug.compare(
    model,
    at,
    generator,
    **settings,
    loader=lambda seed: seeded_loader(train_set, batch_size, seed=seed),
    val_loader=val_loader,
    config=feataug.FinetuneConfig(num_steps=2 if QUICK else 40, lr=0.02),
    seeds=(0, 1) if QUICK else (0, 1, 2, 3),
    baselines={"label smoothing": smoothed_labels},
    plain_loader=plain_loader,
    ceiling=lambda seed: seeded_loader(further_set, batch_size, seed=seed),
    classes=classes,
    progress=False,
)

# %% [markdown]
# ## Read
#
# First the means of the arms, in percent:

# %%
measures = {"pixel_acc": "PixelAcc", "class_acc": "ClassAcc", "miou": "mIoU", "fw_iou": "fwIoU"}
print(f"{'':15}" + "".join(f"{title:>10}" for title in measures.values()))
for name, figures in {"base": result["base"], **result["arms"]}.items():
    print(f"{name:15}" + "".join(f"{figures[measure]:10.2f}" for measure in measures))
print("before the class bias")
for name, figures in {"base": result["base"]["before_bias"], **result["arms_before_bias"]}.items():
    print(f"{name:15}" + "".join(f"{figures[measure]:10.2f}" for measure in measures))

# %% [markdown]
# The means are not the answer. The answer is in the **differences of pairs**: each seed gives one
# difference between an arm and its own control, so that effects of the data order on both cancel.
# These differences give a 95 % interval (Student's t):
#
# - The interval lies **above zero**: the arm is ahead in that measure.
# - It lies **below zero**: the arm is behind.
# - It **holds zero**: nothing is shown. That does not mean "no effect"; it means that these seeds
#   cannot show one. A wide interval around zero calls for more seeds. A narrow one says that the
#   effect, if there is one, is no larger than the interval.


# %%
def describe(gap: dict) -> str:
    where = "ahead" if gap["low"] > 0 else "behind" if gap["high"] < 0 else "nothing is shown"
    return f"{gap['mean']:+6.2f}  [{gap['low']:+6.2f}, {gap['high']:+6.2f}]  {where}"


for arm, gaps in result["differences"].items():
    print(f"{arm} minus control, in points")
    for measure, title in measures.items():
        print(f"  {title:10}{describe(gaps[measure])}")

# %%
print(result["verdict"])

# %% [markdown]
# Three cautions. A 95 % interval wrongly excludes zero once in twenty times, and there are four
# measures and all your classes: decide *before* which of them counts. The seeds vary the training,
# but not the base model, the generator or the validation images: the verdict holds for those. And
# if you chose settings by looking at a validation set, confirm them on another.
#
# The verdict begins with the comparison with the control, after the bias. If a gain was shown
# before the bias but not after it, the verdict says "nothing beyond the bias". If no gain of the
# ceiling is shown in a measure, it says "no room": then nothing can be said about any arm there. To
# see whether the *synthetic features* caused a gain, read the part that compares with the class
# weights alone, pair by pair:

# %%
print("feataug minus the class weights alone, in points")
for measure, title in measures.items():
    print(f"  {title:10}{describe(result['beyond_weights'][measure])}")

# %% [markdown]
# If nothing is shown here, the gain came from the weights, and you can have it without us.
#
# The plot shows the same, with a row for each measure and each class. An interval that crosses the
# grey line shows nothing; hollow circles are the differences before the class bias:

# %% alt="Differences to the control with their 95 % intervals, for the measures on the left and for the IoU of each class on the right"
draw_comparison(result)

# %% [markdown]
# Class accuracy has a price: a model that predicts rare classes more often hits more of their
# pixels and takes pixels from common classes, which PixelAcc and mIoU show. So look at all four
# measures, not only at the one that went up.

# %%
up = [title for measure, title in measures.items() if result["difference"][measure]["low"] > 0]
down = [title for measure, title in measures.items() if result["difference"][measure]["high"] < 0]
print(f"measures of feataug: {len(up)} ahead, {len(down)} behind, {len(measures) - len(up) - len(down)} of which nothing is shown")

# %% [markdown]
# This was a weak model of a few thousand weights on scenes that a program drew. It shows how to
# compare, and says nothing about your data.
#
# ## Where to go next
#
# - The same question on CamVid, and where we are behind: [results](../docs/results.md).
# - From the command line, for saved models, with a table and a plot:
#   `feataug compare --model runs/base --generator runs/generator ...`.
# - What we found about the paper's claims: [the paper, claim by claim](../docs/paper.md).
# - Questions, such as "why is pixel accuracy lower than before?": [FAQ](../docs/faq.md).
