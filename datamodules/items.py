"""Images and masks as other people's data sets serve them -> arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovss.preprocessing import read_photo, with_eight_bits

from .masks import Labels, Sample, read_png

Field: TypeAlias = str | int | Callable[[Any], Any]
"""Where in an item something is: a key of a dict, a place in a tuple, or a function of the item."""


def take(item: Any, field: Field | None, name: str, place: int) -> Any:
    """A part of an item; None where it has none under the usual name and no other is given.

    Args:
        item: a dict, a tuple or list, or the one thing that there is.
        field: where it is; default: `name` of a dict, `place` of a tuple, all of anything else.
        name: the usual key.
        place: the usual place.

    Raises:
        ValueError: a field that is given, but not there.

    Example:
        >>> take({"image": 1, "mask": 2}, None, "mask", 1), take((1, 2), None, "mask", 1)
        (2, 2)
    """
    if callable(field):
        return field(item)
    if field is None:
        if isinstance(item, Mapping):
            return item.get(name)
        if isinstance(item, (tuple, list)):
            return item[place] if place < len(item) else None
        return None if place else item
    try:
        return item[field]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"Expected {field!r} in {describe(item)}, but it is not there.") from None


def describe(item: Any) -> str:
    """An item in a few words, for errors."""
    kind = type(item).__name__
    if isinstance(item, Mapping):
        return f"a dict of {', '.join(map(repr, item))}"
    if isinstance(item, (tuple, list)):
        return f"a {kind} of {', '.join(type(each).__name__ for each in item)}"
    return kind


def photo_of(image: Any) -> np.ndarray:
    """An image as `(H, W, 3)` uint8 RGB.

    Args:
        image: a PIL image, a path, or an array or tensor of 1 or 3 channels, `(H, W)`, `(C, H, W)`
            or `(H, W, C)`, uint8 or floats in 0..1.

    Raises:
        ValueError: anything else; says what to do.
        FileNotFoundError: no such file.
    """
    if isinstance(image, Image.Image):
        return np.asarray(with_eight_bits(image, image.format, "an image").convert("RGB"))
    if isinstance(image, (str, Path)):
        return read_photo(image)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise ValueError(
            f"Expected images that are PIL images, paths, arrays or tensors, but got "
            f"{describe(image)}; name the field with `image`."
        )
    pixels = _as_array(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    # Where both ends could be channels, tensors have them first and arrays last.
    elif (
        pixels.ndim == 3
        and pixels.shape[0] in (1, 3)
        and (isinstance(image, Tensor) or pixels.shape[2] not in (1, 3))
    ):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(
            f"Expected images of 1 or 3 channels, but got shape {tuple(image.shape)}; choose "
            "channels with a function, such as `image=lambda item: item['image'][[3, 2, 1]]`."
        )
    if pixels.dtype != np.uint8:
        low, high = pixels.min(initial=0), pixels.max(initial=0)
        if pixels.dtype.kind != "f" or not (low >= 0 and high <= 1):
            raise ValueError(
                f"Expected images of uint8 or of floats in 0..1, but got {pixels.dtype} in "
                f"{low:.6g}..{high:.6g}; leave out what normalises them, or scale them with a "
                "function, such as `image=lambda item: item['image'] / 255`."
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def values_of(mask: Any) -> np.ndarray:
    """A mask's values, `(H, W)` integers.

    Args:
        mask: a palette or grey PIL image, the path of one, or an array or tensor of whole numbers,
            `(H, W)`, `(1, H, W)` or `(H, W, 1)`.

    Raises:
        ValueError: anything else; says what to do.
        FileNotFoundError: no such file.
    """
    if isinstance(mask, (str, Path)):
        return read_png(Sample("", Path(mask), Path(mask)))
    if isinstance(mask, Image.Image):
        if mask.mode not in ("1", "L", "P", "I", "I;16"):
            raise ValueError(
                f"Expected masks of one channel with labels as values, but got an image of mode "
                f"{mask.mode}; turn its colours into labels with a function as `mask`."
            )
        return np.asarray(mask)
    if not isinstance(mask, (np.ndarray, Tensor)):
        raise ValueError(
            f"Expected masks that are PIL images, paths, arrays or tensors, but got "
            f"{describe(mask)}; name the field with `mask`."
        )
    values = _as_array(mask)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    whole = values.dtype.kind in "biu" or (values == np.rint(values)).all()
    if values.ndim != 2 or not whole:
        raise ValueError(
            f"Expected masks of shape (H, W) with labels as whole numbers, but got shape "
            f"{tuple(mask.shape)} of {values.dtype}; take the mask before a transform such as "
            "ToTensor scales it."
        )
    return values


def labels_of(values: np.ndarray, labels: Mapping[int, int], where: str) -> Labels:
    """Look up labels, and see which occur.

    Args:
        values: `(H, W)`, see `values_of`.
        labels: value -> label.
        where: what to call the mask in an error.

    Raises:
        ValueError: a value that has no label.
    """
    occurring, places = np.unique(values, return_inverse=True)
    names = [int(value) for value in occurring]
    unknown = [value for value in names if value not in labels]
    if unknown:
        raise ValueError(
            f"Expected the mask of {where} to have the values {_short(sorted(labels))}, but got "
            f"{_short(unknown)}; say what they are with `labels`, value -> label (255 is not "
            "scored), or name the classes in full."
        )
    mapped = [labels[value] for value in names]
    mask = np.array(mapped, np.uint8)[places].reshape(values.shape)
    return Labels(mask, tuple(sorted(set(mapped))))


def _as_array(values: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    # NumPy has no bfloat16.
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _short(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:4]))
    return shown if len(values) <= 4 else f"{shown}, ... {values[-1]}"
