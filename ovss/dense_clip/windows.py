"""Sliding windows: where they lie, and what their logits make of a photo's.

Along each axis a window of n patches becomes one of pixels, is cut back to what was not padding, is
added to the others, divided by how many there are, and resized to the photo. All of it is linear
and the same for every row, so it is one matrix for each axis: the logits of a photo are `A L B^T`,
L the patches of all windows side by side. No canvas is ever filled, and memory does not grow with
the number of windows but by these patches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad


@dataclass(frozen=True)
class Axis:
    """The windows along one axis of a photo; all are of one length.

    Attributes:
        size: pixels of the input.
        starts: first pixel of each window.
        length: pixels of a window.
        before: pixels of zeros in front of each window.
        padded: pixels of a window with the zeros around it.
    """

    size: int
    starts: tuple[int, ...]
    length: int
    before: int
    padded: int

    @classmethod
    def of(cls, size: int, crop: int, stride: int, multiple: int, least: int) -> Axis:
        """Windows that cover an axis; the last one ends with it.

        Args:
            size: pixels of the input.
            crop: pixels of a window, which is shorter where the photo is; 0 for no sliding: one
                window without padding.
            stride: pixels from one window to the next.
            multiple: windows are padded to a multiple of it; 1 for none.
            least: pixels of a patch, which even a photo without sliding is padded to.

        Example:
            >>> Axis.of(448, 224, 112, 1, 16).starts
            (0, 112, 224)
            >>> Axis.of(300, 224, 112, 1, 16).starts
            (0, 76)
        """
        starts: tuple[int, ...] = (0,)
        if crop == 0:
            length, multiple = size, 1
        else:
            count = max(size - crop + stride - 1, 0) // stride + 1
            ends = [min(i * stride + crop, size) for i in range(count)]
            starts, length = tuple(max(end - crop, 0) for end in ends), min(crop, size)
        missing = max(-length % multiple, least - length)
        return cls(size, starts, length, missing // 2, length + missing)

    @lru_cache(maxsize=64)  # noqa: B019 - of plain numbers
    def matrix(self, patches: int, target: int, via_input: bool, device: torch.device) -> Tensor:
        """From the patches of all windows to pixels: `(target, len(starts) * patches)`.

        Args:
            patches: of each window.
            target: pixels of the photo.
            via_input: whether a window is resized to its own size before it is to the photo's.
            device: where the matrix is, and stays.
        """
        # Cached, so it must serve calls in either mode.
        with torch.inference_mode(False):
            return self._matrix(patches, target, via_input).float().to(device)

    def _matrix(self, patches: int, target: int, via_input: bool) -> Tensor:
        if not via_input:
            return _resizing(patches, target)
        inside = slice(self.before, self.before + self.length)
        window = _resizing(patches, self.padded)[inside]
        canvas = torch.zeros(self.size, len(self.starts), patches, dtype=window.dtype)
        count = torch.zeros(self.size, 1)
        for number, start in enumerate(self.starts):
            canvas[start : start + self.length, number] = window
            count[start : start + self.length] += 1
        return _resizing(self.size, target) @ (canvas.flatten(1) / count)


def _resizing(source: int, target: int) -> Tensor:
    """`(target, source)`: PyTorch's own bilinear weights, as the references have them."""
    identity = torch.eye(source)[:, None]
    weights = interpolate(identity, size=target, mode="linear", align_corners=False)
    return weights[:, 0].T.double()


@dataclass(frozen=True)
class Windows:
    """The windows of a photo.

    Attributes:
        rows: along its height.
        columns: along its width.
    """

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels of a window with the zeros around it, (height, width)."""
        return self.rows.padded, self.columns.padded

    def cut(self, pixels: Tensor) -> Iterator[Tensor]:
        """The windows of `(3, H, W)`, row by row, each `(3, *shape)`."""
        rows, columns = self.rows, self.columns
        zeros = [
            side
            for axis in (columns, rows)
            for side in (axis.before, axis.padded - axis.length - axis.before)
        ]
        for top in rows.starts:
            for left in columns.starts:
                window = pixels[:, top : top + rows.length, left : left + columns.length]
                yield pad(window, zeros) if any(zeros) else window

    def side_by_side(self, patches: Tensor) -> Tensor:
        """`(windows, h, w, Q)`, row by row -> `(Q, rows * h, columns * w)`."""
        grid = patches.unflatten(0, (len(self.rows.starts), len(self.columns.starts)))
        return grid.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)


def by_shape(windows: Sequence[Windows]) -> dict[tuple[int, int], list[int]]:
    """Photos by the size of their windows."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for photo, own in enumerate(windows):
        groups[own.shape].append(photo)
    return groups


def in_parts(
    windows: Iterator[tuple[int, Tensor]], step: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Windows in stacks of at most `step`, with the photo of each."""
    owners: list[int] = []
    part: list[Tensor] = []
    for owner, window in windows:
        owners.append(owner)
        part.append(window)
        if len(part) == step:
            yield owners, torch.stack(part)
            owners, part = [], []
    if part:
        yield owners, torch.stack(part)
