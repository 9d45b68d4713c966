"""Draws one scene: the objects of a street in metres, and the image that a camera takes of it. Source: ours."""

from __future__ import annotations

import numpy as np

from feataug.data.scenes.canvas import Canvas, Pair, noise_field

SKY, BUILDING, ROAD, SIDEWALK, VEGETATION, CAR, POLE, SIGN, PEDESTRIAN, BICYCLIST = range(10)
VOID = 255
_FACADES = (
    (0.52, 0.51, 0.50), (0.62, 0.36, 0.28), (0.78, 0.72, 0.58), (0.45, 0.47, 0.52),
    (0.85, 0.83, 0.80), (0.36, 0.33, 0.32), (0.66, 0.60, 0.36), (0.50, 0.60, 0.52),
)  # fmt: skip
_PAINTS = (
    (0.55, 0.55, 0.56), (0.12, 0.12, 0.13), (0.88, 0.88, 0.87), (0.72, 0.12, 0.12),
    (0.15, 0.25, 0.55), (0.20, 0.38, 0.24), (0.70, 0.64, 0.50), (0.33, 0.34, 0.37),
)  # fmt: skip
_PLATES = (
    (0.78, 0.12, 0.12), (0.12, 0.25, 0.65), (0.88, 0.75, 0.10),
    (0.90, 0.90, 0.88), (0.15, 0.48, 0.25), (0.50, 0.50, 0.52),
)  # fmt: skip
_LEAVES = ((0.22, 0.36, 0.14), (0.33, 0.42, 0.18), (0.45, 0.38, 0.16), (0.16, 0.27, 0.15), (0.52, 0.44, 0.30))
_SKIN = ((0.80, 0.60, 0.50), (0.50, 0.34, 0.25), (0.65, 0.48, 0.38))
_GLASS, _TYRE = (0.16, 0.19, 0.23), (0.07, 0.07, 0.08)


def _pick(rng: np.random.Generator, colors: tuple, spread: float = 0.07) -> np.ndarray:
    # A shift common to all channels varies brightness more than hue, as in real objects of one kind.
    draw = rng.random(5)
    return np.array(colors[int(draw[0] * len(colors))]) + spread * (2 * draw[1] - 1.5 + draw[2:])


def _draw_ground(canvas: Canvas, rng: np.random.Generator) -> None:
    at = slice(canvas.window((0, 0), (0, 1))[0].start, None), slice(None)
    near = np.maximum(canvas.v[at[0]], 1e-3) / (canvas.focal * canvas.eye)
    z = 1 / near
    x = canvas.u * z / canvas.focal
    asphalt = _pick(rng, ((0.38, 0.38, 0.40), (0.50, 0.49, 0.48), (0.30, 0.30, 0.33)))
    slab = _pick(rng, ((0.58, 0.56, 0.54), (0.48, 0.48, 0.49), (0.60, 0.50, 0.44)))
    grass = _pick(rng, ((0.30, 0.42, 0.18), (0.45, 0.45, 0.25)))
    tile, dash = rng.uniform(0.6, 1.2), 3 + 3 * rng.integers(2)
    walk, road = (x > canvas.wall[0]) & (x < canvas.wall[1]), (x > canvas.kerb[0]) & (x < canvas.kerb[1])
    marks = (np.abs(x - canvas.centre) < 0.09) & (z % 6 < dash)
    if rng.random() < 0.4:
        marks |= np.abs(np.abs(x - canvas.centre) - canvas.half + 0.35) < 0.07
    if rng.random() < 0.25:
        start = rng.uniform(6, 16)
        marks |= (z > start) & (z < start + 3) & (x % 1 < 0.5)
    joints = walk & ((x / tile % 1 < 0.1) | (z / tile % 1 < 0.1)) & (z < 14)
    canvas.put(at, np.True_, near, grass, VEGETATION, 0.35)
    canvas.put(at, walk, near, slab, SIDEWALK, 0.15)
    canvas.put(at, joints, near, slab * 0.75, SIDEWALK, 0.15)
    canvas.put(at, (x > canvas.path[0]) & (x < canvas.path[1]), near, grass, VEGETATION, 0.35)
    canvas.put(at, (x > canvas.kerb[0] - 0.2) & (x < canvas.kerb[1] + 0.2), near, slab * 1.15, SIDEWALK)
    canvas.put(at, road, near, asphalt, ROAD, 0.12)
    canvas.put(at, marks & road, near, (0.82, 0.82, 0.78), ROAD, 0.2)
    canvas.ground = len(canvas.items) - 1
    if rng.random() < 0.5:  # the shadow of a row of houses on the street
        sign, reach = rng.choice((-1, 1)), rng.uniform(0.0, 1.2) * canvas.half
        dark = (x - canvas.centre) * sign > canvas.half - reach
        dark &= (z / rng.uniform(14, 30) + rng.random()) % 1 < 0.75
        canvas.shadow[at][dark] = rng.uniform(0.45, 0.75)


