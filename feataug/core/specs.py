"""The shapes of the tensors that cross a cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from feataug.errors import ConfigError


@dataclass(frozen=True)
class LevelSpec:
    """One tensor that crosses the cut.

    Args:
        name: Name of the layer that makes the tensor, for messages.
        channels: Size of dimension 1.
        reduction: The stride (timm's ``FeatureInfo`` term): an image of ``H`` rows gives ``ceil(H / reduction)`` rows.
        tokens: Number of class and register tokens, if the level consists of these, ``(B, channels, 1, tokens)``, and is no map.
            Then ``reduction`` is 0.
        offset: Rounding of sizes: an image of ``H`` rows gives ``(H + offset) // reduction`` rows. 0 rounds down, as pooling and
            patches without padding do; ``None`` rounds up.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Ours.
    """

    name: str
    channels: int
    reduction: int
    tokens: int = 0
    offset: int | None = None

    def __post_init__(self) -> None:
        lowest = {"channels": 1, "reduction": 0 if isinstance(self.tokens, int) and self.tokens else 1, "tokens": 0}
        for field, low in lowest.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(f"LevelSpec: {field} is out of range.", given=repr(value), needed=f"an integer of at least {low}")
        if self.offset is not None and (not isinstance(self.offset, int) or isinstance(self.offset, bool) or self.tokens):
            raise ConfigError("LevelSpec: offset is out of range.", given=repr(self.offset), needed="an integer, or None; of a map")
        if self.tokens and self.reduction:
            raise ConfigError(
                "LevelSpec: tokens have no stride.",
                given=f"reduction {self.reduction}, tokens {self.tokens}",
                needed="one of them 0",
            )

    def __repr__(self) -> str:
        tokens = f", tokens={self.tokens}" if self.tokens else ""
        offset = "" if self.offset is None else f", offset={self.offset}"
        return f"LevelSpec(name={self.name!r}, channels={self.channels}, reduction={self.reduction}{tokens}{offset})"

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of this tensor for an image of ``image_size`` (rows, columns).

        Example:
            >>> LevelSpec("layer3", 256, 16).size((60, 84)), LevelSpec("pool3", 256, 16, offset=0).size((60, 84))
            ((4, 6), (3, 5))
        """
        if self.tokens:
            return 1, self.tokens
        offset = self.reduction - 1 if self.offset is None else self.offset
        return (image_size[0] + offset) // self.reduction, (image_size[1] + offset) // self.reduction


def crossing(levels: Iterable[LevelSpec]) -> str:
    """The levels as a short text: channels and stride of each map, number and channels of tokens."""
    return ", ".join(
        f"{level.tokens} token{'s' * (level.tokens > 1)} of {level.channels}"
        if level.tokens
        else f"{level.channels} / {level.reduction}"
        for level in levels
    )


@dataclass(frozen=True)
class FeatureSpec:
    """All tensors that cross a cut, in the order in which ``cut.encode`` returns them.

    Args:
        levels: One ``LevelSpec`` for each tensor.

    Raises:
        ConfigError: a level is no ``LevelSpec``.

    Example:
        >>> spec = FeatureSpec((LevelSpec("layer3", channels=256, reduction=16),))
        >>> spec[0].size((713, 713))
        (45, 45)
        >>> FeatureSpec.from_dict(spec.to_dict()) == spec
        True

    Source:
        Ours; the paper has one level.
    """

    levels: tuple[LevelSpec, ...]

    def __post_init__(self) -> None:
        # huggingface_hub's mixin rebuilds a dataclass from a file, with dictionaries for the levels.
        levels = tuple(LevelSpec(**level) if isinstance(level, Mapping) else level for level in self.levels)
        if not all(isinstance(level, LevelSpec) for level in levels):
            raise ConfigError(
                "FeatureSpec: a level is no LevelSpec.", given=repr(levels), needed="LevelSpec(name, channels, reduction)"
            )
        object.__setattr__(self, "levels", levels)
        if not self.levels:
            raise ConfigError("FeatureSpec: no level.", given="()", needed="at least one LevelSpec")

    def __len__(self) -> int:
        return len(self.levels)

    def __iter__(self) -> Iterator[LevelSpec]:
        return iter(self.levels)

    def __getitem__(self, index: int) -> LevelSpec:
        return self.levels[index]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(level.channels for level in self.levels)

    @property
    def reductions(self) -> tuple[int, ...]:
        """Stride of every level; 0 for class and register tokens."""
        return tuple(level.reduction for level in self.levels)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the levels come from, as ``split`` takes them."""
        return tuple(dict.fromkeys(level.name.partition("[")[0].removesuffix(".prefix") for level in self.levels))

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Channels, stride and tokens of every level, which must be equal in two specs that fit each other. Layers' names may differ.

        Offsets may differ too: they matter only if the stride does not divide the image, and a wrong size raises an error.
        """
        return tuple((level.channels, level.reduction, level.tokens) for level in self.levels)

    @property
    def finest(self) -> int:
        """The smallest stride among the maps."""
        return min((level.reduction for level in self.levels if not level.tokens), default=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists for JSON. An offset of ``None`` is left out."""
        return {"levels": [{k: v for k, v in asdict(level).items() if k != "offset" or v is not None} for level in self.levels]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """The inverse of ``to_dict``.

        Raises:
            ConfigError: a key is missing or unknown, or a number is out of range.
        """
        try:
            return cls(tuple(data["levels"]))
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "FeatureSpec: cannot be read.",
                given=repr(data),
                needed='{"levels": [{"name": str, "channels": int, "reduction": int, "tokens": int}, ...]}',
            ) from error
