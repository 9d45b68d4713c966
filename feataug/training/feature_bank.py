"""Encoded features on disk, for trainings of a generator in which the encoder takes most of the time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from feataug.core.checks import check_batch, check_number, describe
from feataug.core.modes import eval_mode
from feataug.core.specs import FeatureSpec, crossing
from feataug.cutting.cut import Cut
from feataug.errors import ConfigError, DataError
from feataug.io.atomic import remove_partial_files, write_json, write_tensors
from feataug.training.batches import endless
from feataug.training.progress import progress_bar

FORMAT = 1
_INDEX = "bank.json"


class FeatureBank(Dataset):
    """Pairs of features and masks on disk, written by ``FeatureBank.write``. ``GeneratorTrainer.fit`` takes a loader of them.

    Files are memory-mapped: an item reads only its own bytes. Each file's checksum is verified when it is first read.

    Args:
        folder: The folder with ``bank.json``, ``shard-00000.safetensors`` and so on.
        verify: ``False`` skips the checksums.

    Attributes:
        spec: The spec of the cut that the features come from.

    Raises:
        DataError: there is no bank, it is incomplete, or a file was altered.

    Source:
        Ours.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        self.folder, self.verify = Path(folder), verify
        index = _read_index(self.folder)
        if index is None:
            raise DataError(
                "FeatureBank: no bank there.",
                given=str(self.folder),
                needed=f"a folder with {_INDEX}",
                advice="FeatureBank.write(...)",
            )
        if not index["complete"]:
            images = sum(shard["images"] for shard in index["shards"])
            raise DataError(
                "FeatureBank: the bank is incomplete.",
                given=f"{images} of {index['settings']['num_images']} images in {self.folder}",
                needed="all of them",
                advice="Call FeatureBank.write with the same arguments: it continues where it stopped.",
            )
        self.spec = FeatureSpec.from_dict(index["settings"]["spec"])
        self.shards: list[dict[str, Any]] = index["shards"]
        self._ends = torch.tensor([shard["images"] for shard in self.shards]).cumsum(0)
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images; channels / stride: {crossing(self.spec)})"

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return features, one ``(channels, h, w)`` float32 tensor for each level, and their mask ``(H, W)`` int64."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(torch.searchsorted(self._ends, index, right=True))
        row = index - (int(self._ends[number - 1]) if number else 0)
        shard = self._shard(number)
        levels = tuple(shard.get_slice(f"level_{level}")[row].float() for level in range(len(self.spec)))
        return levels, shard.get_slice("masks")[row].long()

    def settings(self) -> dict[str, Any]:
        """Identify the bank's content, for the settings of a run that reads it."""
        digest = hashlib.sha256("".join(shard["sha256"] for shard in self.shards).encode()).hexdigest()
        return {"length": len(self), "shards": digest[:16]}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open files: each worker process opens its own."""
        return self.__dict__ | {"_open": {}}

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            path = _path(self.folder, number)
            try:
                if self.verify and _digest(path) != self.shards[number]["sha256"]:
                    raise DataError(
                        "FeatureBank: a file was altered after it was written.",
                        given=f"{path} with another checksum",
                        needed=f"the one in {_INDEX}",
                        advice="Delete the folder, and write the bank again.",
                    )
                self._open[number] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise DataError("FeatureBank: a file cannot be read.", given=f"{path} ({error})", needed="a whole file") from error
        return self._open[number]

    @classmethod
    def write(
        cls,
        folder: str | Path,
        cut: Cut,
        loader: Iterable[tuple[Tensor, Tensor]],
        num_images: int,
        *,
        dtype: torch.dtype = torch.bfloat16,
        shard_images: int = 512,
        device: Any = None,
        progress: bool = True,
    ) -> FeatureBank:
        """Encode images and write the features to disk. An interrupted call continues where it stopped.

        Args:
            folder: The folder to write to.
            cut: The cut whose encoder is used, in eval mode and without gradients.
            loader: Yields ``(images, masks)``. It is read as often as needed; random crops then differ from pass to pass. To continue
                exactly, it must repeat itself, as ``data.seeded_loader`` does.
            num_images: The least number of images; whole batches are kept.
            dtype: The dtype of the features on disk: ``torch.bfloat16``, ``float16`` or ``float32``.
            shard_images: The number of images after which a new file starts.
            device: The device to encode on; the model's by default.
            progress: Show a progress bar.

        Raises:
            DataError: the folder holds a bank with other settings.
            ConfigError: a number is out of range, or the dtype is another one.
        """
        check_number("FeatureBank", "num_images", num_images, low=1, integer=True)
        check_number("FeatureBank", "shard_images", shard_images, low=1, integer=True)
        if not isinstance(dtype, torch.dtype) or dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise ConfigError(
                "FeatureBank: dtype is not supported.", given=describe(dtype), needed="torch.bfloat16, float16 or float32"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(folder)
        settings = {
            "num_images": num_images,
            "dtype": str(dtype).removeprefix("torch."),
            "shard_images": shard_images,
            "spec": cut.spec.to_dict(),
        }
        index = _read_index(folder) or {"format": FORMAT, "settings": settings, "shards": [], "complete": False}
        if index["settings"] != settings:
            given, needed = (
                ", ".join(f"{k}={s[k]}" for k in settings if index["settings"].get(k) != settings[k])
                for s in (settings, index["settings"])
            )
            raise DataError(
                "FeatureBank: the folder holds a bank with other settings.",
                given=given,
                needed=needed,
                advice="Use another folder.",
            )
        if device is not None:
            cut.model.to(device)
        where = next(cut.model.parameters()).device
        shards = index["shards"]
        done = sum(shard["images"] for shard in shards)
        batches = endless(loader, sum(shard["batches"] for shard in shards))
        parts: list[tuple[Tensor, ...]] = []
        with progress_bar(num_images, done, "encode", "img", progress) as bar, torch.no_grad(), eval_mode(cut.model):
            while not index["complete"]:
                images, masks = check_batch("FeatureBank", next(batches), cut.model)
                features = cut.encode(images.to(where, memory_format=torch.channels_last))
                small = torch.uint8 if int(masks.min()) >= 0 and int(masks.max()) < 256 else torch.int32
                parts.append((*(level.to("cpu", dtype) for level in features), masks.to("cpu", small)))
                bar.update(len(images))
                count = sum(len(part[-1]) for part in parts)
                last = done + count >= num_images
                if count >= shard_images or last:
                    path = _path(folder, len(shards))
                    *levels, kept = (torch.cat([part[number] for part in parts]).contiguous() for number in range(len(parts[0])))
                    write_tensors(path, {f"level_{number}": level for number, level in enumerate(levels)} | {"masks": kept})
                    shards.append({"images": count, "batches": len(parts), "sha256": _digest(path)})
                    done, parts, index["complete"] = done + count, [], last
                    write_json(folder / _INDEX, index)
        return cls(folder)


def _path(folder: Path, number: int) -> Path:
    # The name comes from the number, never from the index: an index from elsewhere cannot point outside the folder.
    return folder / f"shard-{number:05d}.safetensors"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / _INDEX
    if not path.exists():
        return None
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        version = index["format"]
        whole = isinstance(index["complete"], bool) and index["settings"].keys() == {"num_images", "dtype", "shard_images", "spec"}
        whole = whole and all(s.keys() == {"images", "batches", "sha256"} and s["images"] > 0 for s in index["shards"])
        if not whole:
            raise ValueError("not the fields of a bank")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "FeatureBank: the index cannot be read.",
            given=f"{path} ({type(error).__name__}: {error})",
            needed="what FeatureBank.write left",
        ) from error
    if version != FORMAT:
        raise DataError("FeatureBank: another format.", given=f"{path}, format {version}", needed=f"format {FORMAT}")
    return index
