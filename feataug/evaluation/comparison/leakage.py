"""Are images that a comparison measures on also trained on? Asked before anything is trained."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feataug.core.fingerprints import spread
from feataug.errors import DataError, message
from feataug.evaluation.repeatability import preserved_rng

# Pictures without files that are read from each set at most, evenly spread; and how many leaks an error names.
MOST, _NAMED = 2048, 5
_TRANSFORMS = ("transforms", "transform", "target_transform")
# Where a loader or a data set keeps the one that it reads from.
_INNER = ("dataset", "loader")
_DEPTH = 16

# An image of a set: its number there, the data set that reads it, and its number there.
Item = tuple[int, Any, int]


def check_leaks(val_loader: Any, trained_on: Mapping[str, Any]) -> str:
    """Raise if an image of a training set is also in the validation set.

    Images that readers of ``feataug.data`` read from files are compared by their files: the same path, links followed, or the same bytes under
    another name. Of files only those of equal size are read, and none is decoded. Other data sets are compared by their pictures, read
    without the data set's ``transforms`` where it has that attribute; up to 2048 of each set. A picture of one colour says nothing.

    What is not found: a picture that was scaled, cropped or compressed once more before it was stored; one that a data set crops or changes
    in its own ``__getitem__``, but for mirroring; frames that only look alike. Sets of which one has files and the other has none are compared
    by pictures, which are equal only if both give the same numbers.

    Args:
        val_loader: The loader, data set or list of batches that is measured on.
        trained_on: Names, for the error, to loaders of images that something is trained or fitted on.

    Returns:
        ``"files"`` or ``"images"``, by what was compared; ``"not possible"`` where some set's images cannot be read by number, or have
        numbers of another kind.

    Raises:
        DataError: images are in both, with their names or numbers.

    Source:
        Ours.
    """
    measured = _items(val_loader)
    by = "files"
    for name, loader in trained_on.items():
        found = _items(loader)
        if not measured or not found:
            by = "not possible"
            continue
        if all(_file(item) is not None for item in (*measured, *found)):
            shared = _same_files(found, measured)
        else:
            pictures = _same_pictures(found, measured)
            if pictures is None:
                by = "not possible"
                continue
            shared, by = pictures, "images" if by == "files" else by
        if shared:
            raise _error(name, shared, found)
    return by


def _items(source: Any) -> list[Item]:
    """The images behind a loader or a data set; none where they cannot be known."""
    found = _within(source, 0)
    return [(number, dataset, index) for number, (dataset, index) in enumerate(found)]


def _within(source: Any, depth: int) -> list[tuple[Any, int]]:
    if depth > _DEPTH or source is None or isinstance(source, (str, bytes)):
        return []
    indices, parts = getattr(source, "indices", None), getattr(source, "datasets", None)
    inner = next((part for name in _INNER if _readable(part := getattr(source, name, None))), None)
    if isinstance(parts, (list, tuple)):
        return [item for part in parts for item in _within(part, depth + 1)]
    if inner is not None and not _has_files(source):
        found = _within(inner, depth + 1)
        chosen: Any = indices.tolist() if isinstance(indices, (Tensor, np.ndarray)) else indices
        if chosen is None or not found:
            return found
        known = all(isinstance(index, int) and -len(found) <= index < len(found) for index in chosen)
        return [found[index] for index in chosen] if known else []
    if isinstance(source, (list, tuple)) and source and _is_batch(source[0]):
        return [(images, number) for images, _ in source for number in range(len(images))]
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return [(source, index) for index in range(len(source))]
    return []


def _readable(value: Any) -> bool:
    """Whether it may be a data set or a loader; torchvision's folders call a function ``loader``."""
    return value is not None and (hasattr(value, "__getitem__") or hasattr(value, "dataset"))


def _is_batch(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], Tensor) and value[0].ndim == 4


def _has_files(dataset: Any) -> bool:
    files = getattr(dataset, "image_files", None)
    return isinstance(files, (list, tuple)) and len(files) > 0


