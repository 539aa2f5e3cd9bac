"""Class maps on the patch grid -> a label map of the photo's size (section 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovss.crf import DenseCRF
from ovss.salience import min_max
from ovss.utils.timing import stage


@dataclass(frozen=True)
class Labeller:
    """Threshold, upsample, add a background, blur, refine, and take the best class.

    Attributes:
        threshold: grid values whose min-max scaled map is below it become 0; in 0..1.
        blur: the Gaussian's sigma as a share of the photo's longer side; 0 for none.
        crf: the dense CRF's settings; None for none.

    Degenerate maps have defined results: the min-max of a constant map is 0, so a class without
    any evidence never wins over one with some, and a photo where nothing has any is background
    (or, without a background channel, the first class).
    """

    threshold: float = 0.15
    blur: float = 0.05
    crf: DenseCRF | None = field(default_factory=DenseCRF)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"Expected `threshold` to be in 0..1, but got {self.threshold}.")
        if self.blur < 0:
            raise ValueError(f"Expected `blur` to be 0 or more, but got {self.blur}.")

    def __call__(
        self, maps: Tensor, photo: Tensor, background: bool = True, rescale: bool = False
    ) -> Tensor:
        """Label one photo.

        Args:
            maps: `(K, gh, gw)`, non-negative, a map for each class.
            photo: `(3, H, W)` uint8 RGB.
            background: whether to add a background channel, 1 where every class is 0.
            rescale: min-max scale each upsampled class, as the released code does for COCO.

        Returns:
            `(H, W)` int64: k for the k-th class counted from 1, 0 for background.
        """
        return self.batch([maps], [photo], [background], rescale)[0]

    def batch(
        self,
        maps: Sequence[Tensor],
        photos: Sequence[Tensor],
        backgrounds: Sequence[bool],
        rescale: bool = False,
    ) -> list[Tensor]:
        """Label several photos of any sizes; see `__call__`."""
        device = maps[0].device if maps else None
        with stage("upsample and blur", device):
            channels = [
                self.channels(m, (p.shape[-2], p.shape[-1]), b, rescale)
                for m, p, b in zip(maps, photos, backgrounds, strict=True)
            ]
        # A single channel has nothing to refine.
        several = [i for i, c in enumerate(channels) if c.shape[0] > 1]
        if self.crf is not None and several:
            with stage("crf", device), torch.autocast(channels[0].device.type, enabled=False):
                refined = self.crf(
                    [channels[i].softmax(0) for i in several], [photos[i] for i in several]
                )
            for i, q in zip(several, refined, strict=True):
                channels[i] = q
        # `max` gives the first of equal channels as `argmax` does, 3 to 8 times faster on a CPU.
        return [
            c.max(0).indices + (0 if b else 1) for c, b in zip(channels, backgrounds, strict=True)
        ]

    def channels(
        self, maps: Tensor, size: tuple[int, int], background: bool, rescale: bool = False
    ) -> Tensor:
        """What competes for the pixels: `(K + background, H, W)`, before refinement.

        Raises:
            ValueError: no class and no background, or maps that are not finite.
        """
        if maps.dim() != 3 or (maps.shape[0] == 0 and not background):
            raise ValueError(
                "Expected `maps` of shape (K, gh, gw) with at least one class or a background, "
                f"but got shape {tuple(maps.shape)} and background={background}."
            )
        finite = torch.isfinite(maps).flatten(1).all(1)
        if not finite.all():
            raise ValueError(
                "Expected `maps` to be finite, but got NaN or infinity in class "
                f"{int(finite.int().argmin()) + 1} of {len(maps)}; in half precision the VLM "
                "overflows: run it in float32 or bfloat16."
            )
        # Under autocast the products would be rounded to 8 bits.
        with torch.autocast(maps.device.type, enabled=False), full_float32():
            return self._channels(maps.float(), size, background, rescale)

    def _channels(
        self, maps: Tensor, size: tuple[int, int], background: bool, rescale: bool
    ) -> Tensor:
        grid = torch.where(min_max(maps) < self.threshold, 0.0, maps)
        rows = upsampling(grid.shape[-2], size[0]).to(maps)
        columns = upsampling(grid.shape[-1], size[1]).to(maps)
        classes = rows @ grid @ columns.T
        if rescale:
            classes = min_max(classes)
        if background:
            nothing = classes.amax(0) == 0 if len(classes) else torch.ones(size, device=maps.device)
            classes = torch.cat([nothing[None].to(classes.dtype), classes])
        if self.blur:
            sigma = self.blur * max(size)
            rows, columns = blurring(size[0], sigma).to(maps), blurring(size[1], sigma).to(maps)
            # A constant stays one; scaling would blow the blur's rounding up to 0..1.
            varies = classes.amax((-2, -1), keepdim=True) > classes.amin((-2, -1), keepdim=True)
            classes = torch.where(varies, min_max(rows @ classes @ columns.T), 0.0)
        return classes


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


@lru_cache(maxsize=64)
def upsampling(source: int, target: int) -> Tensor:
    """Matrix `(target, source)` of linear interpolation with aligned corners.

    PyTorch's own, because the background starts where its float32 weights are exactly zero.
    """
    with torch.inference_mode(False):  # cached, so it must serve calls in either mode
        identity = torch.eye(source)[:, None]
        weights = torch.nn.functional.interpolate(
            identity, size=target, mode="linear", align_corners=True
        )
        return weights[:, 0].T.contiguous()


@lru_cache(maxsize=64)
def blurring(size: int, sigma: float) -> Tensor:
    """Matrix `(size, size)` of a Gaussian filter, equal to SciPy's with its defaults.

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
        return torch.from_numpy(matrix.astype(np.float32))
