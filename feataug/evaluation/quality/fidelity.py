"""How far two sets of feature vectors are apart: Fréchet distance, precision and recall."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Distances held at once, for each chunk of rows: 16 MiB in float32.
_CHUNK = 2**22


def frechet(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets of vectors.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with means ``m`` and unbiased covariances ``S``, in double precision. The trace of
    the root is the sum of the roots of the eigenvalues of ``R S2 R``, where ``R`` is the symmetric root of ``S1``: that matrix is
    symmetric and positive semidefinite, so that neither complex numbers nor a general matrix root are needed.

    Args:
        first, second: Vectors ``(n, channels)`` and ``(m, channels)``, at least two of each.

    Returns:
        The distance, at least 0, in squared units of the vectors. With fewer vectors it is larger: compare distances of equally large
        sets only.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> vectors = torch.randn(1000, 4, generator=rng)
        >>> round(frechet(vectors, vectors + 2.0), 3)
        16.0

    Source:
        Heusel et al. (2017), Eq. (6), the FID; here of features of the model that is cut, not of Inception's.
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
    """Improved precision and recall: is what is synthetic realistic, and is what is real covered?

    A set's manifold is the union of balls around its vectors; the radius of each is the distance to its ``neighbours``-th nearest
    neighbour within the set.

    Args:
        real, synthetic: Vectors ``(n, channels)`` and ``(m, channels)``, more than ``neighbours`` of each.
        neighbours: The ``k`` of the radii.
        radii: ``kth_distance(real, neighbours)``, where it is known.

    Returns:
        Precision, the share of synthetic vectors within the real manifold; recall, the share of real vectors within the synthetic
        manifold. Neither reaches 1 for two samples of the same distribution: compare with what real features get.

    Source:
        Kynkäänniemi et al. (2019), Eq. (1) and (2). Density and coverage (Naeem et al., 2020) are not used: coverage asks whether a real
        ball holds a synthetic vector, and in many channels a class's mean lies in most balls of the class, so that a generator of class
        means would be covering.
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
    """Distance of each vector ``(n, channels)`` to its ``k``-th nearest neighbour among the others, ``(n,)``."""
    # The smallest distance is that to itself.
    return torch.cat([distances.topk(k + 1, largest=False).values[:, -1] for distances in _rows(vectors, vectors)])


def nearest(vectors: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each vector ``(n, channels)`` to the nearest of ``among`` ``(m, channels)``, and which one that is: two ``(n,)``."""
    distances, places = zip(*(distances.min(1) for distances in _rows(vectors, among)), strict=True)
    return torch.cat(distances), torch.cat(places)


def _rows(vectors: Tensor, among: Tensor) -> Iterator[Tensor]:
    """Distances in chunks of rows, so that memory is bounded."""
    for chunk in vectors.split(max(1, _CHUNK // len(among))):
        yield torch.cdist(chunk, among)