def _file(item: Item) -> Path | None:
    _, dataset, index = item
    return Path(dataset.image_files[index]) if _has_files(dataset) else None


def _same_files(found: list[Item], measured: list[Item]) -> list[tuple[str, str]]:
    """Names of files in both sets, by path or by content."""
    val = [str(_file(item)) for item in measured]
    paths = {os.path.realpath(name): name for name in val}
    sizes: dict[int, list[str]] = {}
    for name in val:
        if os.path.isfile(name):
            sizes.setdefault(os.path.getsize(name), []).append(name)
    digests: dict[str, str] = {}

    def digest(name: str) -> str:
        if name not in digests:
            with open(name, "rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests[name]

    shared = []
    for item in found:
        name = str(_file(item))
        if (other := paths.get(os.path.realpath(name))) is not None:
            shared.append((name, other))
        elif os.path.isfile(name):
            same = [other for other in sizes.get(os.path.getsize(name), ()) if digest(other) == digest(name)]
            shared += [(name, other) for other in same[:1]]
    return shared


def _same_pictures(found: list[Item], measured: list[Item]) -> list[tuple[str, str]] | None:
    """Numbers of pictures in both sets; ``None`` where they cannot be compared."""
    try:
        with preserved_rng():
            val = {key: (kind, item) for item in spread(measured, MOST) for kind, key in islice(_keys(item), 1) if key}
            keys = [(item, list(_keys(item))) for item in spread(found, MOST)]
    except Exception:
        # A set that cannot be read by number is for the training to judge.
        return None
    kinds = {kind for kind, _ in val.values()}
    if not any(kind in kinds for _, both in keys for kind, _ in both):
        return None
    shared = []
    for item, both in keys:
        # Its mirror image is the second.
        other = next((val[key][1] for _, key in both if key in val), None)
        if other is not None:
            shared.append((_named(item), _named(other)))
    return shared


def _keys(item: Item) -> Iterable[tuple[str, str]]:
    """Kind and digest of a picture, then of its mirror image; an empty digest for a picture of one colour."""
    picture = _picture(item)
    kind = f"{picture.dtype} {picture.ndim}"
    plain = picture.size == 0 or bool((picture == picture.reshape(-1)[0]).all())
    for turned in (picture, picture[..., ::-1]):
        digest = hashlib.sha256(np.ascontiguousarray(turned).tobytes())
        digest.update(str(picture.shape).encode())
        yield kind, "" if plain else digest.hexdigest()


def _picture(item: Item) -> np.ndarray:
    """An image ``(C, H, W)`` as its data set has it before the transforms."""
    _, dataset, index = item
    if isinstance(dataset, Tensor):
        return dataset[index].detach().cpu().numpy()
    if callable(getattr(dataset, "image", None)):
        return np.asarray(dataset.image(index))
    changed = [name for name in _TRANSFORMS if getattr(dataset, name, None) is not None]
    if changed:
        dataset = copy.copy(dataset)
        for name in changed:
            setattr(dataset, name, None)
    found = dataset[index]
    image = found[0] if isinstance(found, (tuple, list)) else found
    if isinstance(image, Tensor):
        return torch.as_tensor(image).detach().cpu().numpy()
    array = np.asarray(image)
    # PIL and numpy have the channels last.
    return np.moveaxis(array, -1, 0) if array.ndim == 3 and array.shape[-1] in (1, 3, 4) else array


def _named(item: Item) -> str:
    file = _file(item)
    return str(file) if file is not None else f"image {item[0]}"


def _error(name: str, shared: list[tuple[str, str]], found: list[Item]) -> DataError:
    listed = [one if one == other else f"{one} = {other}" for one, other in shared[:_NAMED]]
    more = f" and {len(shared) - _NAMED} more" if len(shared) > _NAMED else ""
    return DataError(
        message(
            f"compare: {name} holds images of the validation set.",
            given=f"{len(shared)} of {len(found)}: {', '.join(listed)}{more}",
            needed="no image in both: figures on images that were trained on are too good",
            advice="Leave these images out of one of the two. Left of = is the image there, right of it that of val_loader.",
        )
    )
