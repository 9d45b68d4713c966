"""Distances between two sets of feature vectors: Fréchet distance, precision and recall."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# The number of distances in memory at once: 16 MiB in float32.
_CHUNK = 2**22


def frechet(first: Tensor, second: Tensor) -> float:
    """Compute the squared Fréchet distance between Gaussians fitted to two sets of vectors.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with means ``m`` and unbiased covariances ``S``, in double precision. The trace of
    the root is the sum of the roots of the eigenvalues of ``R S2 R``, where ``R`` is the symmetric root of ``S1``. This matrix is
    symmetric and positive semidefinite, so neither complex numbers nor a general matrix root are needed.

    Args:
        first, second: Vectors ``(n, channels)`` and ``(m, channels)``, at least two of each.

    Returns:
        The distance, at least 0, in squared units of the vectors. It is larger for fewer vectors: compare only distances of equally large
        sets.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> vectors = torch.randn(1000, 4, generator=rng)
        >>> round(frechet(vectors, vectors + 2.0), 3)
        16.0

    Source:
        Heusel et al. (2017), Eq. (6), the FID; here with features of the cut model instead of Inception's.
    """
    (m1, s1), (m2, s2) = _gaussian(first), _gaussian(second)
    values, vectors = torch.linalg.eigh(s1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ s2 @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    return max(float((m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * cross), 0.0)


def _gaussian(vectors: Tensor) -> tuple[Tensor, Tensor]:
    x = vectors.cpu().double()  # some accelerators have no double precision
    mean = x.mean(0)
    x = x - mean
    return mean, x.T @ x / (len(x) - 1)


def precision_recall(real: Tensor, synthetic: Tensor, neighbours: int = 3, radii: Tensor | None = None) -> tuple[float, float]:
    """Compute improved precision and recall: are synthetic vectors realistic, and do they cover the real ones?

    A set's manifold is the union of balls around its vectors. The radius of a ball is the distance to the ``neighbours``-th nearest
    neighbour within the set.

    Args:
        real, synthetic: Vectors ``(n, channels)`` and ``(m, channels)``, more than ``neighbours`` of each.
        neighbours: The ``k`` of the radii.
        radii: ``kth_distance(real, neighbours)``, if known.

    Returns:
        Precision, the share of synthetic vectors within the real manifold, and recall, the share of real vectors within the synthetic
        manifold. Neither reaches 1 for two samples of one distribution: compare with the figures of real features.

    Source:
        Kynkäänniemi et al. (2019), Eq. (1) and (2). Density and coverage (Naeem et al., 2020) are not used: coverage asks whether a real
        ball contains a synthetic vector. In many channels a class's mean lies in most balls of the class, so a generator of class means
        would have a high coverage.
    """
    real_radii = kth_distance(real, neighbours) if radii is None else radii
    synthetic_radii = kth_distance(synthetic, neighbours)
    realistic = torch.zeros(len(synthetic), dtype=torch.bool, device=synthetic.device)
    covered = []
    start = 0
    for distances in _rows(real, synthetic):
        realistic |= (distances <= real_radii[start : start + len(distances), None]).any(0)
        covered.append((distances <= synthetic_radii).any(1))
        start += len(distances)
    return float(realistic.double().mean()), float(torch.cat(covered).double().mean())


def kth_distance(vectors: Tensor, k: int) -> Tensor:
    """Compute the distance of each vector ``(n, channels)`` to its ``k``-th nearest neighbour among the others, ``(n,)``."""
    # The smallest distance is that of a vector to itself.
    return torch.cat([distances.topk(k + 1, largest=False).values[:, -1] for distances in _rows(vectors, vectors)])


def nearest(vectors: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest of ``among`` ``(m, channels)`` for each vector ``(n, channels)``: distances and indices, ``(n,)`` each."""
    distances, indices = zip(*(distances.min(1) for distances in _rows(vectors, among)), strict=True)
    return torch.cat(distances), torch.cat(indices)


def _rows(vectors: Tensor, among: Tensor) -> Iterator[Tensor]:
    """Yield the distances in chunks of rows, which bounds the memory."""
    for chunk in vectors.split(max(1, _CHUNK // len(among))):
        yield torch.cdist(chunk, among)
