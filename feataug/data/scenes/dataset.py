"""Street-like scenes drawn by code: a data set without a download, for the demo and the tests."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from feataug.core.joint_transforms import transform_pair
from feataug.data.scenes.street import VOID, draw_street
from feataug.errors import ConfigError

_CACHE_BYTES = 128 * 2**20


class Scenes(torch.utils.data.Dataset):
    """Street-like scenes, drawn by code: no file is read, and nothing is downloaded.

    Each scene is a street from a driver's view. Signs, pedestrians and bicyclists are rare and small. Classes share colours, and
    texture, shadows, fog, night and noise vary. A scene depends only on ``(seed, index, size, crowd)``, not on the order of reading, the
    process or global random numbers. Different seeds never share a scene: train on seed 0, validate on seed 1. Drawn scenes stay in
    memory, up to 128 MiB.

    Args:
        num_images: Number of scenes, at least 1.
        size: Height and width in pixels, each at least 16. The layout of a 4:3 view is stretched to it.
        seed: An int of at least 0.
        crowd: How many times as many pedestrians and bicyclists there are; an int of at least 0.
        transforms: ``(image, mask) -> (image, mask)``, or a transform that takes ``image=`` and ``mask=``; applied last.

    Raises:
        ConfigError: an argument is out of range.

    Source:
        Ours.

    Example:
        >>> image, mask = Scenes(4, (48, 64), seed=1)[0]
        >>> tuple(image.shape), image.dtype, tuple(mask.shape), mask.dtype
        ((3, 48, 64), torch.uint8, (48, 64), torch.int64)
    """

    classes: tuple[str, ...] = (
        "sky", "building", "road", "sidewalk", "vegetation", "car", "pole", "sign", "pedestrian", "bicyclist",
    )  # fmt: skip
    palette: tuple[tuple[int, int, int], ...] = (
        (70, 130, 180), (70, 70, 70), (128, 64, 128), (244, 35, 232), (107, 142, 35), (0, 0, 142), (153, 153, 153), (220, 220, 0),
        (220, 20, 60), (119, 11, 32),
    )  # fmt: skip
    num_classes: int = len(classes)
    ignore_index: int = VOID
    license: str = "none needed: drawn by feataug"

    def __init__(
        self,
        num_images: int,
        size: tuple[int, int] = (96, 128),
        *,
        seed: int = 0,
        crowd: int = 1,
        transforms: Callable | None = None,
    ) -> None:
        pair = tuple(size) if isinstance(size, (tuple, list)) else ()
        good = len(pair) == 2 and all(_at_least(n, 16) for n in pair)
        for name, value, fine, rule, needed in (
            ("num_images", num_images, _at_least(num_images, 1), "a positive int", "num_images >= 1"),
            ("size", size, good, "two ints of at least 16", "(height, width), such as (96, 128)"),
            ("seed", seed, _at_least(seed, 0), "an int of at least 0", "seed >= 0"),
            ("crowd", crowd, _at_least(crowd, 0), "an int of at least 0", "crowd >= 0"),
        ):
            if not fine:
                raise ConfigError(f"Scenes: {name} must be {rule}.", given=f"{name}={value!r}", needed=needed)
        self.num_images, self.seed, self.crowd = operator.index(num_images), operator.index(seed), operator.index(crowd)
        self.transforms = transforms
        self.size = operator.index(pair[0]), operator.index(pair[1])
        self._drawn: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} scenes of {self.size[0]} x {self.size[1]}, {self.num_classes} classes)"

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """The image, uint8 ``(3, H, W)``, and its mask, int64 ``(H, W)``, after ``transforms``."""
        image, labels = self._scene(index)
        # Copies (`.long()` copies as well), because a transform that works in place must not change the cache.
        image, mask = tv_tensors.Image(image.clone()), tv_tensors.Mask(labels.long())
        return (image, mask) if self.transforms is None else transform_pair("Scenes", self.transforms, image, mask)

    def mask(self, index: int) -> tv_tensors.Mask:
        """The mask of scene ``index``, int64 ``(H, W)``, without ``transforms``."""
        return tv_tensors.Mask(self._scene(index)[1].long())

    def _scene(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number = operator.index(index)
        if not -self.num_images <= number < self.num_images:
            raise IndexError(f"Scenes: index {number} is out of range for {self.num_images} images")
        number %= self.num_images
        if number in self._drawn:
            return self._drawn[number]
        rng = np.random.default_rng([self.seed, number])
        image, labels = draw_street(self.size, rng, self.crowd)
        scene = torch.from_numpy(image), torch.from_numpy(labels)
        # Nothing is evicted: in a shuffled order, the oldest scene would often be needed next.
        if (len(self._drawn) + 1) * 4 * labels.size <= _CACHE_BYTES:
            self._drawn[number] = scene
        return scene


def _at_least(value: Any, least: int) -> bool:
    # Bools and tensors have an index, too, but are not meant as a number of pixels.
    whole = hasattr(value, "__index__") and not isinstance(value, (bool, np.bool_, np.ndarray, torch.Tensor))
    return whole and operator.index(value) >= least
