"""Composes a scene: a backdrop, clutter, and one to four sprites."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import Colour, hsv
from .sprites import PAINTERS, draw_sprite

CLASSES = tuple(PAINTERS)
"""The class names; a mask's value is the class's place here, counted from 1 (0 is background)."""

Picture = NDArray[np.float32]

# OpenCV's own threads would compete with the worker processes that draw scenes.
cv2.setNumThreads(1)


_DAY = ((0.58, 0.55, 0.92), (0.56, 0.2, 0.98))
_DUSK = ((0.72, 0.35, 0.75), (0.06, 0.4, 0.98))
_NIGHT = ((0.66, 0.65, 0.28), (0.62, 0.5, 0.52))
_OVERCAST = ((0.58, 0.1, 0.78), (0.6, 0.05, 0.92))
_SKIES = (_DAY, _DUSK, _NIGHT, _OVERCAST)
_GROUNDS = (  # colours at the horizon and at the lower edge, blotches, contrast
    (((0.27, 0.5, 0.78), (0.33, 0.6, 0.45)), (34, 40), 34.0),  # meadow
    (((0.53, 0.5, 0.8), (0.58, 0.7, 0.5)), (8, 40), 34.0),  # sea
    (((0.12, 0.3, 0.95), (0.1, 0.42, 0.78)), (40, 40), 24.0),  # sand
    (((0.58, 0.04, 0.97), (0.6, 0.12, 0.82)), (14, 10), 16.0),  # snow
    (((0.08, 0.4, 0.58), (0.06, 0.5, 0.36)), (20, 30), 26.0),  # soil
)
# Classes that are found in the upper part of a scene more often than not.
_AIRBORNE = ("sun", "cloud", "balloon", "butterfly")
_COUNT_SHARES = (0.2, 0.3, 0.3, 0.2)  # of scenes with 1, 2, 3 and 4 sprites
_SIZES = ((0.5, 0.68), (0.44, 0.6), (0.39, 0.52), (0.36, 0.46))  # of the photo, by sprite count
_TRIES = 24
_CROWDED = 0.14  # a sprite that would cover more of the others than this is left out


def _gradient(size: int, top: Colour, bottom: Colour) -> Picture:
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return np.repeat(top + (bottom - top) * ramp, size, axis=1).astype(np.float32)


def _grain(size: int, across: int, down: int, rng: np.random.Generator) -> Picture:
    noise = rng.random((down, across)).astype(np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)[..., None] - 0.5


def _hills(size: int, height: float, swing: float, rng: np.random.Generator) -> Picture:
    """`(size, size, 1)`: 1 under a wavy line."""
    column = np.arange(size)
    line = height + swing * np.sin(column * rng.uniform(2, 9) / size + rng.uniform(0, 6))
    return np.clip(column[:, None] - line[None] + 0.5, 0, 1)[..., None].astype(np.float32)


def _landscape(size: int, rng: np.random.Generator) -> Picture:
    sky = _SKIES[rng.integers(len(_SKIES))]
    ground, grain, contrast = _GROUNDS[rng.integers(len(_GROUNDS))]
    picture = _gradient(size, hsv(rng, *sky[0]), hsv(rng, *sky[1])) + 12 * _grain(size, 4, 6, rng)
    if sky is _NIGHT:
        for _ in range(rng.integers(10, 25)):
            x, y = (int(v) for v in rng.integers(0, size, 2))
            picture[y, x] += rng.uniform(60, 150)
    horizon = size * rng.uniform(0.4, 0.72)
    near, far = hsv(rng, *ground[1]), hsv(rng, *ground[0])
    # A paler ridge behind the ground gives the landscape some depth.
    ridge = _hills(size, horizon - size * rng.uniform(0.02, 0.1), size * 0.04, rng)
    haze = (far + hsv(rng, *sky[1])) / 2
    picture += ridge * (haze - picture)
    land = _gradient(size, far, near) + contrast * _grain(size, *grain, rng)
    front = _hills(size, horizon, size * rng.uniform(0, 0.04), rng)
    return picture + front * (land - picture)


def _under_water(size: int, rng: np.random.Generator) -> Picture:
    picture = _gradient(size, hsv(rng, 0.51, 0.5, 0.86, 0.05), hsv(rng, 0.6, 0.7, 0.45, 0.05))
    picture += 36 * _grain(size, 6, 22, rng)
    for _ in range(rng.integers(4, 12)):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        cv2.circle(picture, (x, y), int(rng.integers(1, 4)), (205.0, 235.0, 245.0), 1, cv2.LINE_AA)
    return picture


def _wallpaper(size: int, rng: np.random.Generator) -> Picture:
    colour = hsv(rng, float(rng.random()), 0.24, 0.85)
    column = np.arange(size)[None, :, None]
    stripes = (column % (size // 8) < size // 16).astype(np.float32)
    return _gradient(size, colour, colour * 0.92) + 11 * stripes + 10 * _grain(size, 8, 8, rng)


def _pebbles(picture: Picture, rng: np.random.Generator) -> None:
    size = len(picture)
    for _ in range(rng.integers(0, 5)):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        radii = (int(rng.integers(2, 6)), int(rng.integers(2, 4)))
        colour = tuple(float(v) for v in rng.uniform(50, 220, 3))
        cv2.ellipse(picture, (x, y), radii, 0, 0, 360, colour, -1, cv2.LINE_AA)


def _birds(picture: Picture, rng: np.random.Generator) -> None:
    size = len(picture)
    for _ in range(rng.integers(0, 4)):
        x, y = int(rng.integers(6, size - 6)), int(rng.integers(4, size // 3))
        for side in (-1, 1):
            wing = (x + side * 2, y), (2, 2), 0, 180, 360
            cv2.ellipse(picture, *wing, (55.0, 50.0, 60.0), 1, cv2.LINE_AA)


def _tufts(picture: Picture, rng: np.random.Generator) -> None:
    size = len(picture)
    for _ in range(rng.integers(0, 5)):
        x, y = int(rng.integers(4, size - 4)), int(rng.integers(size // 2, size))
        shade = float(rng.uniform(0.55, 0.8))
        colour = tuple(float(v) * shade for v in picture[min(y, size - 1), x])
        for lean in (-3, 0, 3):
            cv2.line(picture, (x, y), (x + lean, y - 5), colour, 1, cv2.LINE_AA)


def _backdrop(size: int, rng: np.random.Generator) -> Picture:
    kind = rng.choice(("landscape", "water", "wallpaper"), p=(0.74, 0.13, 0.13))
    if kind == "water":
        picture = _under_water(size, rng)
    elif kind == "wallpaper":
        picture = _wallpaper(size, rng)
    else:
        picture = _landscape(size, rng)
        _birds(picture, rng)
        _tufts(picture, rng)
    _pebbles(picture, rng)
    return picture


def _place(
    name: str, count: int, taken: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Finds the least crowded of several places; None when even that one is too crowded."""
    size = len(taken)
    best_overlap, best = np.inf, None
    for _ in range(_TRIES):
        side = int(size * rng.uniform(*_SIZES[count - 1]))
        height = rng.beta(1.2, 2.0) if name in _AIRBORNE else rng.beta(2.0, 1.2)
        top, left = int(height * (size - side)), int(rng.integers(0, size - side + 1))
        window = slice(top, top + side), slice(left, left + side)
        overlap = float(taken[window].mean())
        if overlap < best_overlap:
            best_overlap, best = overlap, window
        if overlap < 0.02:
            break
    return best if best_overlap <= _CROWDED else None


