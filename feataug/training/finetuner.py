"""Train a segmentation model on real batches, or on batches that a mixer extends with synthetic features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_dtype_of, check_images, check_mask_form, check_pairs
from feataug.core.crop_sizes import SeenSizes, note_size
from feataug.core.distributed import all_reduce_sum
from feataug.core.identity import describe_data
from feataug.core.label_checks import FirstLabels, check_labels
from feataug.core.rng import seeded
from feataug.errors import ConfigError
from feataug.inference.context_check import CropSize
from feataug.io.hub import HubModel
from feataug.losses import segmentation_loss
from feataug.training.batch_norm import frozen_parts, measure, modes, modes_of
from feataug.training.batches import ask_for_first_epoch, bad_samples, endless, shared
from feataug.training.config import FinetuneConfig
from feataug.training.device import make_accelerator
from feataug.training.poly_sgd import parameter_groups, set_poly_lr
from feataug.training.progress import progress_bar
from feataug.training.run_folder import RunFolder, check_finite, folder_lock
from feataug.training.run_settings import start_of
from feataug.training.signals import StopRequest, stop_requests
from feataug.training.state_io import broadcast_from_main, load_optimizer
from feataug.training.validation import validate_model

if TYPE_CHECKING:
    from feataug.mixing.mixer import FeatureMixer

# Lines of stats.jsonl with only the loss over a whole run: enough for a curve.
_LOSS_LINES = 50


class Finetuner:
    """Train a model by SGD with the poly policy on ``(images, masks)``, with or without synthetic features.

    Args:
        model: The whole segmentation model, images to logits. Its own ``train`` puts it into train mode, which may keep norms frozen.
            Modules that are frozen now stay frozen: those in eval mode within a model in train mode, without a trainable weight.
        config: The settings; see ``FinetuneConfig``.
        mixer: Extends every batch at the cut. Without a mixer, training sees real samples only (the control).
        cut: The cut of ``model`` where the mixer's features enter; required with ``mixer``.
        loss: Your own loss, of the model's output and the masks. The default is cross entropy. A mixer has its own loss.
        output: The folder for ``stats.jsonl`` and checkpoints. A run resumes from its own checkpoint there.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, a ``torch.device``, or ``"auto"``.
        same_start: Resume a run in ``output`` only if it started from the weights that ``model`` has now. ``False`` is for models
            with random first weights that were not seeded: they continue with the weights of the run.
        progress: Show a progress bar; a string is its label.

    Raises:
        ConfigError: a mixer without a cut, a cut of another model, or a mixer and a loss.

    Source:
        Sec. 4.1 (SGD, poly). Real samples update E and D, synthetic samples only D (Sec. 3).
    """

    def __init__(
        self,
        model: nn.Module,
        config: FinetuneConfig | None = None,
        *,
        mixer: FeatureMixer | None = None,
        cut: Any = None,
        loss: Callable[[Any, Tensor], Tensor] | None = None,
        output: str | Path | None = None,
        device: str | torch.device | None = "auto",
        same_start: bool = True,
        progress: bool | str = True,
    ) -> None:
        if mixer is not None and (cut is None or cut.model is not model):
            raise ConfigError(
                "Finetuner: the cut does not belong to the model.",
                given="no cut" if cut is None else f"a cut of another {type(cut.model).__name__}",
                needed="Finetuner(cut.model, mixer=mixer, cut=cut)",
            )
        if mixer is not None and loss is not None:
            raise ConfigError(
                "Finetuner: two losses.",
                given="a mixer and a loss",
                needed="one of them",
                advice="For your own loss on mixed batches, override loss(out, batch) in a subclass of the mixer.",
            )
        self.model, self.mixer, self.cut, self.loss = model, mixer, cut, loss
        self.config = config or FinetuneConfig()
        self.run = RunFolder(output, self.config.to_dict() | {"mixed": mixer.settings() if mixer is not None else False})
        self._same_start = same_start
        self._start: dict[str, Any] = {}
        self._modes: dict[nn.Module, bool] = {}
        self._sizes: SeenSizes | None = None
        self.accelerator = make_accelerator(device, self.config.mixed_precision)
        self.progress = progress

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}{' with a FeatureMixer' * (self.mixer is not None)}, {self.config})"

    def fit(
        self,
        loader: Iterable[tuple[Tensor, Tensor]],
        validate: Callable[[nn.Module], dict[str, Any]] | Iterable[tuple[Tensor, Tensor]] | None = None,
        *,
        num_classes: int | None = None,
        ignore_index: int = 255,
        crop_size: CropSize = "noted",
    ) -> list[dict[str, Any]]:
        """Train for ``config.num_steps`` steps.

        If all real images had one size, it is noted on the model at the end, for ``evaluate`` and ``recognition``. Copies of the model and
        ``PSPNet.save_pretrained`` keep the note.

        Args:
            loader: Yields real ``(images, masks)``. It is read as often as needed.
            validate: A loader to measure on, or a function of the model that returns figures to log.
            num_classes: The number of classes; required if ``validate`` is a loader.
            ignore_index: The label of void.
            crop_size: The size of the training crops, which ``evaluate`` uses to check the last measurement (and no other) for a context
                that depends on the image size. ``"noted"`` is the size of the training images; ``None`` skips the check. It applies if
                ``validate`` is a loader. A function predicts as it likes: ``lambda model: evaluate(Inference(model, window=size), ...)``.

        Returns:
            One dictionary for each evaluation: ``progress`` (steps), and the measures of ``metrics.scores``.

        Raises:
            TrainingError: the loader yields nothing, or the loss is not finite.
            CheckpointError: ``output`` holds a run with other settings, of another model, generator, mask source, data set or loss, or
                another run is using it.
            DataError: the masks that a reader of ``feataug.data`` reads hold only one class and void, as binary masks of 0 and 255 do.

        Warns:
            FeatAugWarning: a class has no pixel in any mask (if the set is small enough to check all masks), or the model does worse on
                whole images than with windows in the last measurement.

        Ctrl-C and SIGTERM save a checkpoint after the current step, then raise ``KeyboardInterrupt`` or ``SystemExit(143)``.
        """
        check_labels("Finetuner", loader, training=True)
        check_labels("Finetuner", validate)
        try:
            with folder_lock(self.run.path), stop_requests() as stop:
                return self._fit(loader, validate, num_classes, ignore_index, crop_size, stop)
        finally:
            if self._sizes is not None:
                note_size(self.model, self._sizes.one())

    def _fit(
        self,
        loader: Iterable[tuple[Tensor, Tensor]],
        validate: Any,
        num_classes: int | None,
        ignore_index: int,
        crop_size: CropSize,
        stop: StopRequest,
    ) -> list[dict[str, Any]]:
        config, accelerator = self.config, self.accelerator
        self.run.settings |= self._identity(loader, validate, num_classes, ignore_index)
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model.to(accelerator.device, memory_format=memory_format)  # type: ignore[call-overload]
        groups = parameter_groups(self.model, config.lr_scale)
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        model, optimizer = accelerator.prepare(self.model, optimizer)
        if self.mixer is not None:
            self.mixer.to(accelerator.device)
            self.mixer.train()
        step, results, running = 0, [], 0.0
        sizes = SeenSizes()
        if found := broadcast_from_main(self.run.resume, accelerator.device):
            step, state = found
            self.model.load_state_dict(state["model"])
            load_optimizer(optimizer, state["optimizer"])
            results, running = state["results"], state.get("running", 0.0)
            sizes = SeenSizes(state.get("sizes", ()))
            if self.mixer is not None:
                self.mixer.load_plan_state(state["mixer"])
        if isinstance(self.model, HubModel):
            # The card described the weights from before training.
            self.model.card = {}
        note_size(self.model, None)
        self._sizes = sizes
        batches = endless(shared(loader, accelerator), step)
        self._train_mode(model)
        began = time.monotonic()
        text = self.progress if isinstance(self.progress, str) else "finetune"
        labels = FirstLabels("Finetuner", ignore_index)
        shown = bool(self.progress) and accelerator.is_main_process
        with progress_bar(config.num_steps, step, text, "step", shown) as bar:
            while step < config.num_steps:
                images, masks = next(batches)
                check_images("Finetuner", images)
                sizes.see(images)
                if self.loss is None:
                    check_mask_form("Finetuner", masks)
                    labels.look(masks, num_classes)
                    check_pairs("Finetuner", (images,), masks, "images")
                images = images.to(accelerator.device, memory_format=memory_format, non_blocking=True)
                masks = masks.to(accelerator.device, non_blocking=True)
                set_poly_lr(optimizer, config, step)
                # Dropout depends only on the step: all arms see equal noise, and a resumed run repeats it.
                seed = (config.seed * 1_000_003 + step + 10**12 * accelerator.process_index) % 2**63
                with seeded(seed, accelerator.device):
                    loss = self._loss(model, images, masks, ignore_index)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                step += 1
                value = float(all_reduce_sum(loss.detach())) / accelerator.num_processes
                running = value if step == 1 else 0.95 * running + 0.05 * value
                check_finite("the loss", running, step)
                bar.update()
                bar.set_postfix_str(f"loss {running:.3f}", refresh=False)
                last = step == config.num_steps
                stop.sync(accelerator.device)
                if validate is not None and (last or (config.eval_every and step % config.eval_every == 0)):
                    with stop.interruptible():
                        # Only the last measurement checks for a context that depends on the size.
                        size = (sizes.one() if crop_size == "noted" else crop_size) if last else None
                        figures = validate_model(self.model, validate, num_classes, ignore_index, size, accelerator.device)
                    result = {"progress": step} | figures | bad_samples(loader)
                    results.append(result)
                    self.run.log(step, result | {"loss": running, "seconds": round(time.monotonic() - began, 1)})
                elif last or step % max(config.num_steps // _LOSS_LINES, 1) == 0:
                    self.run.log(step, {"loss": running, "seconds": round(time.monotonic() - began, 1)})
                if last or stop.signum or (config.save_every and step % config.save_every == 0):
                    self._save(step, optimizer, results, running, sizes)
                stop.raise_if_requested()
        return results

    def update_bn(self, loader: Iterable[Any]) -> None:
        """Measure BatchNorm's running statistics on one pass over real images, for the norms that were trained; see ``feataug.update_bn``.

        After mixed training the statistics describe real and synthetic features together, which does not suit evaluation on real images.
        On CamVid this call turned a loss of class accuracy into a gain (``docs/whole-images.md``). Norms that were in eval mode during
        ``fit`` stay as they are, whatever mode the model has now. Without a ``fit`` before, the model's current modes decide; a model in
        eval mode is put into train mode first, by its own ``train``, and back afterwards.

        Args:
            loader: Yields ``(images, masks)`` or images. One that repeats itself (``data.seeded_loader``) is read from its first epoch.

        Raises:
            DataError: the loader yields nothing, or no images.

        Source:
            ``torch.optim.swa_utils.update_bn``. Ours: to use it here.
        """
        # Otherwise a run that was resumed at its end would see the crops of another epoch.
        ask_for_first_epoch(loader)
        if self.model in self._modes or self.model.training:
            measure(self.model, loader, self.accelerator.device, self._modes, "Finetuner.update_bn")
            return
        # This object has not trained the model, and the model is in eval mode.
        with modes(self.model, {}):
            self.model.train()
            measure(self.model, loader, self.accelerator.device, {}, "Finetuner.update_bn")

    def trained_modes(self, trained: Mapping[nn.Module, bool]) -> None:
        """Set which modules of ``model`` were in training mode, for ``update_bn`` after training by other code."""
        self._modes = dict(trained)

    def _train_mode(self, model: nn.Module) -> None:
        """Put the model into training mode, except for its frozen parts, and store the modes for ``update_bn``."""
        frozen = frozen_parts(self.model)
        model.train()
        for module in frozen:
            module.training = False
        self._modes = modes_of(self.model)

    def _identity(self, loader: Any, validate: Any, num_classes: int | None, ignore_index: int) -> dict[str, Any]:
        """Return what identifies this run besides its settings: the models when training began, and the data."""
        self._start = self._start or start_of(self.model, self.loss, self.mixer, self.cut, self._same_start)
        found: dict[str, Any] = {"data": describe_data(loader), "ignore_index": ignore_index}
        if validate is None or not callable(validate):
            found |= {"val_data": describe_data(validate, measured=True), "num_classes": num_classes}
        return self._start | found

    def _loss(self, model: nn.Module, images: Tensor, masks: Tensor, ignore_index: int) -> Tensor:
        with self.accelerator.autocast():
            check_dtype_of("Finetuner", "images", images, self.model)
            if self.mixer is None:
                out = model(images)
                if self.loss is not None:
                    return self.loss(out, masks)
                return segmentation_loss(
                    out, masks, aux_weight=self.config.aux_weight, ignore_index=ignore_index, across_processes=True
                )
            with self.mixer.on(self.cut, masks) as batch:
                out = model(images)
            return self.mixer.loss(out, batch)

    def _save(self, step: int, optimizer: Any, results: list[dict[str, Any]], running: float, sizes: SeenSizes) -> None:
        state = {"model": self.model.state_dict(), "optimizer": optimizer.state_dict(), "results": results, "running": running}
        mixer = {"mixer": self.mixer.plan_state()} if self.mixer is not None else {}
        self.run.save(step, state | {"sizes": sizes.state()} | mixer)
