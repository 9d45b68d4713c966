"""Test whether a generator copies training features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feataug.evaluation.quality.fidelity import kth_distance, nearest

# The share of held-out samples that are below the limit by chance.
CHANCE = 0.01
# A copy's ratio is below this, and below this share of the held-out samples' median.
CLOSE = 0.5
# Smaller distances, in standard deviations, count as zero: float32 rounds there, and dead cells are all the same.
_FLOOR = 0.01
# A generator copies if more than this share of its samples are copies: ten times the share by chance.
COPIED = 0.1


def memory_test(trained: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Test whether samples are nearer to training features than to features that the generator has not seen.

    For each synthetic sample of a training mask, the test divides the distance to the nearest training feature by the smaller of two
    others: the distance to the nearest held-out feature, and the distance between that training feature and its own nearest neighbour. The
    ratio is near 1 for a generator that has learnt the distribution, and near 0 for one that copies. A ratio needs no common scale, so
    classes with similar cells raise no false alarm; the second distance prevents a false alarm if the splits differ. The reference is the
    same test with the roles exchanged: samples of held-out masks against held-out features. It accounts for the similarity of a sample and
    the unseen feature of its own mask.

    The usual reference, distances from held-out real features to training features, cannot decide this: samples that are smoother than
    real features (class means, for example) are nearer to training features than real ones are, without copying any.

    Args:
        trained: Synthetic and real vectors ``(n, ...)`` of the training masks.
        held_out: The same for the held-out masks, at least two each. All sets are cut to the smallest size, since the nearest of more
            neighbours is nearer.

    Returns:
        Plain values. Distances are root mean squares over channels, so that 1 is a standard deviation.

        - ``synthetic``: the median distance from a sample of a training mask to its nearest training feature;
        - ``held_out``: from a sample of a held-out mask to its nearest held-out feature;
        - ``real``: from a held-out real feature to its nearest training feature;
        - ``ratio``: ``synthetic`` over ``held_out``, ``None`` where that is 0;
        - ``nearer``: the probability that a training sample's ratio is below a held-out sample's (Mann and Whitney's ``U / n^2``): near
          0.5 without copying and 1 with it, but also 1 if held-out images differ from training images;
        - ``copied``: the share of training samples whose ratio is below 0.5, below the 1 % quantile and below half of the median of the
          held-out samples' ratios. Splits of a data set always differ a little, so a sample must be much nearer, not only significantly;
        - ``copies``: whether ``copied`` is above 0.1;
        - ``samples``: the number of samples.

    Source:
        Meehan, Chaudhuri and Dasgupta (2020), "A non-parametric test to detect data-copying in generative models": the statistic of Mann
        and Whitney. Carlini et al. (2023), "Extracting training data from diffusion models": distances relative to those of other
        neighbours, and half of them as the limit. Ours: held-out features serve for both.
    """
    count = min(len(x) for x in (*trained, *held_out))
    (fake, train), (other, val) = ((a[:count].flatten(1), b[:count].flatten(1)) for a, b in (trained, held_out))
    scale = train.shape[1] ** 0.5

    def distance(samples: Tensor, features: Tensor) -> Tensor:
        return nearest(samples, features)[0] / scale

    def relative(samples: Tensor, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        found, indices = nearest(samples, own)
        spacing = torch.minimum(distance(samples, others), kth_distance(own, 1)[indices] / scale)
        return found.cpu().double() / scale, ((found / scale + _FLOOR) / (spacing + _FLOOR)).cpu().double()

    (seen, ratios), (reference, usual) = relative(fake, train, val), relative(other, val, train)
    limit = min(float(usual.quantile(CHANCE)), CLOSE * min(float(usual.median()), 1.0))
    copied = float((ratios < limit).double().mean())
    middle = float(reference.median())
    return {
        "synthetic": float(seen.median()),
        "held_out": middle,
        "real": float(distance(val, train).median()),
        "ratio": float(seen.median()) / middle if middle else None,
        "nearer": _nearer(ratios, usual),
        "copied": copied,
        "copies": copied > COPIED,
        "samples": count,
    }


def _nearer(first: Tensor, second: Tensor) -> float:
    """Compute the probability that a value of ``first`` is smaller than one of ``second``; ties count half."""
    ordered = second.sort().values
    low, high = (torch.searchsorted(ordered, first, right=right) for right in (False, True))
    return 1 - float((low + high).double().mean()) / 2 / len(ordered)
