"""A street in metres and its camera: draws rectangles and ellipses with a depth buffer. Source: ours."""

from __future__ import annotations

from typing import Any

import numpy as np

# Every scene is laid out for a 4:3 view and stretched to the requested size, so that the layout does not depend on the aspect
# ratio.
ASPECT = 4 / 3
Pair = tuple[float, float]


class Canvas:
    """A street in metres (x to the right of the camera, y up, z ahead), its camera, and the object that each pixel shows.

    Objects may be drawn in any order, because each pixel stores the inverse depth of its object. Source: ours.
    """

    def __init__(self, size: tuple[int, int], rng: np.random.Generator, background: int) -> None:
        self.horizon, self.vanish = rng.uniform(0.36, 0.52), rng.uniform(-0.14, 0.14)
        self.focal, self.eye = rng.uniform(0.9, 1.15), rng.uniform(1.4, 2.0)
        self.night = rng.random() < 0.15
        self.crowd = 1  # how many times as many people
        self.half = rng.uniform(3.2, 5.5)
        self.centre = rng.uniform(-0.4, 0.4) * self.half
        verge, walk = rng.uniform(0.6, 2.0, 2) * (rng.random(2) < 0.3), rng.uniform(1.8, 4.5, 2)
        self.kerb = (self.centre - self.half, self.centre + self.half)
        self.path = (self.kerb[0] - verge[0], self.kerb[1] + verge[1])
        self.wall = (self.path[0] - walk[0], self.path[1] + walk[1])
        rows, cols = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in size)
        self.v, self.u = rows[:, None] - self.horizon, (cols[None] - 0.5) * ASPECT - self.vanish
        # Each pixel holds an index into `items` (RGB, strength of texture, label); one lookup at the end paints the image.
        self.items: list[tuple[float, ...]] = [(0.0, 0.0, 0.0, 0.03, background)]
        self.item = np.zeros(size, np.uint16)
        self.near = np.zeros(size, np.float32)  # 1 / depth
        self.shadow = np.ones(size, np.float32)  # only for the ground, whose last item is `ground`
        self.ground = 0
        self.rough = noise_field(rng, size, ((6, 8), (14, 19), (34, 45)))

    def window(self, u: Pair, v: Pair, least: int = 0) -> tuple[slice, slice]:
        """Rows and columns of the pixels whose centres are in a rectangle of the view; at least ``least`` of each."""
        shift = self.vanish / ASPECT + 0.5
        return (
            _span(v[0] + self.horizon, v[1] + self.horizon, self.item.shape[0], least),
            _span(u[0] / ASPECT + shift, u[1] / ASPECT + shift, self.item.shape[1], least),
        )

    def put(
        self,
        at: tuple[slice, slice],
        mask: Any,
        near: Any,
        color: Any,
        label: int,
        grain: float = 0.1,
        panes: tuple | None = None,
        along: Any = None,
    ) -> None:
        """Paint the pixels of ``mask`` that nothing nearer hides; ``panes`` (width, height, colour) are windows along ``along``."""
        # The stored depth is float32: compared in float64, an object could lose to its own rounded depth.
        near = np.asarray(near, np.float32)
        mask = mask & (self.near[at] <= near)
        np.copyto(self.near[at], near, where=mask)
        np.copyto(self.item[at], np.uint16(len(self.items)), where=mask)
        self.items.append((*color, grain, label))
        if panes is not None:
            across, up = along / panes[0] % 1, (self.eye - self.v[at[0]] / (near * self.focal)) / panes[1] % 1
            mask = mask & (across > 0.25) & (across < 0.75) & (up > 0.3) & (up < 0.8)
            self.put(at, mask, near, panes[2], label, grain)

    def front(
        self,
        x: Pair,
        y: Pair,
        z: float,
        color: Any,
        label: int,
        grain: float = 0.1,
        *,
        oval: bool = False,
        rough: float = 0.0,
        panes: tuple | None = None,
    ) -> None:
        """Draw a rectangle or ellipse that faces the camera at depth ``z``, at least one pixel thick."""
        k = self.focal / z
        (u0, u1), (v0, v1) = sorted((k * x[0], k * x[1])), (k * (self.eye - y[1]), k * (self.eye - y[0]))
        at = self.window((u0, u1), (v0, v1), 1)
        v, u = self.v[at[0]], self.u[:, at[1]]
        mask: Any = np.True_
        if oval and min(v.size, u.size) > 2:  # a smaller ellipse could miss all pixel centres
            mask = (2 * u - u0 - u1) ** 2 / (u1 - u0) ** 2 + (2 * v - v0 - v1) ** 2 / (v1 - v0) ** 2
            mask = mask < 1 - rough * self.rough[at]
        if v.size and u.size:
            self.put(at, mask, 1 / z, color, label, grain, panes, u / k)

    def side(self, x: float, y: Pair, z: Pair, color: Any, label: int, grain: float = 0.1, *, panes: tuple | None = None) -> None:
        """Draw an upright rectangle along the street, at ``x``, from depth ``z[0]`` to ``z[1]``."""
        k = self.focal * x
        ends = sorted(self.focal * (self.eye - a) / b for a in y for b in z)
        at = self.window((min(k / z[0], k / z[1]), max(k / z[0], k / z[1])), (ends[0], ends[-1]))
        v, u = self.v[at[0]], self.u[:, at[1]]
        if v.size and u.size:
            scale = u / x
            mask = (v >= scale * (self.eye - y[1])) & (v < scale * (self.eye - y[0]))
            self.put(at, mask, u / k, color, label, grain, panes, k / u)

    def shade(self, x: Pair, z: Pair, by: float) -> None:
        """Darken the ground in the ranges ``x`` and ``z``."""
        near, far = self.focal / z[0], self.focal / z[1]
        self.shadow[self.window((near * x[0], near * x[1]), (far * self.eye, near * self.eye))] *= np.float32(by)


def _span(low: float, high: float, length: int, least: int) -> slice:
    # A pixel belongs to the object that covers its centre. `least` keeps thin objects visible at small sizes.
    first, last = -int(-(low * length - 0.5) // 1), -int(-(high * length - 0.5) // 1)
    if last - first < least:
        first = int((low + high) / 2 * length // 1)
        last = first + least
    return slice(min(max(first, 0), length), min(max(last, 0), length))


def noise_field(rng: np.random.Generator, size: tuple[int, int], grids: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Smooth noise, float32 of shape ``size``, roughly in [-1, 1]; the same picture at every size."""
    total = np.zeros(size, np.float32)
    for grid in grids:
        knots = rng.uniform(-1, 1, grid).astype(np.float32)
        # Element by element, because the last bits of a matrix product depend on the number of threads.
        y, x = ((np.arange(n) + 0.5) / n * (m - 1) for n, m in zip(size, grid, strict=True))
        i, j = y.astype(int), x.astype(int)
        t, s = (y - i).astype(np.float32)[:, None], (x - j).astype(np.float32)
        knots = knots[:, j] * (1 - s) + knots[:, j + 1] * s
        total += knots[i] * (1 - t) + knots[i + 1] * t
    return total / np.float32(len(grids) ** 0.5)
