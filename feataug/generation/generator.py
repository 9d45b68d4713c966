"""The generator: masks and noise to features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from feataug.core.checks import check_masks, check_number, check_void, describe, is_plain
from feataug.core.compatibility import check_fits
from feataug.core.latents import noise_from_seeds
from feataug.core.specs import FeatureSpec
from feataug.errors import ConfigError, DtypeError, ShapeError
from feataug.generation import flow
from feataug.generation.covariance_map import CovarianceMap
from feataug.generation.feature_units import FeatureUnits
from feataug.generation.layers.aspp import MaskEncoder
from feataug.generation.layers.class_shares import class_shares
from feataug.generation.layers.mask_context import MaskCodes
from feataug.generation.layers.unet import unet_for
from feataug.generation.layers.velocity import VelocityNet
from feataug.generation.noise_color import NoiseColor
from feataug.generation.presets import PRESETS, check_steps, settings_of
from feataug.io.hub import HubModel
from feataug.io.model_card import generator_text


class FeatureGenerator(FeatureUnits, HubModel, library_name="feataug", tags=["semantic-segmentation", "feature-synthesis"]):
    """Generates the features that an encoder would compute from an image with a given label mask.

    Args:
        num_classes: Number of classes in the masks.
        spec: Shapes of the features at the cut: ``cut.spec``.
        preset: ``"flow"`` is a velocity network for flow matching. ``"bicyclegan"`` and ``"paper"`` are a mask encoder and a U-Net for the
            paper's objective; the paper's has 96, 192, 384 maps, ``z`` beside the encoded mask only, and a deeper U-Net.
        latent_dim: Size of the noise ``z``, 8 by default. A flow takes as many numbers as its features have.
        mask_widths: Maps of the mask encoder's stages, instead of the preset's; the last is repeated if more stages are needed.
        width: Maps of the network. Of a U-Net at its finest scale; the other scales are in proportion. By default each scale has half of
            the channels generated there, but at least the smaller of 128 and 16 times the stride. Scales below the coarsest output have
            twice as many maps as it has.
        depth: Levels of the U-Net below the features' resolution, or blocks of a flow's network at each stride, instead of the preset's.
        modulation: What the U-Net's norms depend on, instead of the preset's; see ``layers.unet.UNet``.
        steps: Steps of a flow from noise to features, at least 2. The first needs the mask alone, each of the others an evaluation of the
            network. More are slower and closer to the trained distribution.
        distilled_steps: The number of steps that the end of the training made a flow for; ``steps`` must be the same. ``GeneratorTrainer``
            sets it.
        ignore_index: Label of void.

    Raises:
        ConfigError: a number is out of range, the preset or the modulation is unknown, a setting does not belong to the preset,
            ``ignore_index`` is a class, or the spec has tokens alone.

    Example:
        >>> from feataug.core.specs import LevelSpec
        >>> spec = FeatureSpec((LevelSpec("layer3", channels=32, reduction=8),))
        >>> generator = FeatureGenerator(num_classes=11, spec=spec)
        >>> (features,) = generator(torch.zeros(2, 60, 91, dtype=torch.long))
        >>> features.shape
        torch.Size([2, 32, 8, 12])

    Source:
        Sec. 3.1, Fig. 2. Ours: linear outputs in standardised units, modulation by ``z``, several levels from one mask, flows.
    """

    def __init__(
        self,
        num_classes: int,
        spec: FeatureSpec,
        preset: str = "flow",
        *,
        latent_dim: int | None = None,
        mask_widths: Sequence[int] | None = None,
        width: int | None = None,
        depth: int | None = None,
        modulation: str | None = None,
        steps: int | None = None,
        distilled_steps: int | None = None,
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
        check_number("FeatureGenerator", "num_classes", num_classes, low=1, integer=True)
        check_number("FeatureGenerator", "ignore_index", ignore_index, integer=True)
        check_void("FeatureGenerator", num_classes, ignore_index)
        if all(level.tokens for level in spec):
            raise ConfigError(
                "FeatureGenerator: the spec has no feature map, only tokens.",
                given=str(spec),
                needed="at least one level with a stride",
            )
        given = {
            "latent_dim": latent_dim, "mask_widths": mask_widths, "width": width, "depth": depth, "modulation": modulation, "steps": steps,
            "distilled_steps": distilled_steps,
        }  # fmt: skip
        settings = settings_of(preset, given)
        self.num_classes, self.spec, self.ignore_index, self.preset = num_classes, spec, ignore_index, preset
        self.finest = spec.finest
        if preset == "flow":
            self.steps, self.distilled_steps = settings["steps"], settings["distilled_steps"]
            self.velocity_net = VelocityNet(num_classes, spec, width=settings["width"], depth=settings["depth"])
            self.noise_color, self.covariance_map = NoiseColor(), CovarianceMap()
        else:
            self.latent_dim, self.modulation = settings["latent_dim"], settings["modulation"]
            self.mask_encoder = MaskEncoder(num_classes, settings["mask_widths"], self.finest)
            self.unet = unet_for(
                spec, self.mask_encoder.out_channels, depth=settings["depth"], width=settings["width"], latent_dim=self.latent_dim,
                modulation=self.modulation, num_labels=num_classes + 1,
            )  # fmt: skip
        self._add_statistics(spec)
        # Training assigns some, and a user may.
        self._made_with = {name: getattr(self, name) for name in ("ignore_index", "steps", "distilled_steps") if hasattr(self, name)}
        # Saved with the weights, so that another version's presets do not change a generator. A subclass may mean something else by a name.
        known = getattr(self, "_hub_mixin_config", None)
        if isinstance(known, dict) and type(self).__init__ is FeatureGenerator.__init__:
            known.update(settings)

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

    @classmethod
    def _from_pretrained(cls, *, config: Any = None, **kwargs: Any) -> Self:
        # The mixin passes config.json only to a method that names ``config``.
        if kwargs.get("preset") == "default":
            # The name in files of before flow matching.
            kwargs["preset"] = "bicyclegan"
        return super()._from_pretrained(config=config, **kwargs)

    def card_text(self, name: str) -> str:
        """Text of the model card: what the generator is, how to load and use ``name``, and which cut it was made for."""
        return generator_text(name, self.spec, self.num_classes, getattr(self, "latent_dim", None), self.ignore_index)

    def latent_size(self, image_size: tuple[int, int]) -> int:
        """How many numbers ``z`` has for one mask of ``image_size``: ``latent_dim``, or for a flow one for each number of the features."""
        return flow.latent_size(self.spec, image_size) if self.preset == "flow" else self.latent_dim

    @property
    def takes_seeds(self) -> bool:
        """Whether mixers and measures give it seeds in place of noise: a flow's noise is as large as its features."""
        return self.preset == "flow"

    def forward(
        self, masks: Tensor, z: Tensor | None = None, *, samples: int = 1, standardized: bool = False, checked: bool = False
    ) -> tuple[Tensor, ...]:
        """Generate features for masks.

        Args:
            masks: ``(B, H, W)`` int64 at image resolution, classes or ``ignore_index``; any size.
            z: ``(samples * B, latent_size((H, W)))``; drawn from torch's global generator if ``None``. ``draw_z`` uses a generator of
                yours. Or ``(samples * B,)`` int64 seeds, not negative, from each of which a sample's noise is drawn on this device.
            samples: Number of features per mask; the mask is encoded once. The result holds the first sample of every mask, then the
                second of every mask, and so on.
            standardized: Return standardised units, in which each channel of the real features has mean 0 and variance 1, instead of
                the encoder's.
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
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        shape = (samples * len(masks), self.latent_size(size))
        if z is None:
            z = torch.randn(shape, device=masks.device)
        elif is_plain(z) and z.dtype == torch.int64 and z.shape == shape[:1]:
            z = noise_from_seeds(z, shape[1], self.fitted.device)
        if not is_plain(z) or not z.is_floating_point():
            raise DtypeError(
                "FeatureGenerator: z must be a floating point tensor.", given=describe(z), needed=f"{list(shape)} float, or [{shape[0]}] int64 seeds"
            )
        if z.shape != shape:
            raise ShapeError("FeatureGenerator: z has the wrong shape.", given=describe(z), needed=str(list(shape)))
        # A tensor created in inference mode cannot be saved for a backward pass.
        z = z.clone() if z.is_inference() and torch.is_grad_enabled() else z
        levels = (self._follow_flow if self.preset == "flow" else self._run_unet)(masks, z, samples, size)
        return tuple(levels) if standardized else self.destandardize(levels)

    def _changed_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        made = self._made_with
        # A subclass may mean something else by a name: then its value is not the one that this class was made with.
        return {name: now for name in made if (now := getattr(self, name)) != made[name] == config.get(name, made[name])}

    def encode_masks(self, masks: Tensor) -> MaskCodes:
        """A flow's condition: what ``velocity`` needs to know of ``(B, H, W)`` masks, and the mean of their features."""
        return self.velocity_net.condition(masks)

    def velocity(self, noisy: Sequence[Tensor], times: Tensor, codes: MaskCodes) -> list[Tensor]:
        """A flow's velocity towards real features, in standardised units; see ``layers.velocity.VelocityNet``."""
        found: list[Tensor] = self.velocity_net(noisy, times, codes)
        return found

    def noise_maps(self, z: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """The noise from which a flow starts, a map for each level, for ``(B, latent_size(size))`` normal numbers."""
        found: list[Tensor] = self.noise_color(flow.noise_maps(z, self.spec, size))
        return found

    def _follow_flow(self, masks: Tensor, z: Tensor, samples: int, size: tuple[int, int]) -> list[Tensor]:
        check_steps(self.steps, self.distilled_steps)
        codes = self.encode_masks(masks).repeat(samples)
        noise = self.noise_maps(z.to(self.fitted.device, self.velocity_net.dtype), size)
        levels = flow.follow(lambda noisy, times: self.velocity(noisy, times, codes), noise, codes.expected, self.steps)
        mapped: list[Tensor] = self.covariance_map(levels, codes.expected)
        return mapped

    def _run_unet(self, masks: Tensor, z: Tensor, samples: int, size: tuple[int, int]) -> list[Tensor]:
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
        return [_resize_level(x, level.size(size), level.offset is not None) for x, level in zip(levels, self.spec, strict=True)]

    def draw_z(
        self, count: Tensor | int, rng: torch.Generator | None = None, image_size: tuple[int, int] | None = None, *, samples: int = 1
    ) -> Tensor:
        """Noise ``(samples * B, latent_size(image_size))``, drawn from the CPU generator ``rng`` and moved to this module's device.

        Args:
            count: ``(B, H, W)`` masks, or their number ``B``.
            rng: torch's global generator by default.
            image_size: Rows and columns of the masks, where only their number is given. A generator with a fixed ``latent_dim`` does not
                need it.
            samples: Number of features per mask.

        Raises:
            ConfigError: a flow, and neither masks nor ``image_size``.
        """
        if isinstance(count, Tensor):
            masks, count = count, len(count)
            image_size = (int(masks.shape[-2]), int(masks.shape[-1]))
        if image_size is None and self.preset == "flow":
            raise ConfigError(
                "FeatureGenerator: how much noise a flow takes depends on the masks' size.",
                given="draw_z without image_size",
                needed="draw_z(masks, rng), or draw_z(count, rng, image_size=masks.shape[-2:])",
            )
        return torch.randn(samples * count, self.latent_size(image_size or (0, 0)), generator=rng).to(self.fitted.device)


def _resize_level(maps: Tensor, size: tuple[int, int], crop: bool) -> Tensor:
    """Maps in the size of a level. With ``crop`` the encoder drops incomplete cells at the far edges, and so do the maps."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    if crop and all(0 <= have - want <= 1 for have, want in zip(maps.shape[-2:], size, strict=True)):
        return maps[..., : size[0], : size[1]].contiguous(memory_format=torch.channels_last)
    # Needed only if the ratio of two reductions is not a power of two.
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
