"""Where a class's name goes on a picture: on its region, over no other name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

_MIN_NAMED_AREA = 0.04
"""Share of the picture from which a second region of a class is named too."""


class Box(NamedTuple):
    """Pixels `left <= x < right`, `top <= y < bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: Box) -> bool:
        """Whether the two share a pixel."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def regions_to_name(
    labels: np.ndarray, num_classes: int, background: int | None
) -> list[tuple[int, np.ndarray]]:
    """Labels and masks of the regions to name, the largest first."""
    regions = []
    for label in np.unique(labels):
        if label == background or label >= num_classes:
            continue
        count, parts, statistics, _ = cv2.connectedComponentsWithStats(
            (labels == label).astype(np.uint8), connectivity=4
        )
        areas = statistics[1:, cv2.CC_STAT_AREA]
        for part in range(1, count):
            area = areas[part - 1]
            if part - 1 == areas.argmax() or area >= _MIN_NAMED_AREA * labels.size:
                regions.append((int(area), int(label), parts == part))
    regions.sort(key=lambda region: (-region[0], region[1]))
    return [(label, mask) for _, label, mask in regions]


def find_place(
    region: np.ndarray, size: tuple[int, int], shape: tuple[int, ...], taken: Sequence[Box]
) -> Box | None:
    """A free place for a name of `size` (width, height): deep inside its region, or beside it."""
    width, height = size
    if width > shape[1] or height > shape[0]:
        return None
    depth = cv2.distanceTransform(
        np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )[1:-1, 1:-1]
    rows, columns = np.nonzero(region)
    middle = (int(columns.min() + columns.max()) // 2, int(rows.min() + rows.max()) // 2)
    around = [
        (middle[0], int(rows.min()) - height // 2 - 1),
        (middle[0], int(rows.max()) + height // 2 + 2),
        (int(columns.min()) - width // 2 - 1, middle[1]),
        (int(columns.max()) + width // 2 + 2, middle[1]),
    ]
    # The deepest point, then others on a coarse grid, by depth.
    step = max(1, height // 2)
    grid = np.zeros_like(depth)
    grid[step // 2 :: step, step // 2 :: step] = depth[step // 2 :: step, step // 2 :: step]
    order = np.argsort(-grid, axis=None, kind="stable")[: int((grid > 0).sum())]
    deepest = np.unravel_index(int(depth.argmax()), depth.shape)
    inside = [(int(deepest[1]), int(deepest[0]))]
    inside += [(int(i % shape[1]), int(i // shape[1])) for i in order[:400]]
    # A name on a region smaller than itself would hide what it names.
    small = depth.max() < 0.75 * height and len(rows) < 3 * width * height
    for x, y in [*around, *inside] if small else [*inside, *around]:
        left = min(max(x - width // 2, 0), shape[1] - width)
        top = min(max(y - height // 2, 0), shape[0] - height)
        box = Box(left, top, left + width, top + height)
        moved = abs(left + width // 2 - x) + abs(top + height // 2 - y)
        beside_the_edge = (x, y) in around and moved > height
        if not beside_the_edge and not any(box.overlaps(other) for other in taken):
            return box
    return None
