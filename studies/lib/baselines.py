"""Baselines without synthetic features: each trains the model further, for as many steps as the control.

``BASELINES`` maps names to functions of the study that return an arm for ``feataug.compare``. Only the arm of the class weights has
checkpoints. An interrupted baseline starts again; a finished one is not run again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import Dataset

from feataug import FeatureMixer, FinetuneConfig, Finetuner, split
from feataug.data import seeded_loader
from feataug.evaluation.comparison.arms import weights_alone
from feataug.losses import resize_logits, segmentation_loss, smoothed_cross_entropy, split_outputs

VOID = 255


def label_smoothing(study: Any) -> Any:
    """Label smoothing of 0.1 on the real samples."""
    return _trained_with_loss(study, lambda model: lambda out, masks: segmentation_loss(out, masks, 0, label_smoothing=0.1))


def class_weights(study: Any, power: float | None = None) -> Any:
    """Class weights by deficit, without synthetic features."""
    return weights_alone(study.class_weights(power), device=study.args.device)


def ohem(study: Any, threshold: float = 0.7, kept: float = 0.1) -> Any:
    """Online hard example mining: pixels whose own class has a probability below 0.7, at least a tenth of all.

    Source:
        Shrivastava et al. (2016), for pixels as mmsegmentation's ``OHEMPixelSampler``.
    """
    return _trained_with_loss(study, lambda model: ohem_loss(threshold, kept))


def ohem_loss(threshold: float = 0.7, kept: float = 0.1) -> Callable[[Any, Tensor], Tensor]:
    """The mean loss of pixels whose own class has a probability below ``threshold``; of at least the share ``kept`` of all."""

    def loss(out: Any, masks: Tensor) -> Tensor:
        pixels = _pixel_losses(out, masks)[masks != VOID]
        hardest = pixels.detach().topk(max(1, round(kept * len(pixels)))).values[-1]
        hard = (torch.exp(-pixels.detach()) < threshold) | (pixels.detach() >= hardest)
        return pixels[hard].mean()

    return loss


def isda(study: Any, strength: float = 0.5) -> Any:
    """Implicit semantic data augmentation, with diagonal covariances of each class's features before the classifier.

    Infinitely many features from ``N(f, lambda Sigma_y)`` in closed form: the logit of class ``k`` at a pixel of class ``y`` grows by
    ``lambda / 2 sum_c (w_kc - w_yc)^2 Sigma_y,c``, a look-up by ``(y, k)``. ``lambda`` grows from 0 to ``strength`` over training.

    Source:
        Wang et al. (2019), Eq. (7) and (8); strength as in the authors' segmentation experiments.
    """

    def make(model: Any) -> Callable[[Any, Tensor], Tensor]:
        head = model.head
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if module.training:
                seen[:] = [output.detach()]

        head[0].register_forward_hook(keep)
        classes, width = head[-1].weight.shape[:2]
        count, mean, square = (torch.zeros(classes, *shape, device=study.device) for shape in ((), (width,), (width,)))
        step = [0]

        def loss(out: Any, masks: Tensor) -> Tensor:
            (features,) = seen
            small = F.interpolate(masks[:, None].float(), features.shape[-2:], mode="nearest")[:, 0].long()
            flat, labels = rearrange(features, "b c h w -> (b h w) c"), small.flatten()
            flat, labels = flat[labels != VOID], labels[labels != VOID]
            count.index_add_(0, labels, torch.ones(len(labels), device=labels.device))
            mean.index_add_(0, labels, flat)
            square.index_add_(0, labels, flat.square())
            variance = (square / count[:, None].clamp(min=1) - (mean / count[:, None].clamp(min=1)).square()).clamp(min=0)
            weight = head[-1].weight.flatten(1)
            gaps = (weight[None] - weight[:, None]).square()  # (y, k, channel)
            step[0] += 1
            grown = 0.5 * strength * min(1.0, step[0] / study.further.num_steps) * torch.einsum("ykc,yc->yk", gaps, variance)
            logits = resize_logits(split_outputs(out)[0], masks.shape[-2:])
            extra = grown[masks.masked_fill(masks == VOID, 0)].permute(0, 3, 1, 2)
            return F.cross_entropy(logits + extra, masks, ignore_index=VOID)

        return loss

    return _trained_with_loss(study, make)


def class_uniform(study: Any) -> Any:
    """Every second crop holds a class that was drawn evenly from all.

    Source:
        Zhu et al. (2019), Sec. 3.3.
    """
    return _trained_on(study, lambda data: ClassUniform(data, _classes_held(study)))


def classmix(study: Any) -> Any:
    """Half of the classes of another training image are pasted into every second crop.

    Source:
        Olsson et al. (2021), ClassMix, on labelled images.
    """
    return _trained_on(study, lambda data: Pasted(data, half_of_the_classes))


def cutmix(study: Any) -> Any:
    """A box of half the area from another training image is pasted into every second crop.

    Source:
        Yun et al. (2019), CutMix; French et al. (2020) for segmentation.
    """
    return _trained_on(study, lambda data: Pasted(data, box))


def feature_noise(study: Any) -> Any:
    """30 % of the decoder's batch are real features plus Gaussian noise, as far from real ones in each channel as synthetic features are."""

    def arm(model: nn.Module, loader: Any, config: Any, folder: Any) -> nn.Module:
        noisy = NoisyFeatures(model, study.at, study.generator_distance(), seed=config.seed)
        scales = {f"model.{name}": scale for name, scale in config.lr_scale.items()}
        config = FinetuneConfig.from_dict(config.to_dict() | {"lr_scale": scales})

        def loss(out: Any, masks: Tensor) -> Tensor:
            return segmentation_loss(out, torch.cat([masks, masks[: len(out) - len(masks)]]), len(masks))

        Finetuner(noisy, config, loss=loss, device=study.args.device, progress=f"feature noise {config.seed}").fit(loader)
        return model

    return arm