def _draw_buildings(canvas: Canvas, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 4)):  # buildings at the far end of the street
        x, wide = rng.uniform(-45, 45), rng.uniform(8, 30)
        canvas.front((x, x + wide), (0, rng.uniform(5, 16)), rng.uniform(85, 110), _pick(rng, _FACADES), BUILDING)
    for sign, wall in zip((-1, 1), canvas.wall, strict=True):
        z, gap = rng.uniform(-8, 6), True
        while z < 80 and rng.random() < 0.97:  # otherwise a park follows
            end, high, x = z + rng.uniform(9, 26), rng.uniform(4.5, 20), wall + sign * rng.uniform(0, 1.2)
            color, start = _pick(rng, _FACADES, 0.1), max(z, 1.0)
            pane = _pick(rng, (_GLASS, (0.45, 0.52, 0.58), (0.30, 0.28, 0.25)))
            if canvas.night and rng.random() < 0.6:
                pane = np.array((1.6, 1.3, 0.7))
            panes = (rng.uniform(1.8, 4.0), rng.uniform(2.6, 3.8), pane) if z < 50 else None
            canvas.side(x, (0, high), (start, end), color, BUILDING, rng.uniform(0.05, 0.25), panes=panes)
            if gap and z > 1:
                canvas.front((x, x + sign * 9), (0, high), z, color * 0.85, BUILDING, panes=panes)
            if rng.random() < 0.35:  # an awning or a shop front, in the colours of signs and cars
                start += rng.uniform(0, 0.5) * (end - start)
                shop = start, min(start + 5, end)
                canvas.side(x - sign * 0.1, (2.3, 3.1), shop, _pick(rng, _PLATES), BUILDING)
            gap = rng.random() < 0.3
            z = end + gap * rng.uniform(2, 9)


def _draw_trees(canvas: Canvas, rng: np.random.Generator) -> None:
    def leaves(x: float, wide: float, y: Pair, z: float, color: np.ndarray, rough: float) -> None:
        canvas.front((x - wide, x + wide), y, z, color, VEGETATION, 0.5, oval=True, rough=rough)

    for _ in range(rng.integers(1, 4)):
        high = rng.uniform(5, 13)
        leaves(rng.uniform(-40, 40), rng.uniform(5, 18), (-high, high), rng.uniform(70, 84), _pick(rng, _LEAVES), 0.6)
    for side, sign in enumerate((-1, 1)):
        for _ in range(rng.integers(0, 5)):
            x, z, color = canvas.path[side] + sign * rng.uniform(0.3, 6), rng.uniform(9, 45), _pick(rng, _LEAVES)
            trunk, wide, high = rng.uniform(1.8, 3.2), rng.uniform(1.0, 2.6), rng.uniform(2.5, 5.5)
            canvas.front((x - 0.15, x + 0.15), (0, trunk + 1), z, (0.30, 0.24, 0.19), VEGETATION, 0.3)
            leaves(x, wide, (trunk, trunk + high), z, color, 0.7)
            leaves(x, wide / 2, (trunk + high / 2, trunk + high), z, color * 1.3, 1.0)


def _draw_cars(canvas: Canvas, rng: np.random.Generator) -> None:
    for side, sign in enumerate((-1, 1)):
        if rng.random() < 0.5:
            spot = rng.uniform(5, 14)
            while spot < 45:
                if rng.random() < 0.55:
                    _draw_car(canvas, rng, canvas.kerb[side] - sign * rng.uniform(1.0, 1.2), spot)
                spot += rng.uniform(5.3, 9)
        if rng.random() < 0.5:
            _draw_car(canvas, rng, canvas.centre + sign * canvas.half * rng.uniform(0.3, 0.45), rng.uniform(8, 40))


