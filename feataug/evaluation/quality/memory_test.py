"""Does a generator copy training features?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feataug.evaluation.quality.fidelity import kth_distance, nearest

# Share of held-out samples that lie below the limit by chance.
CHANCE = 0.01
# A copy is nearer than half of what separates features, and than half of what the held-out samples' median is.
CLOSE = 0.5
# Distances below a hundredth of a standard deviation are no distances: float32 rounds there, and dead cells are all the same.
_FLOOR = 0.01
# A generator copies if more than this share of its samples are copies: ten times what chance gives.
COPIED = 0.1


def memory_test(trained: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Test whether samples are nearer to training features than to features that the generator has not seen.

    For each synthetic sample of a training mask the test takes the distance to the nearest training feature, relative to the smaller of
    two others: the distance to the nearest held-out feature, and the distance between that training feature and its own nearest
    neighbour. A generator that has learnt the distribution has ratios near 1, and one that copies has ratios near 0. A ratio needs no common
    scale, so that classes whose cells are all alike raise no false alarm; the second distance keeps splits that differ from raising one.
    The yardstick is the same with the roles exchanged: samples of held-out masks against held-out features. It allows for what a sample
    shares with the feature of its own mask without having seen it.

    The usual yardstick, distances from held-out real features to training features, would not do for a verdict: samples that are smoother
    than real features (a class's mean, for example) are nearer to training features than real ones are, and copy none.

    Args:
        trained: Synthetic and real vectors ``(n, ...)`` of the training masks.
        held_out: The same of the held-out masks. All are cut to the smallest number, since a nearest neighbour among more is nearer;
            two of each at least.

    Returns:
        Plain values. Distances are root mean squares over channels, so that 1 is a standard deviation.

        - ``synthetic``: the median distance from a sample of a training mask to its nearest training feature;
        - ``held_out``: from a sample of a held-out mask to its nearest held-out feature;
        - ``real``: from a held-out real feature to its nearest training feature;
        - ``ratio``: ``synthetic`` over ``held_out``, ``None`` where that is 0;
        - ``nearer``: the probability that a training sample's ratio of distances is below a held-out sample's (Mann and Whitney's
          ``U / n^2``), near 0.5 without copying and 1 with it, but also where held-out images differ from training images;
        - ``copied``: the share of training samples whose ratio is below 0.5, below the 1 % quantile and below half of the median of the
          held-out samples' ratios. Splits of a data set always differ a little, so that a sample has to be much nearer, and not only
          significantly;
        - ``copies``: whether ``copied`` is above 0.1;
        - ``samples``: how many there were.

    Source:
        Meehan, Chaudhuri and Dasgupta (2020), "A non-parametric test to detect data-copying in generative models": the statistic of Mann
        and Whitney. Carlini et al. (2023), "Extracting training data from diffusion models": distances relative to those of other
        neighbours, and half of them as the limit. Ours: held-out features take both parts.
    """
    count = min(len(x) for x in (*trained, *held_out))
    (fake, train), (other, val) = ((a[:count].flatten(1), b[:count].flatten(1)) for a, b in (trained, held_out))
    scale = train.shape[1] ** 0.5

    def distance(samples: Tensor, features: Tensor) -> Tensor:
        return nearest(samples, features)[0] / scale

    def relative(samples: Tensor, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        found, places = nearest(samples, own)
        spacing = torch.minimum(distance(samples, others), kth_distance(own, 1)[places] / scale)
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
    """The probability that a value of ``first`` is smaller than one of ``second``; ties count half."""
    ordered = second.sort().values
    low, high = (torch.searchsorted(ordered, first, right=right) for right in (False, True))
    return 1 - float((low + high).double().mean()) / 2 / len(ordered)
