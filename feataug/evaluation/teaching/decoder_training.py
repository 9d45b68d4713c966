"""Train a fresh decoder on features from one source, as one run of a teaching score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_features, check_loader, check_mask_form, check_masks, check_pair, check_pairs, describe
from feataug.core.modes import eval_mode
from feataug.core.rng import derive_seed, preserved_rng, seeded
from feataug.cutting.cut import Cut
from feataug.errors import ShapeError, TrainingError
from feataug.evaluation.teaching.fresh_decoder import encoder_of
from feataug.losses import segmentation_loss
from feataug.mixing.batch import MixedBatch
from feataug.training.batch_norm import measure, norms_of
from feataug.training.batches import ask_for_first_epoch
from feataug.training.config import FinetuneConfig
from feataug.training.finetuner import Finetuner

# A function of masks, the features of their images, and a random generator, that returns features, or features and their masks.
Source = Callable[[Tensor, tuple[Tensor, ...], torch.Generator], Any]


class SourceToDecoder(nn.Module):
    """The module that ``Finetuner`` trains: it maps images to the decoder's output on the source's features for their masks.

    Encoder and source run without gradients, the encoder in eval mode. The source's random numbers depend only on the step and the
    configuration's seed. What it draws from torch's global generators does not change the decoder's dropout.

    Args:
        cut: The cut whose decoder is trained; see ``fresh_decoder``.
        source: ``(masks, real, rng) -> features``, or ``-> (features, masks)`` for other masks.
        name: The source's name, for messages.
        num_classes: Number of classes.
        ignore_index: The label of void.
    """

    def __init__(self, cut: Cut, source: Source, name: str, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.model, self._labels = cut.model, (num_classes, ignore_index)
        self.masks: Tensor | None = None
        # In a tuple, so that a source that is a module does not become a submodule with trainable weights.
        self._source = (source,)
        self._cut, self._who = cut, f"teaching_score: source {name!r}"

    def forward(self, images: Tensor) -> Any:
        """Decode the source's features for ``self.masks``, the masks of the images."""
        masks = self.masks
        assert masks is not None
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        with torch.no_grad():
            with eval_mode(self.model):
                real = self._cut.encode(images)
            rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            with preserved_rng(images.device):
                found = self._source[0](masks, real, rng)
            if len(found) == 2 and isinstance(found[0], (tuple, list)):
                # The loss is that of the masks that were decoded.
                found, own = found
                self.masks = masks = check_masks(self._who, own, *self._labels).to(masks.device)
                if tuple(masks.shape[-2:]) != size:
                    raise ShapeError(f"{self._who}: its masks have another size.", given=describe(masks), needed=f"[n, {size[0]}, {size[1]}]")
            found = check_features(self._who, found, self._cut.spec, size)
            check_pairs(self._who, found, masks)
            # In the memory format of the real features, so that the same kernels run on both.
            features = [_like(x, level) for x, level in zip(found, real, strict=True)]
        return self._cut.decode(features, size)


class _MaskPassing:
    """Pass each batch's masks to the ``SourceToDecoder``, with the interface of the mixer in ``Finetuner``."""

    def __init__(self, aux_weight: float, ignore_index: int, about: dict[str, Any], own_loss: Any = None) -> None:
        self.aux_weight, self.ignore_index, self.about, self.own_loss = aux_weight, ignore_index, about, own_loss
        self.model: Any = None

    @contextmanager
    def on(self, cut: Any, masks: Tensor) -> Iterator[MixedBatch]:
        self.model = cut.model
        cut.model.masks = masks.long()
        yield MixedBatch((), cut.model.masks, torch.zeros(len(masks), dtype=torch.bool, device=masks.device), len(masks))

    def loss(self, out: Any, batch: MixedBatch) -> Tensor:
        if self.own_loss is not None:
            found: Tensor = self.own_loss(out, self.model.masks)
            return found
        return segmentation_loss(
            out, self.model.masks, aux_weight=self.aux_weight, ignore_index=self.ignore_index, across_processes=True
        )

    def settings(self) -> dict[str, Any]:
        return self.about

    def origin(self) -> dict[str, Any]:
        return {}

    def plan_state(self) -> dict[str, Any]:
        return {}

    def load_plan_state(self, state: dict[str, Any]) -> None:
        pass

    def to(self, device: Any) -> None:
        pass

    def train(self) -> None:
        pass