def images(study: Any) -> Any:
    """Our method cut at the input: a generator of images, as in the paper's Table 1."""

    def arm(model: nn.Module, loader: Any, config: Any, folder: Any) -> nn.Module:
        cut = split(model, study.input_cut)
        mixer = FeatureMixer(study.image_generator(), study.masks("random"), seed=config.seed)
        Finetuner(model, config, mixer=mixer, cut=cut, device=study.args.device, progress=f"images {config.seed}").fit(loader)
        return model

    return arm


BASELINES = {
    "label smoothing": label_smoothing,
    "class weights": class_weights,
    "ohem": ohem,
    "isda": isda,
    "class-uniform": class_uniform,
    "classmix": classmix,
    "cutmix": cutmix,
    "feature noise": feature_noise,
    "images": images,
}


class NoisyFeatures(nn.Module):
    """In training, appends noisy copies of the first samples' features to the decoder's batch."""

    def __init__(self, model: nn.Module, at: str, scale: Tensor, ratio: float = 0.3, seed: int = 0) -> None:
        super().__init__()
        self.model, self.ratio = model, ratio
        self.cut = [split(model, at)]  # in a list, so that it is not registered as a part of the module
        self.scale, self.rng = scale, torch.Generator().manual_seed(seed)

    def forward(self, images: Tensor) -> Any:
        """Logits of all images, then of the noisy copies."""
        if not self.training:
            return self.model(images)
        (cut,) = self.cut
        (features,) = cut.encode(images)
        exact = len(images) * self.ratio / (1 - self.ratio)
        count = int(exact + torch.rand((), generator=self.rng))
        copies = features[:count].detach()
        copies = copies + torch.randn(copies.shape, generator=self.rng).to(copies) * self.scale[:, None, None].to(copies)
        return cut.decode([torch.cat([features, copies])], images.shape[-2:])


class ClassUniform(Dataset):
    """Every second item is replaced by an image that holds an evenly drawn class, cropped until the class is in the crop."""

    def __init__(self, dataset: Any, held: list[list[int]], tries: int = 4) -> None:
        self.dataset, self.held, self.tries = dataset, [(k, indices) for k, indices in enumerate(held) if indices], tries

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if torch.rand(()) < 0.5:
            return self.dataset[index]
        number, indices = self.held[int(torch.randint(len(self.held), ()))]
        index = indices[int(torch.randint(len(indices), ()))]
        for _ in range(self.tries):
            image, mask = self.dataset[index]
            if int((mask == number).sum()) >= 16:
                break
        return image, mask


class Pasted(Dataset):
    """A region of another item is pasted into every second item."""

    def __init__(self, dataset: Any, region: Callable[[Tensor], Tensor]) -> None:
        self.dataset, self.region = dataset, region

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.dataset[index]
        if torch.rand(()) < 0.5:
            return image, mask
        other_image, other_mask = self.dataset[int(torch.randint(len(self.dataset), ()))]
        chosen = self.region(other_mask)
        return torch.where(chosen, other_image, image), torch.where(chosen, other_mask, mask)


def half_of_the_classes(mask: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """ClassMix's region: where half of the classes of a mask are. ``rng`` draws them; by default torch's own generator."""
    classes = mask.unique()
    classes = classes[classes != VOID]
    chosen = classes[torch.randperm(len(classes), generator=rng)[: (len(classes) + 1) // 2]]
    return torch.isin(mask, chosen)


def box(mask: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """CutMix's region: a box of half of the area, of any shape, at any place. ``rng`` as above."""
    rows, columns = mask.shape
    share = 0.5 ** float(torch.rand((), generator=rng))  # height times width is half of the area, of any shape
    height, width = max(1, round(rows * share)), max(1, round(columns * 0.5 / share))
    top, left = (int(torch.randint(room + 1, (), generator=rng)) for room in (rows - height, columns - width))
    region = torch.zeros(rows, columns, dtype=torch.bool)
    region[top : top + height, left : left + width] = True
    return region


def _classes_held(study: Any) -> list[list[int]]:
    """For each class, the indices of the training images that hold it."""
    held: list[list[int]] = [[] for _ in study.classes]
    for index in range(len(study.train)):
        mask = torch.as_tensor(study.train.mask(index))
        counts = torch.bincount(mask[mask != VOID].flatten(), minlength=len(held))
        for number in (counts >= 16).nonzero().flatten().tolist():
            held[number].append(index)
    return held


def _pixel_losses(out: Any, masks: Tensor) -> Tensor:
    return smoothed_cross_entropy(resize_logits(split_outputs(out)[0], masks.shape[-2:]), masks, 0.0, VOID)


def _trained_with_loss(study: Any, make: Callable[[Any], Callable[[Any, Tensor], Tensor]]) -> Any:
    def arm(model: nn.Module, loader: Any, config: Any, folder: Any) -> nn.Module:
        Finetuner(model, config, loss=make(model), device=study.args.device, progress=f"baseline {config.seed}").fit(loader)
        return model

    return arm


def _trained_on(study: Any, make: Callable[[Any], Dataset]) -> Any:
    def arm(model: nn.Module, loader: Any, config: Any, folder: Any) -> nn.Module:
        other = seeded_loader(make(study.train), study.batch, seed=100 + config.seed, num_workers=getattr(study.args, "workers", 0))
        Finetuner(model, config, device=study.args.device, progress=f"baseline {config.seed}").fit(other)
        return model

    return arm