def _paste(picture: Picture, window: tuple[slice, slice], colour: Picture, alpha: Picture) -> None:
    """Lays a sprite over the picture, with a soft shadow beneath it."""
    rows, columns = window
    lit = picture[rows, columns]
    shadow = cv2.GaussianBlur(np.roll(alpha, (2, 1), (0, 1)), (0, 0), 1.5)
    lit *= 1 - 0.3 * shadow[..., None]
    picture[rows, columns] = lit * (1 - alpha[..., None]) + colour


def draw_scene(
    seed: int, size: int = 128, sprites: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draws a photo of one to four different classes, and its mask.

    Args:
        seed: Decides everything in the scene.
        size: Height and width in pixels.
        sprites: How many classes, 0 to 4; by default the seed decides.

    Returns:
        The photo, `(size, size, 3)` RGB, and the mask, `(size, size)`: 0 is background, 1..12 are
        `CLASSES`. Every class that was painted shows in the mask.

    Raises:
        ValueError: If `size` is too small to show anything, or `sprites` too many.
    """
    if size < 64:
        raise ValueError(f"Expected `size` to be at least 64 pixels, but got {size}.")
    if sprites is not None and not 0 <= sprites <= len(_SIZES):
        raise ValueError(f"Expected `sprites` to be 0 to {len(_SIZES)}, but got {sprites}.")
    rng = np.random.default_rng(seed)
    picture = _backdrop(size, rng)
    mask = np.zeros((size, size), np.uint8)
    taken = np.zeros((size, size), bool)
    by_chance = int(rng.choice((1, 2, 3, 4), p=_COUNT_SHARES))
    count = by_chance if sprites is None else sprites
    for index in rng.permutation(len(CLASSES))[:count]:
        name = CLASSES[index]
        window = _place(name, count, taken, rng)
        if window is None:
            continue
        colour, alpha = draw_sprite(name, window[0].stop - window[0].start, rng)
        _paste(picture, window, colour, alpha)
        mask[window][alpha > 0.5] = index + 1
        taken[window] |= alpha > 0.3
    noise = rng.normal(0, rng.uniform(1, 5), picture.shape)
    photo = np.clip(picture * rng.uniform(0.9, 1.1) + noise, 0, 255).astype(np.uint8)
    return photo, mask


def classes_in(mask: NDArray[np.uint8]) -> tuple[str, ...]:
    """The names of the classes that a mask shows, in the order of `CLASSES`."""
    return tuple(CLASSES[value - 1] for value in np.unique(mask) if value)
