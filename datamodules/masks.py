"""Mask files -> labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ovss.preprocessing import IMAGE_FORMATS
from ovss.utils.files import check_regular

UNKNOWN = -1
"""In a label table: a value that must not occur."""


class Sample(NamedTuple):
    """A photo and where its labels are.

    Attributes:
        id: unique name; results are keyed by it.
        photo: the image file.
        mask: the file with its labels; None where there are none.
    """

    id: str
    photo: Path
    mask: Path | None = None


class Labels(NamedTuple):
    """A photo's ground truth.

    Attributes:
        mask: `(H, W)` uint8 labels.
        present: the labels that occur, in ascending order.
    """

    mask: np.ndarray
    present: tuple[int, ...]


def label_table(values: Mapping[int, int] | Iterable[int]) -> np.ndarray:
    """A `(256,)` table from the values in a mask file to labels; `UNKNOWN` for all others.

    Args:
        values: value -> label, or the labels of the values 0, 1, 2, ...

    Example:
        >>> label_table({0: 255, 1: 0})[:3].tolist()
        [255, 0, -1]
    """
    pairs = values if isinstance(values, Mapping) else dict(enumerate(values))
    labels = np.full(256, UNKNOWN)
    for value, label in pairs.items():
        labels[value] = label
    return labels


def read_png(sample: Sample) -> np.ndarray:
    """A palette or grey PNG's raw values, `(H, W)` uint8; colours are never interpreted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, or not a single-channel 8-bit image.
    """
    path = sample.mask
    assert path is not None
    try:
        check_regular(path)
        # Pillow, as OpenCV turns a palette's indices into colours.
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(
                    f"Expected {path} to be a palette or grey 8-bit PNG, but got mode "
                    f"{image.mode}; class labels cannot be read from it."
                )
            return np.asarray(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a mask at {path}, but there is no such file.") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"Expected {path} to be a readable mask, but got: {error}; extract it again."
        ) from error


def to_labels(values: np.ndarray, labels: np.ndarray, where: str) -> Labels:
    """Look up labels, and see which occur.

    Args:
        values: `(H, W)` uint8, as in the file.
        labels: see `label_table`.
        where: what to call the file in an error.

    Raises:
        ValueError: a value that must not occur.
    """
    occurring = np.flatnonzero(cv2.calcHist([values], [0], None, [256], [0, 256]))
    mapped = labels[occurring]
    if (mapped == UNKNOWN).any():
        unknown = occurring[mapped == UNKNOWN].tolist()
        raise ValueError(
            f"Expected label values of {where}, but got {unknown[:5]}; is this another data set's "
            "mask, or one saved with loss?"
        )
    # A table of the identity on what occurs, the usual case, needs no look-up.
    mask = values if (mapped == occurring).all() else cv2.LUT(values, labels.astype(np.uint8))
    return Labels(mask, tuple(sorted(set(mapped.tolist()))))
