"""Batches that many arms read: computed once and cached in files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader


class CachedBatches:
    """A loader from ``seeded_loader`` whose passes are cached in ``folder``; it stands in for the loader's batch sampler as well.

    Processes that compute the same pass at the same time write equal files, and the last one's stay.
    """

    def __init__(self, loader: DataLoader, folder: Path) -> None:
        self.loader, self.folder, self.batch_sampler = loader, folder, self
        self.start(epoch=0)

    def start(self, epoch: int, skip: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Set up the next pass, as ``data.loader.SeededBatches`` does."""
        self.epoch, self.skip, self.world_size = epoch, skip, world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the next pass."""
        self.epoch = epoch

    def count(self, world_size: int = 1) -> int:
        """The number of batches in a pass."""
        return self.loader.batch_sampler.count(world_size)  # type: ignore[union-attr]

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.world_size != 1:
            raise RuntimeError(f"cached batches are read by one process, not shared by {self.world_size}")
        skip, self.skip = self.skip, 0
        images, masks = self.cached_pass(self.epoch)
        for number in range(skip, len(images)):
            yield torch.from_numpy(images[number]), torch.from_numpy(masks[number]).long()

    def cached_pass(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Images ``(batches, B, 3, H, W)`` and masks ``(batches, B, H, W)`` of a pass, computed where they are not cached yet."""
        paths = [self.folder / f"{kind}-{epoch}.npy" for kind in ("images", "masks")]
        if not all(path.exists() for path in paths):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
            images, masks = zip(*self.loader, strict=True)
            for path, arrays in zip(paths, (images, [mask.to(torch.uint8) for mask in masks]), strict=True):
                temporary = path.with_suffix(f".{os.getpid()}")
                with temporary.open("wb") as file:
                    np.save(file, torch.stack(list(arrays)).numpy())
                temporary.replace(path)
        # Copy on write: torch needs memory that it may write to.
        images, masks = (np.load(path, mmap_mode="c") for path in paths)
        return images, masks