def _draw_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    color, wide, end = _pick(rng, _PAINTS), rng.uniform(0.8, 0.95), z + rng.uniform(3.6, 4.8)
    belt, roof, hood = rng.uniform(0.8, 0.95), rng.uniform(1.35, 1.6), 0.7
    if rng.random() < 0.12:  # a van
        belt, roof, hood = 1.1, rng.uniform(1.9, 2.5), 0.1
    lamp = ((0.75, 0.10, 0.08), (0.95, 0.93, 0.80))[rng.integers(2)]
    canvas.shade((x - wide - 0.2, x + wide + 0.2), (z - 0.4, end), 0.45)
    close = z < 25  # farther away, wheels and lamps are too small to draw
    if abs(x) > wide:
        flank = x - wide if x > 0 else x + wide  # the side that faces the camera
        canvas.side(flank, (0.2, belt), (z, end), color * 0.8, CAR)
        canvas.side(flank, (belt - 0.1, roof), (z + hood, end - 0.5), color * 0.8, CAR)
        if close:
            canvas.side(flank, (belt, roof - 0.12), (z + hood + 0.3, end - 0.8), _GLASS, CAR)
            for axle in (z + 0.5, end - 1.1):
                canvas.side(flank, (0, 0.6), (axle, axle + 0.65), _TYRE, CAR)
    for reach, y, depth, paint in (
        (1, (0.22, belt), z, color),
        (0.85, (belt - 0.15, roof), z + hood / 2, color),
        (0.72, (belt + 0.05, roof - 0.12), z + hood / 2, _GLASS),
    ):
        canvas.front((x - wide * reach, x + wide * reach), y, depth, paint, CAR)
    for left in (x - wide, x + wide - 0.3) if close else ():
        canvas.front((left, left + 0.3), (0.0, 0.25), z, _TYRE, CAR)
        canvas.front((left, left + 0.3), (0.55, 0.75), z, np.multiply(lamp, 1 + canvas.night), CAR)


def _draw_poles(canvas: Canvas, rng: np.random.Generator) -> None:
    for kind in [POLE] * rng.integers(0, 5) + [SIGN] * rng.choice(4, p=(0.45, 0.3, 0.2, 0.05)):
        side, size, low = rng.integers(2), rng.uniform(0.32, 0.5), rng.uniform(1.9, 2.6)
        sign, color = 2 * side - 1, _pick(rng, _FACADES, 0.12) * 0.7
        x = canvas.kerb[side] + sign * rng.uniform(0.3, 1.2)
        z, high = (rng.uniform(9.5, 19), low + size) if kind == SIGN else (rng.uniform(7, 32), rng.uniform(4.5, 8))
        canvas.front((x - 0.08, x + 0.08), (0, high), z, color, POLE)
        if kind == SIGN:
            oval = rng.random() < 0.6
            for part, depth in ((1.0, z - 0.05), (0.5, z - 0.1)):
                reach, y = (x - part * size, x + part * size), (high - part * size, high + part * size)
                canvas.front(reach, y, depth, _pick(rng, _PLATES), SIGN, 0.05, oval=oval)
        elif rng.random() < 0.5:  # the arm of a street lamp
            canvas.front((x, x - sign * rng.uniform(0.8, 1.8)), (high - 0.15, high), z, color, POLE)


def _draw_people(canvas: Canvas, rng: np.random.Generator) -> None:
    def body(x: float, wide: float, y: Pair, colors: tuple, label: int, lit: float = 1.0, oval: bool = False) -> None:
        canvas.front((x - wide, x + wide), y, z, _pick(rng, colors, 0.1) * lit, label, oval=oval)

    for _ in range(canvas.crowd * rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))):
        z, tall, step, side = rng.uniform(10, 24), rng.uniform(0.9, 1.1), rng.uniform(0.02, 0.2), rng.integers(2)
        x = rng.uniform(*(sorted((canvas.kerb[side], canvas.wall[side])) if rng.random() < 0.8 else canvas.kerb))
        canvas.shade((x - 0.3, x + 0.3), (z - 0.3, z + 0.6), 0.6)
        for foot in (x - step, x + step):
            body(foot, 0.08, (0, 0.85 * tall), _PAINTS, PEDESTRIAN, 0.7)
        body(x, 0.27, (0.75 * tall, 1.45 * tall), _PAINTS, PEDESTRIAN)
        body(x, 0.13, (1.45 * tall, 1.75 * tall), _SKIN, PEDESTRIAN, oval=True)
    for _ in range(canvas.crowd * rng.choice(3, p=(0.6, 0.3, 0.1))):
        z, x, lean = rng.uniform(9, 20), rng.uniform(*canvas.kerb), rng.uniform(-0.3, 0.3)
        apart = rng.choice((0.0, 0.5))  # distance of the hubs: 0 from behind, 0.5 when crossing the street
        canvas.shade((x - 0.4 - apart, x + 0.4 + apart), (z - 0.3, z + 0.7), 0.6)
        for hub in (x - apart, x + apart):
            body(hub, 0.33 if apart else 0.06, (0, 0.66), (_TYRE,), BICYCLIST, oval=apart > 0)
        body(x, max(apart, 0.25), (0.5, 0.62), _PAINTS, BICYCLIST, 0.7)
        body(x, 0.16, (0.35, 1.0), _PAINTS, BICYCLIST, 0.6)
        body(x + lean / 2, 0.25, (0.9, 1.5), _PAINTS, BICYCLIST)
        body(x + lean, 0.13, (1.5, 1.78), _SKIN, BICYCLIST, oval=True)


