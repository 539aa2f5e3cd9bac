"""Pixel-adaptive mask refinement: labels follow the photo's colours, by local averaging alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

_SHARPNESS = 0.1
"""Differences of colour count in tenths of the neighbourhood's standard deviation."""

_LEAST_DEVIATION = 1e-8
"""Added to these tenths, so that a neighbourhood of one colour is averaged evenly."""

_VALUES_AT_ONCE = 1 << 20
"""Logits that are smoothed together: classes do not depend on each other, and 4 MB stay in a CPU's
cache."""


@dataclass(frozen=True)
class PAMR:
    """Pixel-adaptive mask refinement (Araslanov & Roth, CVPR 2020), with NACLIP's defaults.

    In each step a pixel's logits become a weighted mean of its neighbours', eight for each
    dilation `d`: those `d` pixels up, down, left, right and diagonally, the border repeated beyond
    it. The weights stay the same over the steps: the softmax over all neighbours of

        -mean over colours of |x - x_n| / (0.1 sd + 1e-8)

    with `x` and `x_n` the pixel's and the neighbour's value of a colour and `sd` the unbiased
    standard deviation of the values around: for each dilation the eight neighbours' and the
    pixel's own. So neither the scale of a colour nor its offset matters.

    Args:
        steps: number of steps, 1 or more.
        dilations: distances of the neighbours, in pixels, at least one.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> photo = torch.zeros(3, 4, 6)
        >>> photo[:, :, 3:] = 1  # black on the left, white on the right
        >>> left = torch.full((4, 6), 0.4)
        >>> left[:, :2] = 0.9  # the third column is black but looks white
        >>> logits = torch.stack([left, 1 - left])
        >>> PAMR(dilations=(1,))(logits, photo).argmax(0)[0].tolist()
        [0, 0, 0, 1, 1, 1]
    """

    steps: int = 10
    dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        # From YAML and JSON a list comes; as a tuple the settings can be compared.
        object.__setattr__(self, "dilations", tuple(self.dilations))
        if self.steps < 1:
            raise ValueError(
                f"Expected `steps` to be 1 or more, but got {self.steps}; for no refinement set "
                "`refine` to null."
            )
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(
                f"Expected `dilations` to be pixels, 1 or more, but got {list(self.dilations)}."
            )

    def __call__(self, logits: Tensor, guide: Tensor) -> Tensor:
        """Smooth one photo's logits along its colours.

        Memory beside the result: a value for each pixel and neighbour, and a copy of the logits of
        some classes.

        Args:
            logits: `(C, H, W)` finite floating point of any scale; the result grows with it.
            guide: `(3, H, W)` finite, the photo's colours, in any scale and on any device.

        Returns:
            `(C, H, W)` float32 on the logits' device, each within its class's range.

        Raises:
            ValueError: shapes that do not fit, or values that are not finite.
        """
        _check(logits, guide)
        # Under autocast, sums would be rounded to 8 bits.
        with torch.autocast(logits.device.type, enabled=False):
            weights = self._weights(guide.to(logits.device, torch.float32))
            pixels = weights[0].numel()
            parts = logits.float().split(max(1, _VALUES_AT_ONCE // pixels))
            return torch.cat([self._smooth(part, weights) for part in parts])

    def probabilities(
        self,
        logits: Sequence[Tensor],
        photos: Sequence[Tensor],
        guides: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """See `ovss.refine.Refinement`: the softmax of the smoothed logits.

        The guide is the photo, where a method gives none of its own. NACLIP's is its network's
        input, resized to the photo's size.
        """
        guides = photos if guides is None else guides
        return [self(own, guide).softmax(0) for own, guide in zip(logits, guides, strict=True)]

    def settings(self) -> dict[str, Any]:
        """See `ovss.refine.Refinement`."""
        return {"kind": "pamr", **asdict(self)}

    def _weights(self, guide: Tensor) -> Tensor:
        """The neighbours' weights at each pixel `(neighbours, H, W)`, with a sum of 1."""
        copies = len(self.dilations)  # each dilation's values hold the pixel's own
        count = 9 * copies
        mean = copies * guide
        for neighbour in self._neighbours(guide):
            mean += neighbour
        mean /= count
        squares = copies * (guide - mean) ** 2
        for neighbour in self._neighbours(guide):
            squares += (neighbour - mean) ** 2
        scale = _LEAST_DEVIATION + _SHARPNESS * (squares / (count - 1)).sqrt()
        similarity = [-((guide - n).abs() / scale).mean(0) for n in self._neighbours(guide)]
        return torch.stack(similarity).softmax(0)

    def _smooth(self, logits: Tensor, weights: Tensor) -> Tensor:
        """All steps for some classes."""
        for _ in range(self.steps):
            smoothed = torch.zeros_like(logits)
            for weight, neighbour in zip(weights, self._neighbours(logits), strict=True):
                smoothed.addcmul_(weight, neighbour)
            logits = smoothed
        return logits

    def _neighbours(self, values: Tensor) -> Iterator[Tensor]:
        """`(C, H, W)` seen from each neighbour, as views of one copy with a border."""
        reach = max(self.dilations)
        height, width = values.shape[-2:]
        padded = torch.nn.functional.pad(values, (reach,) * 4, mode="replicate")
        for dilation in self.dilations:
            for down, right in product((-dilation, 0, dilation), repeat=2):
                if down or right:
                    top, left = reach + down, reach + right
                    yield padded[..., top : top + height, left : left + width]


def _check(logits: Tensor, guide: Tensor) -> None:
    if logits.ndim != 3 or logits.numel() == 0 or not logits.is_floating_point():
        raise ValueError(
            f"Expected `logits` to be floating point of shape (C, H, W), but got {logits.dtype} of "
            f"shape {tuple(logits.shape)}."
        )
    if guide.ndim != 3 or guide.shape[0] != 3 or guide.shape[1:] != logits.shape[1:]:
        raise ValueError(
            f"Expected `guide` to have shape {(3, *logits.shape[1:])} as the logits have, but got "
            f"{tuple(guide.shape)}; resize both to the photo's size."
        )
    for name, values in (("logits", logits), ("guide", guide)):
        if not torch.isfinite(values).all():
            raise ValueError(
                f"Expected `{name}` to be finite, but got NaN or infinity; in half precision the "
                "model overflows: run it in float32 or bfloat16."
            )
