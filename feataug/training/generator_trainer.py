"""Train a feature generator on pairs of masks and encoder features."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from feataug.core.compatibility import check_spec
from feataug.core.crop_sizes import SeenSizes
from feataug.core.distributed import all_reduce_sum
from feataug.core.fingerprints import fingerprint
from feataug.core.identity import architecture, describe_data
from feataug.core.label_checks import FirstLabels, check_labels
from feataug.core.modes import eval_mode
from feataug.cutting.cut import Cut
from feataug.errors import DataError, FeatAugWarning
from feataug.generation.generator import FeatureGenerator
from feataug.io.card_facts import known_facts
from feataug.training.batches import bad_samples, endless, shared
from feataug.training.bicyclegan import MakeCritic
from feataug.training.config import GeneratorConfig
from feataug.training.device import make_accelerator
from feataug.training.feature_statistics import channel_statistics
from feataug.training.flow_matching import warn_of_memory
from feataug.training.moving_average import update_average
from feataug.training.objectives import check_objective, make_objective
from feataug.training.progress import progress_bar
from feataug.training.run_folder import RunFolder, check_finite, folder_lock
from feataug.training.signals import StopRequest, stop_requests
from feataug.training.state_io import broadcast_from_main, load_optimizer
from feataug.training.validation import measure_generator, try_validation

# The latent L1 alone does not show whether z is used: with the mode-seeking term it stayed above 0.8 (E|N(0, 1)|) while samples differed.
DIVERSITY_ALARM = 0.1
# Losses beside the progress bar.
SHOWN = ("l1", "gan", "latent", "flow", "distill")


class GeneratorTrainer:
    """Train ``generator`` to produce the features that the frozen encoder of ``cut`` computes from images.

    Args:
        generator: A ``FeatureGenerator`` for ``cut.spec``.
        cut: A cut of the trained segmentation model. Its weights, modes and running statistics stay as they are.
        config: The settings, by default those of the generator's preset; ``GeneratorConfig.paper()`` is the paper's objective.
        critic: A function of ``(num_classes, spec)`` that returns your own critic: a module whose ``forward(masks, features)`` returns a
            list of score tensors with one row for each feature, ``k B`` rows for ``B`` masks. It is called twice. The default is the
            critics of ``config``.
        output: The folder for ``stats.jsonl``, checkpoints and trackers. A run resumes from its own checkpoint there.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, a ``torch.device``, or ``"auto"``.
        progress: Show a progress bar; a string is its label.
        cuda_graph: Replay a flow's losses and gradients from CUDA graphs, for batches of the first one's shapes. Small networks wait for
            the CPU that launches their kernels; a graph is launched at once. It needs a GPU and a single process. Not measured yet.

    Raises:
        ShapeError: the generator was made for another cut.
        ConfigError: ``critic`` returns no module that can be trained.

    Warns:
        FeatAugWarning: ``cuda_graph`` has no effect here.

    Source:
        Sec. 3.1 and Zhu et al. (2017), BicycleGAN; Lipman et al. (2023), flow matching. Ours, as settings: task loss through the frozen
        decoder, mode-seeking term, moving average of the weights.
    """

    def __init__(
        self,
        generator: FeatureGenerator,
        cut: Cut,
        config: GeneratorConfig | None = None,
        *,
        critic: MakeCritic | None = None,
        output: str | Path | None = None,
        device: str | torch.device | None = "auto",
        progress: bool | str = True,
        cuda_graph: bool = False,
    ) -> None:
        check_spec("GeneratorTrainer", generator.spec, cut.spec, "FeatureGenerator(num_classes, spec=cut.spec)")
        self.generator, self.cut = generator, cut
        self.config = config or GeneratorConfig.for_preset(generator.preset)
        check_objective(generator, self.config, critic)
        own_critic = {} if critic is None else {"critic": getattr(critic, "__qualname__", type(critic).__qualname__)}
        self.run = RunFolder(output, self.config.to_dict() | own_critic)
        self.accelerator = make_accelerator(device, self.config.mixed_precision, self.config.trackers, self.run.path)
        self.progress = progress
        self._last: dict[str, float] = {}
        self.objective = make_objective(generator, cut, self.config, critic, self.accelerator, cuda_graph)
        self.parts = self.objective.parts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cut}, {self.config})"

    def fit(
        self, loader: Iterable[tuple[Tensor, Tensor]], val_loader: Iterable[tuple[Tensor, Tensor]] | None = None
    ) -> list[dict[str, Any]]:
        """Train for ``config.num_images`` images. Afterwards the generator holds the averaged weights.

        Args:
            loader: Yields ``(images, masks)`` in batches of two or more. It is read as often as needed. A loader of a ``FeatureBank``
                yields ``(features, masks)`` instead, which saves the encoding.
            val_loader: Pairs on which the recognition score and the diversity ratio are measured; without it they are not. Images that are
                larger than the crops that the model (or else the generator) was trained on are cut into windows of their size.

        Returns:
            One dictionary for each measurement: ``progress`` (images), what ``recognition`` returns, and for a flow ``held_out``, its loss
            on the pairs of ``val_loader``.

        Raises:
            TrainingError: the loader yields nothing, or single samples, or a loss is not finite.
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``.
            DataError: the masks hold only one class and void, as binary masks of 0 and 255 do.
            CheckpointError: ``output`` holds a run with other settings, of another cut, model, generator or data set, or another run is
                using it.

        Warns:
            FeatAugWarning: the generator ignores ``z``, its loss on held-out images has risen again, or a class has no pixel in any mask (if
                the set is small enough to check all masks).

        Ctrl-C and SIGTERM save a checkpoint after the current step, then raise ``KeyboardInterrupt`` or ``SystemExit(143)``.
        """
        check_labels("GeneratorTrainer", loader, training=True)
        check_labels("GeneratorTrainer", val_loader)
        with folder_lock(self.run.path), stop_requests() as stop:
            return self._fit(loader, val_loader, stop)

    def _fit(self, loader: Iterable[tuple[Tensor, Tensor]], val_loader: Any, stop: StopRequest) -> list[dict[str, Any]]:
        config, accelerator, device = self.config, self.accelerator, self.accelerator.device
        self.run.settings |= {
            "cut": list(self.cut.at), "spec": self.cut.spec.to_dict(), "model": fingerprint(self.cut.model),
            "architecture": architecture(self.generator), "data": describe_data(loader), "val_data": describe_data(val_loader, measured=True),
        }  # fmt: skip
        self.objective.begin()
        self.objective.prepare(accelerator)
        optimizers = self.objective.optimizers
        ema = AveragedModel(self.generator) if config.ema_images else None
        averaged: Any = ema.module if ema is not None else self.generator
        seen, step, results = 0, 0, []
        sums: dict[str, Any] = {}
        lines, sizes = 0, SeenSizes()
        last_batch: Any = None
        found = broadcast_from_main(self.run.resume, device)
        if found:
            seen, state = found
            step, results = state["step"], state["results"]
            if "running" in state:
                sums, lines = state["running"]["sums"], state["running"]["lines"]
                sizes = SeenSizes(state["running"].get("sizes", ()))
            self.objective.restore(state["parts"], averaged)
            self.generator.load_state_dict(state["generator"])
            for name, optimizer in optimizers.items():
                load_optimizer(optimizer, state["optimizers"][name])
            if ema is not None:
                ema.load_state_dict(state["ema"])
        loader, processes = shared(loader, accelerator), accelerator.num_processes
        with self._frozen():
            if self._measure_features(loader) and ema is not None:
                ema.module.load_state_dict(self.generator.state_dict())
            batches = endless(loader, step)
            began = time.monotonic()
            shown = bool(self.progress) and accelerator.is_main_process
            text = self.progress if isinstance(self.progress, str) else "generator"
            labels = FirstLabels("GeneratorTrainer", self.generator.ignore_index)
            with progress_bar(config.num_images, seen, text, "img", shown) as bar:
                while seen < config.num_images:
                    if self.objective.next_part(seen, averaged) and ema is not None:
                        ema.n_averaged.zero_()
                    images, masks = next(batches)
                    labels.look(masks, self.generator.num_classes)
                    losses = self.objective.step(images, masks, seen)
                    sizes.see(masks)
                    if val_loader is not None and last_batch is None:
                        try_validation(self.cut, val_loader, sizes.one(), device)
                    last_batch = images, masks
                    if ema is not None:
                        update_average(ema, self.generator, len(masks) * processes, self.objective.half_life)
                    before, seen, step = seen, seen + len(masks) * processes, step + 1
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value
                    lines += 1
                    bar.update(min(seen, config.num_images) - before)
                    last = seen >= config.num_images
                    stop.sync(device)

                    def due(every: int, start: int = before, end: int = seen, final: bool = last) -> bool:
                        return final or bool(every and start // every != end // every)

                    # A part's means hold no step of the next one.
                    if due(config.log_images) or before < self.objective.first_part <= seen:
                        means = {name: float(all_reduce_sum(value)) / lines / processes for name, value in sums.items()}
                        for name, mean in means.items():
                            check_finite(f"the loss {name!r}", mean, seen)
                        self.run.log(seen, means | {"seconds": round(time.monotonic() - began, 1)})
                        if config.trackers:
                            accelerator.log(means, step=seen)
                        bar.set_postfix_str(" ".join(f"{name} {means[name]:.3f}" for name in SHOWN if name in means))
                        sums, lines, self._last = {}, 0, means
                    if val_loader is not None and due(config.eval_images):
                        with stop.interruptible():
                            measured = measure_generator(self.objective, averaged, val_loader, sizes.one(), device)
                        results.append({"progress": seen} | measured | bad_samples(loader))
                        self.run.log(seen, results[-1])
                    if due(config.snapshot_images) or stop.signum:
                        for name, value in sums.items():
                            check_finite(f"the loss {name!r}", float(all_reduce_sum(value)), seen)
                        self._save(seen, step, optimizers, ema, results, {"sums": sums, "lines": lines, "sizes": sizes.state()})
                    stop.raise_if_requested()
        if accelerator.is_main_process:
            warn_of_memory([result["held_out"] for result in results if "held_out" in result])
        if ema is not None:
            self.generator.load_state_dict(ema.module.state_dict())
        self.generator.eval()
        # The card described the weights from before training.
        self.generator.card = known_facts({"images": seen} | ({"recognition": _score(results[-1])} if results else {}))
        if config.trackers:
            accelerator.end_training()
        if accelerator.is_main_process and (results or (last_batch is not None and isinstance(last_batch[0], Tensor))):
            # Without a validation set the last batch serves, unless it holds a single class.
            with suppress(DataError):
                self._warn((results[-1] if results else measure_generator(self.objective, self.generator, [last_batch], None, device))["diversity"])
        return results

    def _measure_features(self, loader: Any) -> bool:
        """Give the generator the features' statistics. Return whether it lacked them: an earlier training leaves its own, and its noise."""
        if self.generator.fitted:
            return False
        colored, images = self.config.colored_noise, self.config.stats_images
        found = channel_statistics(self.cut, endless(loader), images, self.accelerator.device, correlations=colored)
        self.generator.set_statistics(found.means, found.stds)
        if colored:
            self.generator.noise_color.fit(found.correlations)
        return True

    def _save(
        self, seen: int, step: int, optimizers: dict[str, Any], ema: Any, results: list[dict[str, Any]], running: dict[str, Any]
    ) -> None:
        self.run.save(
            seen,
            {
                "step": step,
                "results": results,
                "running": running,
                "generator": self.generator.state_dict(),
                "parts": self.parts.state_dict(),
                "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
                "ema": ema.state_dict() if ema is not None else None,
            },
        )

    @contextmanager
    def _frozen(self) -> Any:
        """Put the segmentation model into eval mode without gradients to its weights, and restore it afterwards."""
        model = self.cut.model
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            model.requires_grad_(False)
            self.generator.train()
            with eval_mode(model):
                yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def _warn(self, diversity: float) -> None:
        if diversity < DIVERSITY_ALARM:
            known = self._last.get("latent")
            latent = f"latent L1 {known:.2f} (0.80 means that nothing of z is found)" if known is not None else ""
            advice = "Train longer." if self.config.objective == "flow" else "Raise latent_weight or diversity_weight, or train longer."
            warnings.warn(
                f"GeneratorTrainer: the generator seems to ignore z: diversity ratio {diversity:.3f} (1 is as varied as real "
                f"features){', ' if latent else ''}{latent}. {advice}",
                FeatAugWarning,
                stacklevel=4,
            )


def _score(result: dict[str, Any]) -> dict[str, float]:
    """Return the recognition score in the form of a model card."""
    return {name: result[name]["miou"] for name in ("real", "synthetic")} | {name: result[name] for name in ("ratio", "diversity")}
