"""Find validation images that are also in a training set, before anything is trained."""

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
from feataug.errors import DataError
from feataug.evaluation.repeatability import preserved_rng

# The largest number of pictures without files to read from each set, and of leaks to name in an error.
MOST, _NAMED = 2048, 5
_TRANSFORMS = ("transforms", "transform", "target_transform")
# Attributes in which a loader or a data set stores its source.
_INNER = ("dataset", "loader")
_DEPTH = 16

# An image: its number in the set, the data set that reads it, and its number in that data set.
Item = tuple[int, Any, int]


def check_leaks(val_loader: Any, trained_on: Mapping[str, Any]) -> str:
    """Raise an error if an image of a training set is also in the validation set.

    Images of ``feataug.data`` readers are compared by their files: the same path (with links resolved), or the same bytes under another
    name. Only files of equal size are read, and none is decoded. Other data sets are compared by their pictures, up to 2048 of each set,
    read without the data set's ``transforms`` if it has that attribute. Pictures of a single colour are skipped.

    Not found are pictures that were scaled, cropped or compressed again before they were stored, pictures that a data set changes in its own
    ``__getitem__`` (except by mirroring), and frames that only look alike. If only one of two sets has files, pictures are compared; they
    are equal only if both sets give the same values.

    Args:
        val_loader: The loader, data set or list of batches to measure on.
        trained_on: Loaders of images for training or fitting, by names for the error.

    Returns:
        ``"files"`` or ``"images"``, depending on what was compared; ``"not possible"`` if some set's images cannot be read by number, or
        have another dtype or number of dimensions.

    Raises:
        DataError: some images are in both; the message names them.

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
    """List the images behind a loader or a data set, or nothing if they are unknown."""
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
    """Whether a value may be a data set or a loader: in torchvision's folders, ``loader`` is a function."""
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
    """List the pictures in both sets by number; ``None`` if they cannot be compared."""
    try:
        with preserved_rng():
            val = {key: (kind, item) for item in spread(measured, MOST) for kind, key in islice(_keys(item), 1) if key}
            keys = [(item, list(_keys(item))) for item in spread(found, MOST)]
    except Exception:
        # Training reports errors of a set that cannot be read by number.
        return None
    kinds = {kind for kind, _ in val.values()}
    if not any(kind in kinds for _, both in keys for kind, _ in both):
        return None
    shared = []
    for item, both in keys:
        # The first key is the picture's, the second that of its mirror image.
        other = next((val[key][1] for _, key in both if key in val), None)
        if other is not None:
            shared.append((_name_of(item), _name_of(other)))
    return shared


def _keys(item: Item) -> Iterable[tuple[str, str]]:
    """Yield kind and digest of a picture and of its mirror image. The digest of a single colour is empty."""
    picture = _picture(item)
    kind = f"{picture.dtype} {picture.ndim}"
    plain = picture.size == 0 or bool((picture == picture.reshape(-1)[0]).all())
    for view in (picture, picture[..., ::-1]):
        digest = hashlib.sha256(np.ascontiguousarray(view).tobytes())
        digest.update(str(picture.shape).encode())
        yield kind, "" if plain else digest.hexdigest()


def _picture(item: Item) -> np.ndarray:
    """Return an image ``(C, H, W)`` from before the data set's transforms."""
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


def _name_of(item: Item) -> str:
    file = _file(item)
    return str(file) if file is not None else f"image {item[0]}"


def _error(name: str, shared: list[tuple[str, str]], found: list[Item]) -> DataError:
    listed = [one if one == other else f"{one} = {other}" for one, other in shared[:_NAMED]]
    more = f" and {len(shared) - _NAMED} more" if len(shared) > _NAMED else ""
    return DataError(
        f"compare: {name} holds images of the validation set.",
        given=f"{len(shared)} of {len(found)}: {', '.join(listed)}{more}",
        needed="no image in both: figures on training images are too good",
        advice="Remove these images from one of the two. Left of = is the image there, right of it that of val_loader.",
    )
