"""Train a feature generator: BicycleGAN's objective on (mask, E(image)) pairs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from feataug.checks import check_masks
from feataug.critics import Discriminator, LatentEncoder
from feataug.errors import FeatAugWarning, ShapeError, TrainingError, message
from feataug.generator import FeatureGenerator
from feataug.losses import (
    balanced_cross_entropy,
    kl_divergence,
    lsgan,
    mode_seeking,
    reconstruction,
    resize_logits,
    split_outputs,
)
from feataug.metrics import recognition
from feataug.recording import eval_mode
from feataug.seeds import derive_seed, generator_for
from feataug.splitting import Cut
from feataug.training.config import GeneratorConfig
from feataug.training.run import RunFolder, check_finite, endless, make_accelerator
from feataug.training.statistics import channel_statistics

# The latent L1 alone is no witness: with the mode-seeking term it stayed above 0.8 (E|N(0, 1)|) while samples did differ.
DIVERSITY_ALARM = 0.1


class GeneratorTrainer:
    """Trains ``generator`` to emit what the frozen encoder of ``cut`` makes of images.

    Args:
        generator: A ``FeatureGenerator`` for ``cut.spec``.
        cut: A cut of the trained segmentation model. Its weights, modes and running statistics stay as they are.
        config: See ``GeneratorConfig``; ``GeneratorConfig.paper()`` for the paper's objective.
        output: Folder for ``stats.jsonl``, checkpoints and trackers. A run that finds its own checkpoint there goes on from it.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        progress: Show a progress bar; its text, if a string.

    Raises:
        ShapeError: the generator was made for another cut.

    Source:
        Sec. 3.1 and Zhu et al. (2017), BicycleGAN: cVAE-GAN on ``G(y, E(f))``, cLR-GAN on ``G(y, z)``. Ours, as settings: task loss
        through the frozen decoder, mode-seeking term, moving average of the weights.
    """

    def __init__(
        self,
        generator: FeatureGenerator,
        cut: Cut,
        config: GeneratorConfig | None = None,
        *,
        output: str | Path | None = None,
        device: str | None = "auto",
        progress: bool | str = True,
    ) -> None:
        if generator.spec.shapes != cut.spec.shapes:
            raise ShapeError(
                message(
                    "GeneratorTrainer: the generator was made for another cut.",
                    given=str(generator.spec),
                    needed=str(cut.spec),
                    advice="FeatureGenerator(num_classes, spec=cut.spec)",
                )
            )
        self.generator, self.cut = generator, cut
        self.config = config or GeneratorConfig()
        self.run = RunFolder(output, self.config.to_dict())
        self.accelerator = make_accelerator(device, self.config.mixed_precision, self.config.trackers, self.run.path)
        self.progress = progress
        self._last: dict[str, float] = {}
        config = self.config
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(config.seed, "critics"))
            critics = {
                name: Discriminator(
                    generator.num_classes,
                    cut.spec,
                    width=config.critic_width,
                    scales=config.critic_scales,
                    masks=config.critic_masks,
                )
                for name in ("judge_encoded", "judge_random")
            }
            self.parts = nn.ModuleDict(
                critics | {"latent": LatentEncoder(cut.spec, generator.latent_dim, width=config.critic_width)}
            )

    def fit(
        self,
        loader: Iterable[tuple[Tensor, Tensor]],
        val_loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    ) -> list[dict[str, Any]]:
        """Train for ``config.num_images`` images; the generator then holds the averaged weights.

        Args:
            loader: Yields ``(images, masks)`` in batches of two or more; read as often as needed. Features are encoded on the way.
            val_loader: Pairs to measure the recognition score and the diversity ratio on; without it they are not measured.

        Returns:
            One dictionary for each measurement: ``progress`` (images), and what ``metrics.recognition`` returns.

        Raises:
            TrainingError: the loader yields nothing, or single samples, or a loss is not finite.
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``.

        Warns:
            FeatAugWarning: the generator ignores ``z``.
        """
        config, accelerator, device = self.config, self.accelerator, self.accelerator.device
        self.cut.model.to(device)
        self.generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parts.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
        optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), **adam),
            "latent": torch.optim.Adam(self.parts["latent"].parameters(), **adam),
            "critics": torch.optim.Adam(
                [*self.parts["judge_encoded"].parameters(), *self.parts["judge_random"].parameters()], **adam
            ),
        }
        parts = accelerator.prepare(self.generator, *self.parts.values(), *optimizers.values())
        models = dict(zip(("generator", *self.parts), parts, strict=False))
        optimizers = dict(zip(optimizers, parts[len(models) :], strict=True))
        ema = AveragedModel(self.generator) if config.ema_images else None
        seen, step, results = 0, 0, []
        sums: dict[str, Any] = {}
        lines = 0
        last_batch: Any = None
        found = self.run.resume()
        if found:
            seen, state = found
            step, results = state["step"], state["results"]
            if "running" in state:
                sums, lines = state["running"]["sums"], state["running"]["lines"]
            self.generator.load_state_dict(state["generator"])
            self.parts.load_state_dict(state["parts"])
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            if ema is not None:
                ema.load_state_dict(state["ema"])
        with self._frozen():
            if not bool(self.generator.fitted):
                self.generator.set_statistics(*channel_statistics(self.cut, endless(loader), config.stats_images, device))
                if ema is not None:
                    ema.module.load_state_dict(self.generator.state_dict())
            batches = endless(loader, step)
            began = time.monotonic()
            shown = bool(self.progress) and accelerator.is_main_process
            text = self.progress if isinstance(self.progress, str) else "generator"
            with tqdm(total=config.num_images, initial=seen, desc=text, unit="img", disable=not shown) as bar:
                while seen < config.num_images:
                    images, masks = last_batch = next(batches)
                    losses = self._step(models, optimizers, images, masks, seen)
                    if ema is not None:
                        self._average(ema, len(images))
                    before, seen, step = seen, seen + len(images), step + 1
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value
                    lines += 1
                    bar.update(min(len(images), config.num_images - before))
                    last = seen >= config.num_images

                    def due(every: int, start: int = before, end: int = seen, final: bool = last) -> bool:
                        return final or bool(every and start // every != end // every)

                    if due(config.log_images):
                        means = {name: float(value) / lines for name, value in sums.items()}
                        for name, mean in means.items():
                            check_finite(f"the loss {name!r}", mean, seen)
                        self.run.log(seen, means | {"seconds": round(time.monotonic() - began, 1)})
                        if config.trackers:
                            accelerator.log(means, step=seen)
                        bar.set_postfix_str(f"l1 {means['l1']:.3f} gan {means['gan']:.3f} latent {means['latent']:.2f}")
                        sums, lines, self._last = {}, 0, means
                    if val_loader is not None and due(config.eval_images):
                        results.append({"progress": seen} | self._evaluate(val_loader, ema))
                        self.run.log(seen, results[-1])
                    if due(config.snapshot_images):
                        for name, total in sums.items():
                            check_finite(f"the loss {name!r}", float(total), seen)
                        self._save(seen, step, optimizers, ema, results, {"sums": sums, "lines": lines})
        if ema is not None:
            self.generator.load_state_dict(ema.module.state_dict())
        self.generator.eval()
        if config.trackers:
            accelerator.end_training()
        if results or last_batch is not None:
            # Without a validation set the last batch has to do.
            self._warn((results[-1] if results else self._evaluate([last_batch], None))["diversity"])
        return results

    def _step(
        self, models: dict[str, Any], optimizers: dict[str, Any], images: Tensor, masks: Tensor, seen: int
    ) -> dict[str, Tensor]:
        """One step of generator and latent encoder, then one of the critics; returns unweighted losses."""
        config, generator, device = self.config, self.generator, self.accelerator.device
        if len(images) < 2:
            raise TrainingError(
                message(
                    "GeneratorTrainer: batches are too small.",
                    given=f"{len(images)} sample",
                    needed="two or more: one half is reconstructed, the other judged as real",
                    advice="Use a larger batch_size, and drop_last=True.",
                )
            )
        masks = check_masks("GeneratorTrainer", masks, generator.num_classes, generator.ignore_index).to(device)
        images = images.to(device, memory_format=torch.channels_last)
        with torch.no_grad(), self.accelerator.autocast():
            real = [level.float() for level in generator.standardize(self.cut.encode(images))]
        half = len(images) // 2
        masks1, masks2 = masks[:half], masks[half : 2 * half]
        real1, real2 = [x[:half] for x in real], [x[half : 2 * half] for x in real]
        # Noise depends on the seed and the images seen alone, so that a resumed run draws what the undisturbed one would.
        rng = generator_for(config.seed, "noise", seen)

        def noise() -> Tensor:
            return torch.randn(half, generator.latent_dim, generator=rng).to(device)

        for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
            group["lr"] = config.lr * min(1.0, 2 - 2 * seen / config.num_images)
        judges = {"encoded": models["judge_encoded"], "random": models["judge_random"]}
        losses: dict[str, Tensor] = {}
        for judge in judges.values():
            judge.requires_grad_(False)
        with self.accelerator.autocast():
            mean, log_variance = models["latent"](real1)
            z_random = noise()
            codes = [mean + noise() * (log_variance / 2).exp(), z_random]
            z_other = noise()
            if config.diversity_weight:
                codes.append(z_other)
            made = models["generator"](masks1, torch.cat(codes), samples=len(codes), standardized=True)
            encoded, random, *other = zip(*(level.float().chunk(len(codes)) for level in made), strict=True)
            losses["l1"] = reconstruction(encoded, real1)
            losses["kl"] = kl_divergence(mean, log_variance)
            if config.gan_weight:
                losses["gan"] = lsgan(judges["encoded"](masks1, encoded), 1.0) + lsgan(judges["random"](masks1, random), 1.0)
            else:
                losses["gan"] = made[0].new_zeros(())
            # G is to keep z readable; were E to learn from this, too, the two would hide z from the critics.
            models["latent"].requires_grad_(False)
            found, _ = models["latent"](random)
            models["latent"].requires_grad_(True)
            losses["latent"] = (found - z_random).abs().mean()
            if config.task_weight:
                out = self.cut.decode(generator.destandardize(random), masks.shape[-2:])
                logits = resize_logits(split_outputs(out)[0], masks.shape[-2:])
                losses["task"] = balanced_cross_entropy(logits, masks1, config.task_balance, generator.ignore_index)
            if config.diversity_weight:
                losses["diversity"] = mode_seeking(random, other[0], z_random, z_other)
            total = sum(getattr(config, f"{name}_weight") * value for name, value in losses.items())
        for name in ("generator", "latent"):
            optimizers[name].zero_grad()
        self.accelerator.backward(total)
        for name in ("generator", "latent"):
            optimizers[name].step()
        for judge in judges.values():
            judge.requires_grad_(True)
        if config.gan_weight:
            critics = self._critic_loss(judges["encoded"], masks1, real1, masks1, encoded)
            critics = critics + self._critic_loss(judges["random"], masks2, real2, masks1, random)
            optimizers["critics"].zero_grad()
            self.accelerator.backward(critics)
            optimizers["critics"].step()
            losses["critics"] = critics
        return {name: value.detach() for name, value in losses.items()}

    def _critic_loss(self, judge: Any, real_masks: Tensor, real: Any, masks: Tensor, synthetic: Any) -> Tensor:
        """Half of LSGAN's two terms, real to 1 and synthetic to 0."""
        with self.accelerator.autocast():
            synthetic = [level.detach() for level in synthetic]
            if real_masks is masks:
                # One encoding of the masks serves both.
                scores = judge(masks, [torch.cat(pair) for pair in zip(real, synthetic, strict=True)])
                on_real, on_synthetic = zip(*(score.chunk(2) for score in scores), strict=True)
            else:
                on_real, on_synthetic = judge(real_masks, real), judge(masks, synthetic)
            return 0.5 * (lsgan(on_real, 1.0) + lsgan(on_synthetic, 0.0))

    @torch.no_grad()
    def _average(self, ema: AveragedModel, images: int) -> None:
        """Exponential moving average with a half-life in images, shorter while young: the first weights are noise."""
        count = int(ema.n_averaged)
        decay = min(0.5 ** (images / self.config.ema_images), (1 + count) / (10 + count))
        for average, weight in zip(ema.module.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        ema.n_averaged += 1

    def _evaluate(self, val_loader: Iterable[tuple[Tensor, Tensor]], ema: Any) -> dict[str, Any]:
        generator = ema.module if ema is not None else self.generator
        ignore_index = self.generator.ignore_index
        return recognition(
            self.cut, generator, val_loader, ignore_index=ignore_index, seed=self.config.seed, device=self.accelerator.device
        )

    def _save(
        self, seen: int, step: int, optimizers: dict[str, Any], ema: Any, results: list[dict[str, Any]], running: dict[str, Any]
    ) -> None:
        if not self.accelerator.is_main_process:
            return
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
        """The segmentation model in eval mode and without gradients to its weights, then back as it was."""
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
            latent = f"latent L1 {self._last['latent']:.2f} (0.80 means that nothing of z is found)" if self._last else ""
            warnings.warn(
                f"GeneratorTrainer: the generator seems to ignore z: diversity ratio {diversity:.3f} (1 is as varied as real "
                f"features){', ' if latent else ''}{latent}. Raise latent_weight or diversity_weight, or train longer.",
                FeatAugWarning,
                stacklevel=3,
            )