def teach(
    cut: Cut,
    source: Source,
    loader: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    config: FinetuneConfig,
    num_classes: int,
    *,
    name: str,
    about: dict[str, Any] | None = None,
    bn_batches: int = 21,
    ignore_index: int = 255,
    output: str | Path | None = None,
    device: str | torch.device | None = "auto",
    progress: bool | str = True,
) -> nn.Module:
    """Train the decoder of ``cut`` only on features from ``source``, and measure its BatchNorm on such features.

    Args:
        cut: A cut made by ``fresh_decoder``. Its model is trained in place.
        source: ``(masks, real, rng) -> features``. Its ``decoder_loss(out, masks)``, if any, takes the cross entropy's place.
        loader: Returns the loader of training ``(images, masks)`` from its beginning.
        config: Settings of the training; the prefixes of ``lr_scale`` are names in the cut's model.
        num_classes: Number of classes.
        name: The source's name.
        about: Identifies the source in checkpoints.
        bn_batches: The number of batches on which BatchNorm is measured after training, or one pass if it is shorter.
        ignore_index: The label of void.
        output: The folder for checkpoints, from which an interrupted run resumes.
        device, progress: As for ``Finetuner``.

    Returns:
        The trained model, in eval mode and without the cut.

    Raises:
        TrainingError: training has changed the encoder's features, since a weight is used on both sides of the cut; or see
            ``Finetuner.fit``.
        CheckpointError: see ``Finetuner.fit``.
        ShapeError, DtypeError: the source's features do not fit the cut.
    """
    trained = SourceToDecoder(cut, source, name, num_classes, ignore_index)
    config = replace(config, lr_scale={f"model.{prefix}": scale for prefix, scale in config.lr_scale.items()})
    mixer: Any = _MaskPassing(config.aux_weight, ignore_index, {"source": name} | (about or {}), getattr(source, "decoder_loss", None))
    same_cut: Any = SimpleNamespace(model=trained, at=cut.at, spec=cut.spec)
    tuner = Finetuner(trained, config, mixer=mixer, cut=same_cut, output=output, device=device, progress=progress)
    where = tuner.accelerator.device
    probe = check_pair("teaching_score", next(iter(first_batches(loader(), 1)), (torch.zeros(0), None)))[0]
    before = _encoded(cut, probe, where) if len(probe) else ()
    tuner.fit(loader(), num_classes=num_classes, ignore_index=ignore_index)

    def images() -> Iterator[Tensor]:
        for batch in first_batches(loader(), bn_batches):
            pictures, labels = check_pair("teaching_score", batch)
            check_mask_form("teaching_score", labels)
            trained.masks = check_masks("teaching_score", labels, num_classes, ignore_index).to(where)
            yield pictures

    # The encoder keeps its trained statistics, whatever mode its norms are in.
    encoder = [module for module in norms_of(cut.model) if module in encoder_of(cut)[1]]
    with seeded(derive_seed(config.seed, "statistics"), where):
        measure(trained, images(), where, dict.fromkeys(encoder, False), "teaching_score")
    for level, old, new in zip(cut.spec, before, _encoded(cut, probe, where), strict=True):
        if not torch.allclose(old, new, rtol=1e-3, atol=1e-3 * float(old.std())):
            raise TrainingError(
                "teaching_score: the encoder has changed while the decoder was trained.",
                given=f'other features at level "{level.name}"',
                needed="a cut where no weight or buffer is used on both sides",
                advice="Cut at another layer: feataug.cuts(model, images) lists them.",
            )
    cut.remove()
    return cut.model.eval()


def first_batches(loader: Any, count: int) -> Iterator[Any]:
    """Yield the first batches of a loader's first epoch, or all if there are fewer. Every process reads the same ones."""
    ask_for_first_epoch(loader)
    return islice(check_loader("teaching_score", loader), count)


def _like(features: Tensor, real: Tensor) -> Tensor:
    wide = real.is_contiguous(memory_format=torch.channels_last) and not real.is_contiguous()
    return features.to(real, memory_format=torch.channels_last if wide else torch.contiguous_format)


@torch.no_grad()
def _encoded(cut: Cut, images: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    cut.model.to(device)
    with eval_mode(cut.model), preserved_rng(device):
        return cut.encode(images.to(device, memory_format=torch.channels_last))
