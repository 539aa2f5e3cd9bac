"""Whatever people have a photo in -> pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from ovss.preprocessing import decode_photo, read_photo, upright_pixels
from ovss.utils.fetch import fetch, is_url

Photo: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
"""A path, an http or https address, a PIL image, an array `(H, W, 3)` or `(H, W)`, or a tensor
`(3, H, W)` or `(H, W)`; arrays and tensors are uint8, or floats in 0..1."""


def as_pixels(image: Photo) -> np.ndarray:
    """Any kind of image as `(H, W, 3)` uint8 RGB, upright.

    Args:
        image: see `Photo`; one channel is grey, and a fourth, alpha, is left out.

    Raises:
        ValueError: another shape, type or range, or a file that is no photo.
        OSError: nothing at that path or address.
    """
    if is_url(image):
        return decode_photo(io.BytesIO(fetch(str(image))), str(image), upright=True)
    if isinstance(image, (str, Path)):
        return read_photo(image, upright=True)
    if isinstance(image, Image.Image):
        return upright_pixels(image, "the image")
    if isinstance(image, Tensor):
        own = image.detach().cpu()
        pixels = (own.float() if own.is_floating_point() else own).numpy()
        first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4)
        fits = first or pixels.ndim == 2
        return _from_array(pixels.transpose(1, 2, 0) if first else pixels, image, fits)
    pixels = np.asarray(image)
    return _from_array(pixels, pixels)


def _from_array(pixels: np.ndarray, given: np.ndarray | Tensor, fits: bool = True) -> np.ndarray:
    """`(H, W, C)` or `(H, W)` as `(H, W, 3)` uint8; `given` is what an error is about."""
    channels = pixels.shape[2:] or (1,)
    if (
        not fits
        or pixels.ndim < 2
        or channels not in ((1,), (3,), (4,))
        or not (pixels.dtype == np.uint8 or np.issubdtype(pixels.dtype, np.floating))
        or not pixels.size
    ):
        tensor = isinstance(given, Tensor)
        raise ValueError(
            f"Expected {'a tensor' if tensor else 'an array'} of shape "
            f"{'(3, H, W)' if tensor else '(H, W, 3)'} or (H, W) and type uint8, or float in "
            f"0..1, but got shape {tuple(given.shape)} and type {given.dtype}."
        )
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):  # so that NaN is refused, too
            raise ValueError(
                f"Expected floats in 0..1, but got {low:.3g} to {high:.3g}; divide by what is "
                "white, or convert to uint8."
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return np.asarray(Image.fromarray(np.ascontiguousarray(squeezed)).convert("RGB"))
