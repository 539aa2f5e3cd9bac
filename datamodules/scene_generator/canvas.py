"""The sheet that sprites are painted on, and their colours."""

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float32]
Mask = NDArray[np.bool_]
Point = tuple[float, float]

_OVERSAMPLING = 2
WHITE = np.array([250, 247, 238], np.float32)
INK = np.array([32, 26, 34], np.float32)


def hsv(
    rng: np.random.Generator,
    hue: float | tuple[float, ...],
    saturation: float,
    value: float,
    spread: float = 0.03,
) -> Colour:
    """Draws an RGB colour (0..255) near a hue, saturation and value (each 0..1).

    Args:
        rng: Where the randomness comes from.
        hue: The hue, or several of which one is picked.
        saturation: The saturation, varied by 0.08.
        value: The value, varied by 0.08.
        spread: How far the hue may vary.
    """
    base = float(rng.choice(hue)) if isinstance(hue, tuple) else hue
    rgb = colorsys.hsv_to_rgb(
        (base + rng.uniform(-spread, spread)) % 1,
        float(np.clip(saturation + rng.uniform(-0.08, 0.08), 0, 1)),
        float(np.clip(value + rng.uniform(-0.08, 0.08), 0, 1)),
    )
    return 255 * np.array(rgb, np.float32)


class Canvas:
    """A square, oversampled sheet on which one sprite is painted; shapes are given in 0..1.

    Attributes:
        colour: `(S, S, 3)` RGB, 0..255.
        opaque: `(S, S)`, what has been painted.
        x: `(S, S)` column in final pixels, for patterns of a fixed width.
        y: `(S, S)` row in final pixels.
        u: `(S, S)` column in 0..1.
        v: `(S, S)` row in 0..1.
    """

    def __init__(self, pixels: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pixels = pixels
        self.side = pixels * _OVERSAMPLING
        self.colour = np.zeros((self.side, self.side, 3), np.float32)
        self.opaque = np.zeros((self.side, self.side), bool)
        rows, columns = np.mgrid[: self.side, : self.side].astype(np.float32)
        self.x, self.y = columns / _OVERSAMPLING, rows / _OVERSAMPLING
        self.u, self.v = columns / self.side, rows / self.side

    def _corners(self, points: list[Point]) -> list[NDArray[np.int32]]:
        return [np.round(np.asarray(points, np.float32) * self.side).astype(np.int32)]

    def polygon(self, *points: Point) -> Mask:
        """Fills the polygon with these corners."""
        sheet = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(sheet, self._corners(list(points)), 1)
        return sheet > 0

    def box(self, left: float, top: float, right: float, bottom: float) -> Mask:
        """Fills an upright rectangle."""
        return self.polygon((left, top), (right, top), (right, bottom), (left, bottom))

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0) -> Mask:
        """Fills an ellipse, turned by `angle` degrees."""
        sheet = np.zeros((self.side, self.side), np.uint8)
        centre = (round(x * self.side), round(y * self.side))
        radii = (max(1, round(rx * self.side)), max(1, round(ry * self.side)))
        cv2.ellipse(sheet, centre, radii, angle, 0, 360, 1, -1)
        return sheet > 0

    def stroke(self, width: float, *points: Point) -> Mask:
        """Draws a line `width` wide through these points."""
        sheet = np.zeros((self.side, self.side), np.uint8)
        cv2.polylines(
            sheet, self._corners(list(points)), False, 1, max(1, round(width * self.side))
        )
        return sheet > 0

    def blotches(self, period: float) -> NDArray[np.float32]:
        """Smooth noise in 0..1 with blotches about `period` final pixels wide."""
        cells = max(2, int(self.pixels / period))
        noise = self.rng.random((cells, cells)).astype(np.float32)
        size = (self.side, self.side)
        return np.asarray(cv2.resize(noise, size, interpolation=cv2.INTER_LINEAR), np.float32)

    def paint(
        self,
        where: Mask,
        colour: Colour,
        second: Colour | None = None,
        pattern: NDArray | None = None,
    ) -> None:
        """Fills a shape, with `second` shown where `pattern` (0..1) is 1."""
        if second is None or pattern is None:
            self.colour[where] = colour
        else:
            share = np.asarray(pattern, np.float32)[where][:, None]
            self.colour[where] = colour + (second - colour) * share
        self.opaque |= where
