"""Settings of the training loops: frozen dataclasses that check their ranges when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from feataug.core.checks import check_number
from feataug.errors import ConfigError

MIXED_PRECISION = ("no", "bf16", "fp16")
CRITIC_MASKS = ("aspp", "shares")
# Defaults that differ between the objectives.
DEFAULTS = {
    "flow": {"lr": 4e-3, "beta1": 0.9, "distill_share": 0.2, "colored_noise": True},
    "bicyclegan": {"lr": 5e-4, "beta1": 0.5, "distill_share": 0.0, "colored_noise": False},
}
# Settings that only one of the objectives reads.
ONLY = {
    "flow": ("weight_decay", "noise_levels", "distill_share", "colored_noise"),
    "bicyclegan": (
        "gan_weight", "l1_weight", "latent_weight", "kl_weight", "task_weight", "task_balance", "diversity_weight", "critic_masks",
        "critic_width", "critic_scales",
    ),
}  # fmt: skip


class _Config:
    """Conversion to and from dictionaries, for JSON files."""

    def to_dict(self) -> dict[str, Any]:
        """Return all settings by name."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Invert ``to_dict``. Missing settings take their defaults.

        Raises:
            ConfigError: a name is unknown, or a value is out of range.
        """
        known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
        if not isinstance(data, Mapping):
            raise ConfigError(
                f"{cls.__name__}: the settings are not a dictionary.", given=repr(data)[:200], needed=", ".join(known)
            )
        unknown = sorted(str(name) for name in data if name not in known)
        if unknown:
            raise ConfigError(f"{cls.__name__}: unknown settings.", given=", ".join(unknown), needed=", ".join(known))
        return cls(**data)

    def _check_precision(self, value: str) -> None:
        if value not in MIXED_PRECISION:
            raise ConfigError(
                f"{type(self).__name__}: mixed_precision is not offered.",
                given=repr(value),
                needed=", ".join(map(repr, MIXED_PRECISION)),
            )


@dataclass(frozen=True)
class FinetuneConfig(_Config):
    """Settings of ``Finetuner``, which trains the segmentation model further.

    The defaults are the paper's (Sec. 4.1), except ``num_steps``, which it does not give, and ``lr``. The paper's learning rates, 1e-6 on
    Cityscapes and 1e-7 on ADE20K, belong to a loss summed over pixels in Caffe. With the mean loss of this library they hardly change a
    model. ``paper()`` has them.

    Args:
        num_steps: The number of optimiser steps. Runs with different shares of real images in their batches are comparable at equal steps.
        lr: The first learning rate (ours: 1e-3).
        power: The power of the poly policy ``lr (1 - step / num_steps)^power``.
        momentum, weight_decay: The momentum and weight decay of SGD.
        lr_scale: Factors of ``lr`` by prefixes of parameter names, such as ``{"encoder": 0.1}``.
        aux_weight: The weight of the losses of auxiliary heads.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``, as in accelerate.
        channels_last: Use this memory format for model and images; several times faster on the CPU for depthwise convolutions.
        eval_every: Steps between evaluations; 0 for one at the end.
        save_every: Steps between checkpoints; 0 for one at the end.
        seed: Seeds everything random in the loop. The loader decides data order and transforms.

    Raises:
        ConfigError: a setting is out of range, unknown, or contradicts another.

    Source:
        Sec. 4.1; ours where a line says so.
    """

    num_steps: int = 1000
    lr: float = 1e-3
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 5e-4
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    aux_weight: float = 0.4
    mixed_precision: str = "no"
    channels_last: bool = True
    eval_every: int = 0
    save_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        who = type(self).__name__
        check_number(who, "num_steps", self.num_steps, low=1, integer=True)
        check_number(who, "momentum", self.momentum, low=0, high=1, open_high=True)
        for name in ("lr", "power", "weight_decay", "aux_weight"):
            check_number(who, name, getattr(self, name), low=0)
        for name in ("eval_every", "save_every", "seed"):
            check_number(who, name, getattr(self, name), low=0, integer=True)
        if not isinstance(self.lr_scale, Mapping):
            raise ConfigError(
                f"{who}: lr_scale is not a dictionary.",
                given=repr(self.lr_scale),
                needed='factors by names, such as {"encoder": 0.1}',
            )
        if not isinstance(self.channels_last, bool):
            raise ConfigError(f"{who}: channels_last is not a boolean.", given=repr(self.channels_last), needed="True or False")
        for name, scale in self.lr_scale.items():
            if not isinstance(name, str):
                raise ConfigError(
                    f"{who}: a key of lr_scale is not a name.", given=repr(name), needed="prefixes of parameter names"
                )
            check_number(who, f"lr_scale[{name!r}]", scale, low=0)
        self._check_precision(self.mixed_precision)

    @classmethod
    def paper(cls, **changes: Any) -> FinetuneConfig:
        """Return the paper's settings on Cityscapes, with its learning rate of 1e-6, which belongs to a loss summed over pixels.

        ``changes`` override them; use ``lr=1e-7`` for ADE20K.
        """
        return cls(**{"lr": 1e-6} | changes)


@dataclass(frozen=True)
class GeneratorConfig(_Config):
    """Settings of ``GeneratorTrainer``. A weight of 0 switches its term off, and the term is not computed.

    Args:
        objective: ``"flow"`` is conditional flow matching (ours), for generators with ``preset="flow"``; ``"bicyclegan"`` is the paper's,
            for the other presets.
        num_images: The length of training, counted in images. (The paper: 60 epochs of 3,000 patches, 20 of 40,000.)
        lr: The learning rate. Of AdamW for a flow: it rises over the first 600 images, then follows a cosine to zero; 4e-3 by default.
            Of Adam for generator, latent encoder and critics of BicycleGAN: constant for the first half, then linear to zero; 5e-4.
        distill_share: The last part of ``num_images``, in which a flow's few steps learn to arrive where eight steps arrive (flow only);
            0.2 by default. 0 leaves it out; then the generator's ``steps`` may be changed after training.
        beta1, beta2: The decay rates of Adam. ``beta1`` is 0.9 by default for a flow, 0.5 for BicycleGAN.
        weight_decay: The weight decay of AdamW (flow only).
        noise_levels: The number of times at which a step trains on each encoded feature (flow only).
        colored_noise: Give the noise the correlations that real features have between channels, measured on ``stats_images`` with the
            channels' means (flow only); True by default. It matters where features are strongly correlated, as after a ViT's blocks. A
            generator that is trained further keeps the noise that it was first trained with.
        gan_weight: Weights LSGAN, on the reconstructed and on the random branch. This and the following settings up to
            ``critic_scales``, except those of images, belong to BicycleGAN only.
        l1_weight: Weights the L1 distance of ``G(y, E(f))`` and ``f``, in standardised units (BicycleGAN: 10).
        latent_weight: Weights the L1 distance of ``z`` and what the latent encoder reads from ``G(y, z)``.
        kl_weight: Weights the KL divergence of the latent code from ``N(0, 1)``.
        task_weight: Weights the cross entropy of the frozen decoder on synthetic features (ours; 0 is the paper).
        task_balance: The task loss weights a pixel by the inverse area of its class in the batch, to this power: with 0 all pixels count
            alike, with 1 all classes (ours).
        diversity_weight: Weights the mode-seeking ratio ``|z1 - z2| / |f1 - f2|`` (ours; 0 is the paper).
        critic_masks: How the critics see masks: ``"aspp"`` (Sec. 3.1), or ``"shares"`` of the classes in each cell (ours, a third faster).
        critic_width: The number of channels of the critics' first layer.
        critic_scales: The number of resolutions at which the critics see features.
        ema_images: The half-life of the weights' moving average, in images; 0 uses the weights themselves.
        stats_images: The number of images on which the features' channel statistics are measured before training.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``, as in accelerate.
        log_images: Images between lines of ``stats.jsonl``.
        eval_images: Images between measurements of the recognition score and the diversity ratio; 0 for one at the end.
        snapshot_images: Images between checkpoints; 0 for one at the end.
        trackers: Names of accelerate's trackers, such as ``("tensorboard",)``; they write below the output folder.
        seed: Seeds the critics' first weights and all noise. The loader decides data order and transforms.

    Raises:
        ConfigError: a setting is out of range, unknown, contradicts another, or belongs to the other objective.

    Source:
        Sec. 3.1 and 4.1 (``paper()``); the flow's defaults are ours, chosen on CamVid by what the features teach a decoder:
        docs/results.md; those of ``bicyclegan()`` are ours, chosen by recognition: docs/whole-images.md.
    """

    objective: str = "flow"
    num_images: int = 20_000
    # Set by the objective.
    lr: float = None  # type: ignore[assignment]
    beta1: float = None  # type: ignore[assignment]
    distill_share: float = None  # type: ignore[assignment]
    colored_noise: bool = None  # type: ignore[assignment]
    beta2: float = 0.999
    weight_decay: float = 0.01
    noise_levels: int = 2
    gan_weight: float = 1.0
    l1_weight: float = 5.0
    latent_weight: float = 0.5
    kl_weight: float = 0.01
    task_weight: float = 4.0
    task_balance: float = 0.5
    diversity_weight: float = 0.2
    critic_masks: str = "shares"
    critic_width: int = 64
    critic_scales: int = 2
    ema_images: int = 2_000
    stats_images: int = 200
    mixed_precision: str = "no"
    log_images: int = 200
    eval_images: int = 0
    snapshot_images: int = 0
    trackers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        who = type(self).__name__
        if not isinstance(self.trackers, (tuple, list)) or not all(isinstance(name, str) for name in self.trackers):
            needed = f"({self.trackers!r},)" if isinstance(self.trackers, str) else 'names, such as ("tensorboard",)'
            raise ConfigError(f"{who}: trackers is not a tuple.", given=repr(self.trackers), needed=needed)
        object.__setattr__(self, "trackers", tuple(self.trackers))
        if not isinstance(self.objective, str) or self.objective not in DEFAULTS:
            raise ConfigError(f"{who}: no such objective.", given=repr(self.objective), needed=" or ".join(map(repr, DEFAULTS)))
        for name, value in DEFAULTS[self.objective].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("noise_levels", "num_images", "stats_images", "critic_width", "critic_scales", "log_images"):
            check_number(who, name, getattr(self, name), low=1, integer=True)
        for name in ("ema_images", "eval_images", "snapshot_images", "seed"):
            check_number(who, name, getattr(self, name), low=0, integer=True)
        for name in ("lr", "gan_weight", "l1_weight", "latent_weight", "kl_weight", "task_weight", "diversity_weight", "weight_decay"):
            check_number(who, name, getattr(self, name), low=0)
        for name in ("beta1", "beta2"):
            check_number(who, name, getattr(self, name), low=0, high=1, open_high=True)
        check_number(who, "distill_share", self.distill_share, low=0, high=1, open_high=True)
        check_number(who, "task_balance", self.task_balance, low=0, high=1)
        if not isinstance(self.colored_noise, bool):
            raise ConfigError(f"{who}: colored_noise is not a boolean.", given=repr(self.colored_noise), needed="True or False")
        if self.critic_masks not in CRITIC_MASKS:
            needed = " or ".join(map(repr, CRITIC_MASKS))
            raise ConfigError(f"{who}: critic_masks is not offered.", given=repr(self.critic_masks), needed=needed)
        self._check_precision(self.mixed_precision)
        self._check_objective()

    def _check_objective(self) -> None:
        """Refuse settings of the other objective, which would have no effect."""
        other = "bicyclegan" if self.objective == "flow" else "flow"
        defaults = {item.name: item.default for item in fields(self)} | DEFAULTS[self.objective]
        idle = [f"{name}={getattr(self, name)!r}" for name in ONLY[other] if getattr(self, name) != defaults[name]]
        if idle:
            raise ConfigError(
                f"GeneratorConfig: settings of {other!r} have no effect on {self.objective!r}.",
                given=", ".join(idle),
                needed=f"GeneratorConfig{'.bicyclegan' if other == 'bicyclegan' else ''}(...), or without these settings",
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Invert ``to_dict``. Missing settings take their defaults; settings of BicycleGAN without an objective are BicycleGAN's.

        Raises:
            ConfigError: a name is unknown, or a value is out of range.
        """
        # Files of before flow matching name no objective.
        if isinstance(data, Mapping) and "objective" not in data and any(name in data for name in ONLY["bicyclegan"]):
            data = {"objective": "bicyclegan"} | dict(data)
        return super().from_dict(data)

    @classmethod
    def bicyclegan(cls, **changes: Any) -> GeneratorConfig:
        """Return our settings of the paper's objective: with a task loss, a diversity term and a moving average; ``changes`` override them."""
        return cls(**{"objective": "bicyclegan"} | changes)

    @classmethod
    def paper(cls, **changes: Any) -> GeneratorConfig:
        """Return the paper's objective: its weights, critics that encode masks by ASPP, no task loss, diversity term or moving average.

        ``changes`` override it.
        """
        paper: dict[str, Any] = {
            "objective": "bicyclegan", "lr": 2e-4, "l1_weight": 10.0, "task_weight": 0.0, "task_balance": 0.0, "diversity_weight": 0.0,
            "critic_masks": "aspp", "ema_images": 0,
        }  # fmt: skip
        return cls(**paper | changes)

    @classmethod
    def for_preset(cls, preset: str, **changes: Any) -> GeneratorConfig:
        """Return the settings that belong to a preset of ``FeatureGenerator``; ``changes`` override them."""
        if preset == "paper":
            return cls.paper(**changes)
        return cls(**{"objective": preset} | changes)
