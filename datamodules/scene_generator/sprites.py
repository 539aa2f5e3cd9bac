"""The twelve things that the drawn scenes show, one function each.

As with real objects, every class has a pattern of its own across its whole body (bricks, scales,
planks, fur) and one most telling part (a face, a cap, a window). Patterns are a few pixels wide
whatever the sprite's size, so a patch of 8 pixels shows enough of one to be recognised.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import INK, WHITE, Canvas, Mask, hsv


def _any(*masks: Mask) -> Mask:
    return np.logical_or.reduce(masks)


def tree(c: Canvas) -> None:
    """Blotchy leaves on a barked trunk, often with red apples: round or a fir."""
    rng = c.rng
    width = rng.uniform(0.07, 0.1)
    bark = hsv(rng, 0.07, 0.6, 0.5)
    c.paint(c.box(0.5 - width, 0.6, 0.5 + width, 0.99), bark, bark * 0.6, c.x % 3 < 1.3)
    if rng.random() < 0.4:
        tiers = [(0.02, 0.27), (0.22, 0.36), (0.42, 0.45)]
        crown = _any(
            *(c.polygon((0.5, t), (0.5 + w, t + 0.37), (0.5 - w, t + 0.37)) for t, w in tiers)
        )
    else:
        lobes = [(0.5, 0.25, 0.24), (0.25, 0.43, 0.23), (0.75, 0.43, 0.23), (0.5, 0.5, 0.26)]
        crown = _any(*(c.ellipse(x + rng.uniform(-0.03, 0.03), y, r, r) for x, y, r in lobes))
    leaf = hsv(rng, 0.31, 0.7, 0.58, 0.05)
    c.paint(crown, leaf, leaf * 0.5, np.clip((c.blotches(3.2) - 0.35) * 3.3, 0, 1))
    if rng.random() < 0.6:
        apple = hsv(rng, 0.0, 0.85, 0.88)
        for _ in range(6):
            spot = c.ellipse(rng.uniform(0.25, 0.75), rng.uniform(0.22, 0.65), 0.04, 0.04)
            c.paint(spot & crown, apple)


def house(c: Canvas) -> None:
    """Brick walls under a scalloped roof, a door and a lit window."""
    rng = c.rng
    eaves = rng.uniform(0.4, 0.48)
    brick = hsv(rng, (0.02, 0.06), 0.58, 0.74)
    row = np.floor(c.y / 4)
    joints = (c.y % 4 < 1) | ((c.x + row % 2 * 3.5) % 7 < 1)
    c.paint(c.box(0.1, eaves, 0.9, 0.98), brick, brick * 0.3 + 150, joints)
    if rng.random() < 0.5:
        roof = c.polygon((0.02, eaves + 0.03), (0.24, 0.06), (0.76, 0.06), (0.98, eaves + 0.03))
    else:
        roof = c.polygon((0.02, eaves + 0.03), (0.5, 0.02), (0.98, eaves + 0.03))
    tile = hsv(rng, (0.0, 0.6, 0.95), 0.5, 0.45)
    c.paint(roof, tile, tile * 0.55, (c.y % 4 < 1) | ((c.x + row % 2 * 2) % 4 < 0.8))
    door = rng.uniform(0.18, 0.28)
    c.paint(c.box(door, 0.62, door + 0.2, 0.98), hsv(rng, (0.08, 0.4, 0.6), 0.7, 0.45))
    c.paint(c.ellipse(door + 0.16, 0.8, 0.02, 0.02), WHITE)
    left = door + 0.33
    cross = (np.abs(c.u - left - 0.1) < 0.02) | (np.abs(c.v - 0.68) < 0.02)
    frame = np.array([90, 60, 30], np.float32)
    c.paint(c.box(left - 0.02, 0.56, left + 0.22, 0.8), frame)
    c.paint(c.box(left, 0.58, left + 0.2, 0.78), hsv(rng, 0.15, 0.5, 0.97), frame, cross)


def boat(c: Canvas) -> None:
    """A hull of planks under striped sails and a pennant."""
    rng = c.rng
    plank = hsv(rng, (0.07, 0.6, 0.0), 0.7, 0.52)
    hull = c.polygon((0.02, 0.62), (0.98, 0.62), (0.82, 0.96), (0.18, 0.96))
    c.paint(hull, plank, plank * 0.5 + 110, c.y % 4 < 1.4)
    c.paint(c.box(0.47, 0.03, 0.53, 0.64), hsv(rng, 0.08, 0.6, 0.4))
    stripe = hsv(rng, (0.0, 0.6, 0.1), 0.82, 0.85)
    sails = _any(
        c.polygon((0.54, 0.05), (0.95, 0.58), (0.54, 0.58)),
        c.polygon((0.46, 0.14), (0.46, 0.58), (0.08, 0.58)),
    )
    c.paint(sails, WHITE, stripe, c.y % 7 < 2.6)
    c.paint(c.polygon((0.5, 0.0), (0.72, 0.05), (0.5, 0.1)), stripe)


def fish(c: Canvas) -> None:
    """Scales all over, ribbed fins, a pale head with a big eye."""
    rng = c.rng
    body = hsv(rng, (0.06, 0.55, 0.13, 0.9), 0.8, 0.92)
    fin = body * 0.75
    r = rng.uniform(0.28, 0.34)
    tail = c.polygon((0.62, 0.5), (0.99, 0.5 - r), (0.9, 0.5), (0.99, 0.5 + r))
    c.paint(tail, fin, fin * 0.6, c.y % 3 < 1.2)
    top = c.polygon((0.22, 0.5 - r * 0.7), (0.5, 0.5 - r - 0.14), (0.62, 0.5 - r * 0.5))
    bottom = c.polygon((0.35, 0.5 + r * 0.8), (0.52, 0.5 + r + 0.12), (0.56, 0.5 + r * 0.6))
    c.paint(top | bottom, fin, fin * 0.6, c.x % 3 < 1.2)
    period = 5.0
    shift = np.floor(c.y / period) % 2 * period / 2
    across, down = (c.x + shift) % period - period / 2, c.y % period
    c.paint(c.ellipse(0.4, 0.5, 0.38, r), body, body * 0.5, across**2 + down**2 > 9)
    c.paint(c.ellipse(0.16, 0.5, 0.13, r * 0.62), body * 0.5 + 120)
    c.paint(c.ellipse(0.18, 0.44, 0.075, 0.075), WHITE)
    c.paint(c.ellipse(0.17, 0.44, 0.04, 0.04), INK)


def flower(c: Canvas) -> None:
    """Ribbed petals around a seeded yellow heart, two veined leaves."""
    rng = c.rng
    green = hsv(rng, 0.34, 0.75, 0.5)
    c.paint(c.box(0.465, 0.5, 0.535, 0.99), green)
    leaves = c.ellipse(0.3, 0.86, 0.2, 0.08, 25) | c.ellipse(0.7, 0.86, 0.2, 0.08, -25)
    c.paint(leaves, green, green * 0.55, (c.x + c.y) % 3 < 1.1)
    petal = hsv(rng, (0.93, 0.8, 0.0), 0.65, 0.92)
    count = int(rng.integers(6, 9))
    start = rng.uniform(0, 2 * np.pi)
    angle = np.arctan2(c.v - 0.37, c.u - 0.5)
    petals = _any(
        *(
            c.ellipse(0.5 + 0.23 * np.cos(t), 0.37 + 0.23 * np.sin(t), 0.14, 0.1, np.degrees(t))
            for t in start + 2 * np.pi * np.arange(count) / count
        )
    )
    ribs = (angle - start) / (2 * np.pi) * count * 3 % 1 < 0.3
    c.paint(petals, petal, petal * 0.5, ribs)
    gold = hsv(rng, 0.13, 0.9, 0.95)
    seeds = (c.x % 3 < 1.3) & (c.y % 3 < 1.3)
    c.paint(c.ellipse(0.5, 0.37, 0.14, 0.14), gold, gold * 0.4, seeds)


def mushroom(c: Canvas) -> None:
    """A dotted red cap on a ribbed stem."""
    rng = c.rng
    width = rng.uniform(0.14, 0.19)
    cream = hsv(rng, 0.11, 0.2, 0.93)
    foot = 1.2 * width
    stem = c.polygon((0.5 - width, 0.5), (0.5 + width, 0.5), (0.5 + foot, 0.98), (0.5 - foot, 0.98))
    c.paint(stem, cream, cream * 0.72, c.x % 3.4 < 1.2)
    cap = c.ellipse(0.5, 0.56, 0.48, 0.52) & (c.v < 0.6)
    pitch = rng.uniform(8.0, 9.5)
    row = np.floor(c.y / (pitch * 0.8))
    across = (c.x + rng.uniform(0, pitch) + row % 2 * pitch / 2) % pitch - pitch / 2
    down = c.y % (pitch * 0.8) - pitch * 0.4
    dots = across**2 + down**2 < (pitch * 0.27) ** 2
    c.paint(cap, hsv(rng, (0.0, 0.98), 0.87, 0.82), WHITE, dots)


def sun(c: Canvas) -> None:
    """Rings of yellow and orange, a smile, pointed rays."""
    rng = c.rng
    gold, orange = hsv(rng, 0.13, 0.85, 0.98, 0.015), hsv(rng, 0.07, 0.9, 0.95, 0.015)
    count = int(rng.integers(9, 14))
    half = 2.2 / count
    rays = []
    for t in rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count:
        corners = ((t, 0.49), (t + half, 0.33), (t - half, 0.33))
        rays.append(c.polygon(*((0.5 + r * np.cos(a), 0.5 + r * np.sin(a)) for a, r in corners)))
    c.paint(_any(*rays), orange, gold, (c.x + c.y) % 4 < 1.2)
    rings = np.hypot(c.u - 0.5, c.v - 0.5) * c.pixels % 5 < 1.7
    c.paint(c.ellipse(0.5, 0.5, 0.36, 0.36), gold, orange, rings)
    brown = np.array([96, 44, 10], np.float32)
    smile = c.ellipse(0.5, 0.55, 0.16, 0.13) & ~c.ellipse(0.5, 0.51, 0.17, 0.12)
    c.paint(smile | c.ellipse(0.39, 0.43, 0.035, 0.05) | c.ellipse(0.61, 0.43, 0.035, 0.05), brown)


def cloud(c: Canvas) -> None:
    """White lobes full of blue curls."""
    rng = c.rng
    lobes = [
        (0.22, 0.58, 0.2),
        (0.4, 0.42, 0.24),
        (0.65, 0.43, 0.24),
        (0.8, 0.6, 0.19),
        (0.5, 0.64, 0.24),
    ]
    body = _any(*(c.ellipse(x + rng.uniform(-0.03, 0.03), y, r, r * 0.9) for x, y, r in lobes))
    curls = np.sin((c.x + 2.5 * np.sin(c.y * 0.55)) * 0.9) * np.sin(c.y * 0.9 + np.sin(c.x * 0.4))
    pale, blue = hsv(rng, 0.6, 0.05, 0.95), hsv(rng, 0.61, 0.3, 0.72)
    c.paint(body, pale, blue, np.clip(curls * 2 - 0.3, 0, 1))


def car(c: Canvas) -> None:
    """Lacquer with slanting stripes, glass with glints, dark wheels with bright hubs."""
    rng = c.rng
    lacquer = hsv(rng, (0.0, 0.6, 0.45, 0.78, 0.16), 0.78, 0.82)
    body = c.box(0.02, 0.46, 0.98, 0.8) | c.polygon(
        (0.14, 0.48), (0.28, 0.16), (0.72, 0.16), (0.88, 0.48)
    )
    c.paint(body, lacquer, lacquer * 0.35 + 160, (c.x + c.y) % 8 < 2.2)
    c.paint(c.box(0.02, 0.73, 0.98, 0.8), lacquer * 0.5)
    glass = np.array([168, 214, 240], np.float32)
    windows = c.polygon((0.24, 0.46), (0.33, 0.22), (0.48, 0.22), (0.48, 0.46))
    windows |= c.polygon((0.53, 0.22), (0.68, 0.22), (0.79, 0.46), (0.53, 0.46))
    c.paint(windows, glass, glass * 0.6, (c.x - c.y) % 6 < 2)
    for x in (0.24, 0.76):
        rubber = np.array([38, 38, 44], np.float32)
        c.paint(c.ellipse(x, 0.8, 0.155, 0.155), rubber)
        c.paint(c.ellipse(x, 0.8, 0.08, 0.08), rubber + 165)
    c.paint(c.ellipse(0.93, 0.55, 0.045, 0.06), np.array([255, 240, 140], np.float32))


def balloon(c: Canvas) -> None:
    """A hot-air balloon: bright gores, a dotted band, a wicker basket."""
    rng = c.rng
    hue = rng.uniform(0, 1)
    first = hsv(rng, hue, 0.82, 0.93)
    second = hsv(rng, (hue + rng.uniform(0.25, 0.5)) % 1, 0.82, 0.93)
    envelope = c.ellipse(0.5, 0.36, 0.4, 0.35) | c.polygon(
        (0.12, 0.46), (0.88, 0.46), (0.61, 0.82), (0.39, 0.82)
    )
    bulge = np.sqrt(np.clip(1 - ((c.v - 0.3) / 0.58) ** 2, 0, 1))
    across = np.clip((c.u - 0.5) / np.maximum(0.06, 0.42 * bulge), -1, 1)
    gores = np.floor(np.arcsin(across) * 2.4 + 50.5) % 2
    c.paint(envelope, first, second, gores)
    c.paint(envelope & (np.abs(c.v - 0.38) < 0.04), WHITE, second, c.x % 4 < 1.6)
    ropes = c.stroke(0.025, (0.42, 0.8), (0.44, 0.88)) | c.stroke(0.025, (0.58, 0.8), (0.56, 0.88))
    c.paint(ropes, np.array([70, 45, 20], np.float32))
    wicker = hsv(rng, 0.09, 0.65, 0.6)
    c.paint(c.box(0.39, 0.86, 0.61, 0.99), wicker, wicker * 0.5, (c.x % 3 < 1.4) ^ (c.y % 3 < 1.4))


def cat(c: Canvas) -> None:
    """Tabby fur, a curled tail, a face with bright eyes."""
    rng = c.rng
    fur = hsv(rng, (0.08, 0.1, 0.6), 0.5, 0.78)
    if rng.random() < 0.35:
        fur = np.full(3, fur.mean(), np.float32)
    dark = fur * 0.42
    tabby = np.sin((c.y + 1.8 * np.sin(c.x * 0.35)) * 1.15) > 0.25
    c.paint(c.stroke(0.1, (0.72, 0.9), (0.9, 0.84), (0.93, 0.62), (0.86, 0.5)), fur, dark, tabby)
    c.paint(c.ellipse(0.5, 0.76, 0.33, 0.23), fur, dark, tabby)
    c.paint(c.ellipse(0.5, 0.87, 0.12, 0.11), fur * 0.4 + 150)
    ears = [((0.2, 0.34), (0.2, 0.02), (0.45, 0.2)), ((0.8, 0.34), (0.8, 0.02), (0.55, 0.2))]
    for ear in ears:
        c.paint(c.polygon(*ear), dark)
    mask = (c.u < 0.32) | (c.u > 0.68) | (c.v < 0.25)
    c.paint(c.ellipse(0.5, 0.37, 0.33, 0.27), fur, dark, tabby & mask)
    c.paint(c.ellipse(0.5, 0.48, 0.15, 0.1), fur * 0.3 + 175)
    iris = hsv(rng, (0.33, 0.16), 0.8, 0.88)
    for x in (0.36, 0.64):
        c.paint(c.ellipse(x, 0.35, 0.08, 0.075), iris)
        c.paint(c.ellipse(x, 0.35, 0.028, 0.065), INK)
    c.paint(
        c.polygon((0.45, 0.44), (0.55, 0.44), (0.5, 0.5)), np.array([226, 110, 122], np.float32)
    )


def butterfly(c: Canvas) -> None:
    """Black-veined wings with spotted hems and eyes, a ringed body, feelers."""
    rng = c.rng
    bright = hsv(rng, (0.06, 0.58, 0.75, 0.15), 0.85, 0.93)
    wings = np.zeros_like(c.opaque)
    for side in (-1, 1):
        wings |= c.ellipse(0.5 + side * 0.25, 0.32, 0.26, 0.25, side * -30)
        wings |= c.ellipse(0.5 + side * 0.22, 0.7, 0.22, 0.22, side * 30)
    hem = max(1, round(0.03 * c.side / 2))
    inner = cv2.erode(wings.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=hem) > 0
    c.paint(wings, INK, WHITE, (c.x % 4 < 1.5) & (c.y % 4 < 1.5))
    angle = np.arctan2(c.v - 0.5, np.abs(c.u - 0.5))
    c.paint(inner, bright, INK, np.abs(angle * 6 % 1 - 0.5) < 0.12)
    for side in (-1, 1):
        c.paint(c.ellipse(0.5 + side * 0.28, 0.3, 0.075, 0.075), WHITE)
        c.paint(c.ellipse(0.5 + side * 0.28, 0.3, 0.035, 0.035), INK)
        c.paint(c.ellipse(0.5 + side * 0.23, 0.7, 0.055, 0.055), WHITE)
    c.paint(c.ellipse(0.5, 0.5, 0.045, 0.36), INK, INK + 80, c.y % 4 < 1.5)
    feelers = c.stroke(0.02, (0.5, 0.2), (0.4, 0.04)) | c.stroke(0.02, (0.5, 0.2), (0.6, 0.04))
    c.paint(feelers, INK)


PAINTERS: dict[str, Callable[[Canvas], None]] = {
    painter.__name__: painter
    for painter in (
        tree,
        house,
        boat,
        fish,
        flower,
        mushroom,
        sun,
        cloud,
        car,
        balloon,
        cat,
        butterfly,
    )
}


def draw_sprite(
    name: str, pixels: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draws one class as a sticker: inked outline, random mirroring, tilt and light.

    Args:
        name: A key of `PAINTERS`.
        pixels: Side of the sprite, in pixels.
        rng: Where the randomness comes from.

    Returns:
        Colour times opacity, `(pixels, pixels, 3)` in 0..255, and opacity, `(pixels, pixels)` in
        0..1.
    """
    canvas = Canvas(pixels, rng)
    PAINTERS[name](canvas)
    colour: NDArray = canvas.colour
    opaque: NDArray = canvas.opaque.astype(np.uint8)
    if rng.random() < 0.5:
        colour = np.ascontiguousarray(colour[:, ::-1])
        opaque = np.ascontiguousarray(opaque[:, ::-1])
    outlined = cv2.dilate(opaque, np.ones((3, 3), np.uint8))
    colour = np.where(opaque[..., None] > 0, colour, INK) * outlined[..., None]
    centre = (canvas.side / 2, canvas.side / 2)
    tilt = cv2.getRotationMatrix2D(centre, float(rng.uniform(-9, 9)), 0.93)
    size = (canvas.side, canvas.side)
    colour = cv2.warpAffine(colour.astype(np.float32), tilt, size, flags=cv2.INTER_LINEAR)
    opacity: NDArray = cv2.warpAffine(
        outlined.astype(np.float32), tilt, size, flags=cv2.INTER_LINEAR
    )
    colour = cv2.resize(colour, (pixels, pixels), interpolation=cv2.INTER_AREA)
    opacity = cv2.resize(opacity, (pixels, pixels), interpolation=cv2.INTER_AREA)
    light = np.linspace(rng.uniform(0.95, 1.12), rng.uniform(0.8, 1.0), pixels, dtype=np.float32)
    return colour * light[:, None, None], np.clip(opacity, 0, 1)
