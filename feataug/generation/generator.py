"""The generator: masks and noise to features."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.core.checks import check_features, check_masks, check_number, check_sequence, check_void, describe, is_plain
from feataug.core.compatibility import check_fits
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import ConfigError, DtypeError, ShapeError
from feataug.generation.layers.aspp import MaskEncoder
from feataug.generation.layers.class_shares import class_shares
from feataug.generation.layers.unet import UNet
from feataug.io.hub import HubModel
from feataug.io.model_card import generator_text

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"mask_widths": (96, 192, 384), "depth": 3, "modulation": "none"},
    "default": {"mask_widths": (48, 96, 192), "depth": 2, "modulation": "latent"},
}

MODULATIONS = ("none", "latent", "class")


class FeatureGenerator(
    nn.Module,
    HubModel,
    library_name="feataug",
    tags=["semantic-segmentation", "feature-synthesis"],
):
    """Generates the features that an encoder would compute from an image with a given label mask.

    Args:
        num_classes: Number of classes in the masks.
        spec: Shapes of the features at the cut: ``cut.spec``.
        preset: ``"default"``, or ``"paper"``: a mask encoder of 96, 192, 384 maps, ``z`` beside the encoded mask only, a deeper
            U-Net.
        latent_dim: Size of the noise ``z``.
        mask_widths: Maps of the mask encoder's stages, instead of the preset's; the last is repeated if more stages are needed.
        width: Maps of the U-Net at its finest scale; the other scales are in proportion. By default each scale has half of the
            channels generated there, but at least the smaller of 128 and 16 times the stride. Scales below the coarsest output have
            twice as many maps as it has.
        depth: Levels of the U-Net below the features' resolution, instead of the preset's.
        modulation: What the U-Net's norms depend on, instead of the preset's; see ``layers.unet.UNet``.
        ignore_index: Label of void.

    Raises:
        ConfigError: a number is out of range, the preset or the modulation is unknown, ``ignore_index`` is a class, or the spec has
            tokens alone.

    Example:
        >>> from feataug.core.specs import LevelSpec
        >>> spec = FeatureSpec((LevelSpec("layer3", channels=32, reduction=8),))
        >>> generator = FeatureGenerator(num_classes=11, spec=spec)
        >>> (features,) = generator(torch.zeros(2, 60, 91, dtype=torch.long))
        >>> features.shape
        torch.Size([2, 32, 8, 12])

    Source:
        Sec. 3.1, Fig. 2. Ours: linear outputs in standardised units, modulation by ``z``, several levels from one mask.
    """

    def __init__(
        self,
        num_classes: int,
        spec: FeatureSpec,
        preset: str = "default",
        *,
        latent_dim: int = 8,
        mask_widths: Sequence[int] | None = None,
        width: int | None = None,
        depth: int | None = None,
        modulation: str | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError("FeatureGenerator: no such preset.", given=repr(preset), needed=" or ".join(map(repr, PRESETS)))
        if isinstance(spec, Mapping):
            # from_pretrained passes a dictionary to a subclass whose annotations are strings.
            spec = FeatureSpec.from_dict(spec)
        if not isinstance(spec, FeatureSpec):
            raise ConfigError("FeatureGenerator: spec is not a FeatureSpec.", given=describe(spec), needed="cut.spec")
        chosen = PRESETS[preset]
        mask_widths = chosen["mask_widths"] if mask_widths is None else mask_widths
        check_sequence("FeatureGenerator", "mask_widths", mask_widths, "widths of the mask encoder's stages, such as (64, 128)")
        mask_widths = tuple(mask_widths)
        depth = chosen["depth"] if depth is None else depth
        modulation = chosen["modulation"] if modulation is None else modulation
        if not isinstance(modulation, str) or modulation not in MODULATIONS:
            raise ConfigError(
                "FeatureGenerator: no such modulation.", given=repr(modulation), needed=" or ".join(map(repr, MODULATIONS))
            )
        check_number("FeatureGenerator", "num_classes", num_classes, low=1, integer=True)
        check_number("FeatureGenerator", "latent_dim", latent_dim, low=1, integer=True)
        if width is not None:
            check_number("FeatureGenerator", "width", width, low=1, integer=True)
        check_number("FeatureGenerator", "depth", depth, low=0, integer=True)
        check_number("FeatureGenerator", "ignore_index", ignore_index, integer=True)
        check_void("FeatureGenerator", num_classes, ignore_index)
        for number in mask_widths:
            check_number("FeatureGenerator", "one of mask_widths", number, low=1, integer=True)
        if not mask_widths:
            raise ConfigError("FeatureGenerator: mask_widths is empty.", given="()", needed="at least one width")
        self.num_classes, self.spec, self.ignore_index, self.latent_dim = num_classes, spec, ignore_index, latent_dim
        if all(level.tokens for level in spec):
            raise ConfigError(
                "FeatureGenerator: the spec has no feature map, only tokens.",
                given=str(spec),
                needed="at least one level with a stride",
            )
        finest = spec.finest
        self.finest = finest
        self.mask_encoder = MaskEncoder(num_classes, mask_widths, finest)
        maps = [level for level in spec if not level.tokens]
        self.modulation = modulation
        self.unet = UNet(
            self.mask_encoder.out_channels,
            [level.channels for level in maps],
            [round(math.log2(level.reduction / finest)) for level in maps],
            tokens=[(level.channels, level.tokens) for level in spec if level.tokens],
            widths=_widths(maps, finest, depth, width),
            latent_dim=latent_dim,
            modulation=modulation,
            num_labels=num_classes + 1,
        )
        for number, level in enumerate(spec):
            # Tokens differ from each other more than the cells of a map do, so each token has its own statistics.
            shape = (level.channels, level.tokens) if level.tokens else (level.channels,)
            self.register_buffer(f"mean_{number}", torch.zeros(shape))
            self.register_buffer(f"std_{number}", torch.ones(shape))
        self.fitted: Tensor
        self.register_buffer("fitted", torch.tensor(False))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        cut: Any = None,
        spec: FeatureSpec | None = None,
        num_classes: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a generator from a folder written by ``save_pretrained``, or from the hub.

        Args:
            pretrained_model_name_or_path: The folder, or an id on the hub, such as ``"user/name"``.
            cut: The cut that the generator must fit.
            spec: The spec that it must fit, if there is no cut yet.
            num_classes: The number of classes that it must have.
            kwargs: Passed on to huggingface_hub's mixin: ``revision``, ``token``, ``local_files_only`` and so on.

        Raises:
            CheckpointError: there is no such generator, or its weights do not match its settings.
            ShapeError: it was made for another cut.
            ConfigError: it was made for another number of classes.

        Warns:
            FeatAugWarning: only the names of the layers differ. Another layer may have features of the same shapes.
        """
        generator = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        check_fits(cls.__name__, generator, cut.spec if cut is not None else spec, num_classes)
        return generator

    def card_text(self, name: str) -> str:
        """Text of the model card: what the generator is, how to load and use ``name``, and which cut it was made for."""
        return generator_text(name, self.spec, self.num_classes, self.latent_dim, self.ignore_index)

    def forward(
        self, masks: Tensor, z: Tensor | None = None, *, samples: int = 1, standardized: bool = False, checked: bool = False
    ) -> tuple[Tensor, ...]:
        """Generate features for masks.

        Args:
            masks: ``(B, H, W)`` int64 at image resolution, classes or ``ignore_index``; any size.
            z: ``(samples * B, latent_dim)``; drawn from torch's global generator if ``None``. ``draw_z`` uses a generator of yours.
            samples: Number of features per mask; the mask is encoded once. The result holds the first sample of every mask, then
                the second of every mask, and so on.
            standardized: Return standardised units, in which each channel of the real features has mean 0 and variance 1, instead
                of the encoder's.
            checked: Skip the check of the labels, because they were checked before. On a GPU the check waits for all earlier work.

        Returns:
            One ``(samples * B, channels, ceil(H / reduction), ceil(W / reduction))`` tensor per level of the spec (or of the size
            that ``LevelSpec.size`` gives, for a level that rounds differently).

        Raises:
            DtypeError, ShapeError: masks are not an integer tensor ``(B, H, W)``, or ``z`` has another shape.
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``.
        """
        if checked:
            masks = masks.long()
        else:
            masks = check_masks("FeatureGenerator", masks, self.num_classes, self.ignore_index)
        check_number("FeatureGenerator", "samples", samples, low=1, high=2**31, integer=True)
        batch = samples * len(masks)
        if z is None:
            z = torch.randn(batch, self.latent_dim, device=masks.device)
        if not is_plain(z) or not z.is_floating_point():
            raise DtypeError(
                "FeatureGenerator: z must be a floating point tensor.",
                given=describe(z),
                needed=f"[{batch}, {self.latent_dim}] float",
            )
        if z.shape != (batch, self.latent_dim):
            raise ShapeError("FeatureGenerator: z has the wrong shape.", given=describe(z), needed=f"[{batch}, {self.latent_dim}]")
        # A tensor created in inference mode cannot be saved for a backward pass.
        z = z.clone() if z.is_inference() and torch.is_grad_enabled() else z
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        code = self.mask_encoder(masks)
        finest = (-(-size[0] // self.finest), -(-size[1] // self.finest))
        if tuple(code.shape[-2:]) != finest:
            code = F.interpolate(code, finest, mode="bilinear", align_corners=False)
        shares = None
        if self.modulation == "class":
            shares = class_shares(masks, self.num_classes, self.finest).repeat(samples, 1, 1, 1)
        outputs = self.unet(code.repeat(samples, 1, 1, 1), z.to(code.dtype), shares)
        # The U-Net returns all maps, followed by all tokens.
        maps, tokens = iter(outputs), iter(outputs[sum(not level.tokens for level in self.spec) :])
        levels = [next(tokens if level.tokens else maps) for level in self.spec]
        levels = [_resize_level(x, level.size(size), level.offset is not None) for x, level in zip(levels, self.spec, strict=True)]
        return tuple(levels) if standardized else self.destandardize(levels)

    def draw_z(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        """Noise ``(count, latent_dim)``, drawn from the CPU generator ``rng`` and moved to this module's device."""
        return torch.randn(count, self.latent_dim, generator=rng).to(self.fitted.device)

    def set_statistics(self, means: Sequence[Tensor], stds: Sequence[Tensor]) -> None:
        """Store the mean and standard deviation of the real features per channel, one ``(channels,)`` pair per level.

        For class and register tokens they are ``(channels, tokens)``. The standard deviation of a constant channel is replaced by
        1, to avoid a division by zero.
        """
        for number, (mean, std) in enumerate(zip(means, stds, strict=True)):
            getattr(self, f"mean_{number}").copy_(mean)
            getattr(self, f"std_{number}").copy_(torch.where(std > 1e-8, std, torch.ones_like(std)))
        self.fitted.fill_(True)

    def standardize(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Convert from the encoder's units to mean 0 and variance 1 per channel.

        Raises:
            ShapeError: the features do not fit the spec.
        """
        features = check_features("FeatureGenerator", features, self.spec)
        return tuple((x - self._statistic("mean", i)) / self._statistic("std", i) for i, x in enumerate(features))

    def destandardize(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inverse of ``standardize``."""
        return tuple(x * self._statistic("std", i) + self._statistic("mean", i) for i, x in enumerate(features))

    def _statistic(self, name: str, level: int) -> Tensor:
        value: Tensor = getattr(self, f"{name}_{level}")
        return value[:, None, :] if value.ndim == 2 else value[:, None, None]


def _resize_level(maps: Tensor, size: tuple[int, int], crop: bool) -> Tensor:
    """Maps in the size of a level. With ``crop`` the encoder drops incomplete cells at the far edges, and so do the maps."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    if crop and all(0 <= have - want <= 1 for have, want in zip(maps.shape[-2:], size, strict=True)):
        return maps[..., : size[0], : size[1]].contiguous(memory_format=torch.channels_last)
    # Needed only if the ratio of two reductions is not a power of two.
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _widths(maps: Sequence[LevelSpec], finest: int, depth: int, first: int | None) -> list[int]:
    """Maps of the U-Net at each scale. Fine scales are narrow: they have many pixels and, in pyramids, few channels to generate."""
    widths = []
    for scale in range(1 + max(round(math.log2(level.reduction / finest)) for level in maps)):
        stride = finest * 2**scale
        channels = [level.channels for level in maps if round(math.log2(level.reduction / finest)) == scale]
        most = max(channels, default=0)
        # Half of the channels, or a quarter of many: otherwise a generator of 1,024 channels at stride 8 would cost more than the
        # encoder.
        widths.append(max(min(128, 16 * stride), min(most // 2, max(256, most // 4))))
    widths += [2 * widths[-1]] * depth
    factor = 1.0 if first is None else first / widths[0]
    return [max(1, round(width * factor)) for width in widths]