def _draw_void(canvas: Canvas, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(0, 3)):  # bins and boxes that no class covers
        side, high = rng.integers(2), rng.uniform(0.6, 1.1)
        x = rng.uniform(*sorted((canvas.kerb[side], canvas.wall[side])))
        canvas.front((x - 0.3, x + 0.3), (0, high), rng.uniform(8, 22), _pick(rng, _PAINTS), VOID)
    if rng.random() < 0.35:  # the bonnet of the car that carries the camera
        dome = rng.uniform(0.03, 0.08) * (1 - ((canvas.u + canvas.vanish) / rng.uniform(0.7, 1.2)) ** 2)
        mask = canvas.v + canvas.horizon > 1 - dome
        canvas.put((slice(None), slice(None)), mask, 9.0, _pick(rng, _PAINTS), VOID, 0.05)


def _render(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 ``(3, H, W)``, and labels, uint8 ``(H, W)``: colours, texture, sky, fog, light and noise."""
    size = canvas.item.shape
    table = np.array(canvas.items, np.float32).T.copy()
    gain = 1 + table[3].take(canvas.item) * (1.3 * noise_field(rng, size, ((12, 16), (32, 43), (80, 107))))
    gain *= np.where(canvas.item <= canvas.ground, canvas.shadow, np.float32(1))
    image = np.maximum(table[:3], 0.03).take(canvas.item, axis=1) * gain
    high, low = _pick(rng, ((0.35, 0.55, 0.85), (0.62, 0.66, 0.72), (0.75, 0.77, 0.80))), rng.uniform(0.7, 0.95)
    sky = high[:, None, None] + (low - high)[:, None, None] * np.clip(canvas.v / canvas.horizon + 1, 0, 1)
    sky = sky.astype(np.float32)
    sky = sky + (0.92 - sky) * np.clip(canvas.rough * np.float32(rng.random()), 0, 1)
    np.copyto(image, sky * np.float32(0.45 if canvas.night else 1), where=canvas.item == 0)
    if rng.random() < 0.25:
        clear = canvas.near / (canvas.near + np.float32(rng.uniform(0.005, 0.04)))
        haze = np.float32(rng.uniform(0.55, 0.85) * (0.5 if canvas.night else 1))
        image = haze + (image - haze) * clear
    ramp = 1 + rng.uniform(-0.25, 0.25) * canvas.u + rng.uniform(-0.2, 0.2) * canvas.v
    tint = np.array((0.42, 0.44, 0.54)) if canvas.night else rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3)
    image *= (ramp * tint[:, None, None]).astype(np.float32)
    soft = np.float32(rng.uniform(0, 0.25))
    image[:, 1:-1] += soft * (image[:, 2:] + image[:, :-2] - 2 * image[:, 1:-1])
    image[:, :, 1:-1] += soft * (image[:, :, 2:] + image[:, :, :-2] - 2 * image[:, :, 1:-1])
    image += np.float32(rng.uniform(0.01, 0.05) / 74) * rng.integers(-128, 128, (3, *size), np.int8)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), table[4].astype(np.uint8).take(canvas.item)


_LAYERS = (_draw_ground, _draw_buildings, _draw_trees, _draw_cars, _draw_poles, _draw_people, _draw_void)


def draw_street(size: tuple[int, int], rng: np.random.Generator, crowd: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene of ``size`` (rows, columns): image and labels, as ``_render`` returns them. ``crowd`` multiplies the people."""
    canvas = Canvas(size, rng, SKY)
    canvas.crowd = crowd
    for draw in _LAYERS:
        draw(canvas, rng)
    return _render(canvas, rng)
