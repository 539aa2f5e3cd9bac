"""What is done to class maps: min-max scaling, upsampling, blur."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovss.sharing import shared


def min_max(maps: Tensor) -> Tensor:
    """Scale each map of `(..., H, W)` to 0..1; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)


LONGEST_SIDE = 2048
"""Pixels of a photo's longer side up to which it is labelled at its own size. A larger photo is
labelled at this size and its labels are enlarged, so that memory and time are bounded; the longest
photos of the benchmarks, those of Cityscapes, are just within."""


def bounded(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """A size `(H, W)`, scaled down to a longer side of at most so many pixels.

    Example:
        >>> bounded((300, 400), 2048), bounded((6000, 4000), 2048), bounded((60000, 1), 2048)
        ((300, 400), (2048, 1365), (2048, 1))
    """
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrink_photo(photo: Tensor, size: tuple[int, int]) -> Tensor:
    """`(3, H, W)` uint8 at a smaller size, bilinear with a low-pass, on its device."""
    # On the CPU, where bytes need no copy of four times their size.
    small = torch.nn.functional.interpolate(
        photo[None].cpu(), size, mode="bilinear", antialias=True
    )
    return small[0].to(photo.device)


def shared_shrunk(photo: Tensor, size: tuple[int, int]) -> Tensor:
    """As `shrink_photo`; the same tensor for all that share a pass (`ovss.sharing`)."""
    return shared().once(lambda: shrink_photo(photo, size), "photo", photo, size)


def enlarge_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """`(h, w)` labels at a larger size, each pixel that of the nearest one."""
    rows, columns = (
        (torch.arange(new, device=labels.device) * old).div(new, rounding_mode="floor")
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows][:, columns]


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply float32 matrices in float32, whatever is allowed elsewhere.

    `torch.set_float32_matmul_precision("high")` and TF32 are there to make models fast. The
    products here are interpolation and blur: rounded to 10 bits they move the borders of classes,
    and they take next to no time. The setting is the process's, not the thread's.
    """
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        # Since torch 2.9 each backend has its own setting, and the older function may refuse.
        mkldnn: Any = torch.backends.mkldnn  # its settings are made up at import
        backends = (torch.backends.cuda.matmul, mkldnn.matmul)
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
    else:
        allowed = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_float32_matmul_precision(allowed)


_CPU = torch.device("cpu")


@lru_cache(maxsize=64)
def upsampling(source: int, target: int, device: torch.device = _CPU) -> Tensor:
    """Matrix `(target, source)` of linear interpolation with aligned corners, kept on its device.

    PyTorch's own, because the background starts where its float32 weights are exactly zero.
    """
    with torch.inference_mode(False):  # cached, so it must serve calls in either mode
        identity = torch.eye(source)[:, None]
        weights = torch.nn.functional.interpolate(
            identity, size=target, mode="linear", align_corners=True
        )
        return weights[:, 0].T.contiguous().to(device)


@lru_cache(maxsize=32)
def blurring(size: int, sigma: float, device: torch.device = _CPU) -> Tensor:
    """Matrix `(size, size)` of a Gaussian filter, equal to SciPy's with its defaults; kept, too.

    The kernel reaches 4 sigma (`truncate=4`); beyond the border the signal is mirrored with the
    edge repeated (`mode="reflect"`).
    """
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    sources = np.mod(np.arange(size)[:, None] + offsets, 2 * size)
    sources = np.where(sources < size, sources, 2 * size - 1 - sources)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], sources), kernel)
    with torch.inference_mode(False):
        return torch.from_numpy(matrix.astype(np.float32)).to(device)
