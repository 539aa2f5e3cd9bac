"""Cosine logits of a photo -> label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ovss.maps import full_float32

BAND = 1 << 24
"""Logits that are held at once, 64 MiB in float32: a photo is labelled in bands of rows."""


class Logits(Protocol):
    """Logits of a photo's pixels, `(Q, H, W)`, in bands of rows."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def bands(self) -> list[slice]:
        """The photo's rows in parts."""

    def __getitem__(self, band: slice) -> Tensor:
        """`(Q, rows of the band, W)`."""


@dataclass(frozen=True)
class WholeLogits:
    """Logits that are there as a whole, as a refinement leaves them.

    Attributes:
        values: `(Q, H, W)`.
    """

    values: Tensor

    @property
    def device(self) -> torch.device:
        """See `Logits`."""
        return self.values.device

    def bands(self) -> list[slice]:
        """See `Logits`."""
        return _bands(*self.values.shape)

    def __getitem__(self, band: slice) -> Tensor:
        """See `Logits`."""
        return self.values[:, band]


@dataclass(frozen=True)
class PhotoLogits:
    """The cosine logits `A L B^T` of a photo, made where they are asked for.

    Attributes:
        patches: L, `(Q, h, w)`: of the patches of all windows.
        rows: A, `(H, h)`.
        columns: B, `(W, w)`.
    """

    patches: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def device(self) -> torch.device:
        """See `Logits`."""
        return self.patches.device

    def bands(self) -> list[slice]:
        """See `Logits`."""
        return _bands(len(self.patches), len(self.rows), len(self.columns))

    def __getitem__(self, band: slice) -> Tensor:
        """See `Logits`."""
        with torch.autocast(self.patches.device.type, enabled=False), full_float32():
            return (self.rows[band] @ self.patches) @ self.columns.T


def _bands(count: int, height: int, width: int) -> list[slice]:
    """Bands that hold at most `BAND` logits, or one row."""
    step = max(1, BAND // (count * width))
    return [slice(top, top + step) for top in range(0, height, step)]


def label_map(
    logits: Logits,
    classes: Sequence[int],
    scale: float,
    prob_thd: float = 0.0,
    area_thd: float = 0.0,
) -> Tensor:
    """The class of the best query at each pixel, `(H, W)`.

    A query's probability is its share in the softmax over all queries, a class's the largest of its
    queries' (so those of all classes do not sum to 1), and a pixel's label is the class of the
    largest probability.

    Args:
        logits: of Q queries.
        classes: the label of each query, ascending.
        scale: what the logits are multiplied with before the softmax.
        prob_thd: pixels whose largest probability is below it get label 0.
        area_thd: labels other than 0 with at most this share of the pixels that are not 0 (before
            `prob_thd`) are taken out of the photo.
    """
    labels = _on_device(tuple(classes), logits.device)
    out = _too_small(logits, labels, max(classes) + 1, area_thd) if area_thd > 0 else None
    found = [_label_band(logits[band], labels, out, scale, prob_thd) for band in logits.bands()]
    return torch.cat(found)


@lru_cache(maxsize=64)
def _on_device(labels: tuple[int, ...], device: torch.device) -> Tensor:
    """Labels as a tensor; a GPU is waited for once."""
    with torch.inference_mode(False):  # cached, so it must serve calls in either mode
        return torch.tensor(labels, device=device)


def _too_small(logits: Logits, labels: Tensor, count: int, area_thd: float) -> Tensor:
    """Which queries belong to labels, of so many, of little area: `(Q,)` bool."""
    pixels = torch.zeros(count, dtype=torch.long, device=labels.device)
    for band in logits.bands():
        best = labels[logits[band].max(0).indices].flatten()
        pixels += torch.bincount(best, minlength=len(pixels))
    small = pixels <= area_thd * pixels[1:].sum()
    small[0] = False
    return small[labels]


def _label_band(
    logits: Tensor, labels: Tensor, out: Tensor | None, scale: float, prob_thd: float
) -> Tensor:
    total = (scale * logits).logsumexp(0) if prob_thd > 0 else None
    # A softmax keeps the order: the best query is that of the largest logit.
    best = (logits if out is None else logits.masked_fill(out[:, None, None], -torch.inf)).max(0)
    found = labels[best.indices]
    if total is None:
        return found
    return torch.where((scale * best.values - total).exp() < prob_thd, 0, found)
