"""The size of a model's training images, stored with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

# deepcopy and pickle copy an attribute. The underscore keeps it out of descriptions of a model's settings.
_NAME = "_feataug_trained_size"


def note_size(model: nn.Module, size: tuple[int, int] | None) -> None:
    """Note the rows and columns of the images that ``model`` was trained on; ``None`` removes the note.

    Weights, ``state_dict`` and fingerprints do not change. Copies and pickles of the model keep the note, a tuple of two integers,
    which loads without this library.
    """
    own = _unwrapped(model).__dict__
    if size is None:
        own.pop(_NAME, None)
    else:
        # A user's class may override setattr.
        own[_NAME] = (int(size[0]), int(size[1]))


def noted_size(model: Any) -> tuple[int, int] | None:
    """The rows and columns that were noted; ``None`` without a note, as for a model that was trained on images of several sizes."""
    found: tuple[int, int] | None = getattr(_unwrapped(model), "__dict__", {}).get(_NAME)
    return found


def larger(images: Tensor, size: Sequence[int]) -> bool:
    """Whether images ``(B, C, H, W)`` have more rows or more columns than ``size``."""
    return images.shape[-2] > size[0] or images.shape[-1] > size[1]


class SeenSizes:
    """Finds out whether all images of a training have the same size.

    Args:
        known: An earlier ``state``.
    """

    def __init__(self, known: Sequence[Sequence[int]] = ()) -> None:
        self._found = [(int(rows), int(columns)) for rows, columns in known]

    def see(self, images: Tensor) -> None:
        """Note the size of a batch ``(B, C, H, W)``."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        if len(self._found) < 2 and size not in self._found:
            self._found.append(size)

    def one(self) -> tuple[int, int] | None:
        """The size, if all images so far had the same one."""
        return self._found[0] if len(self._found) == 1 else None

    def state(self) -> list[list[int]]:
        """Plain values for a checkpoint."""
        return [list(size) for size in self._found]


def _unwrapped(model: Any) -> Any:
    """The model inside the wrappers of torch.compile and of data parallel training."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
