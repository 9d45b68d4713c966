"""A slow oracle for the statistics of ``feataug.stages``, and a small model to run it on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug

VOID = 255


def slow(batches, reduction, stride, num_classes, bins, min_cells):
    """Entropy and overlap by pixel loops: lists of values, numpy's histograms, one pair of classes after another."""
    values = {}
    for features, masks in batches:
        features, masks = features.double().numpy(), masks.numpy()
        for x, mask in zip(features, masks, strict=True):
            norm = math.sqrt((x**2).sum())
            for top in range(0, mask.shape[0], stride):
                for left in range(0, mask.shape[1], stride):
                    row, column = min(top + stride // 2, mask.shape[0] - 1), min(left + stride // 2, mask.shape[1] - 1)
                    if mask[row, column] != VOID:
                        vector = x[:, row // reduction, column // reduction]
                        values.setdefault(int(mask[row, column]), []).append(vector * 100 / norm if norm else vector)
    every = np.array([vector for vectors in values.values() for vector in vectors])
    kept = [c for c in range(num_classes) if len(values.get(c, [])) >= min_cells]
    entropies, overlaps = [], []
    for channel in range(every.shape[1]):
        own = every[:, channel]
        low, high = max(own.min(), own.mean() - 4 * own.std()), min(own.max(), own.mean() + 4 * own.std())
        shares = []
        for c in kept:
            inside = np.clip([vector[channel] for vector in values[c]], low, high)
            counts = np.histogram(inside, bins, (low, high))[0] if high > low else np.array([len(inside)] + [0] * (bins - 1))
            shares.append(counts / counts.sum())
        entropies += [-sum(p * math.log2(p) for p in share if p) for share in shares]
        for a in range(len(shares)):
            for b in range(a):
                both = sum(min(p, q) for p, q in zip(shares[a], shares[b], strict=True))
                overlaps.append(both / sum(max(p, q) for p, q in zip(shares[a], shares[b], strict=True)))
    return sum(entropies) / len(entropies), sum(overlaps) / len(overlaps) if overlaps else math.nan


class TinyModel(nn.Module):
    def __init__(self, skip=False):
        super().__init__()
        self.skip = skip
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        )
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, images):
        logits = self.head(self.encoder(images))
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear")
        return logits + images.mean() if self.skip else logits


def patches(batches=3, size=(32, 48)):
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 3, *size, generator=rng), torch.randint(4, (2, *size), generator=rng)) for _ in range(batches)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyModel()


AT = ["encoder.0:input", "encoder.2", "encoder"]


def run(model, loader=None, **kwargs):
    given = {"at": AT, "min_cells": 1, "device": "cpu", "progress": False} | kwargs
    return feataug.stages(model, patches() if loader is None else loader, 4, **given)
