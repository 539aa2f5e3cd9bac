"""Class maps on the patch grid -> a label map of the photo's size (section 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovss.maps import blurring, full_float32, min_max, upsampling
from ovss.refine import Refinement, resolve


@dataclass(frozen=True)
class Labeller:
    """Threshold, upsample, add a background, blur, refine, and take the best class.

    Attributes:
        threshold: grid values whose min-max scaled map is below it become 0; in 0..1.
        blur: the Gaussian's sigma as a share of the photo's longer side, in 0..1; 0 for none.
        refine: what sharpens the channels along the photo's edges: `crf` (the dense CRF), `pamr`,
            None for nothing, or a refinement with settings of its own. The channels are its logits.

    Degenerate maps have defined results: the min-max of a constant map is 0, so a class without
    any evidence never wins over one with some, and a photo where nothing has any is background
    (or, without a background channel, the first class).
    """

    threshold: float = 0.15
    blur: float = 0.05
    # `Refinement` first: the command line says why the first kind of value was refused.
    refine: Refinement | str | None = "crf"

    def __post_init__(self) -> None:
        resolve(self.refine)  # a name that does not exist is said here
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"Expected `threshold` to be in 0..1, but got {self.threshold}.")
        if not 0 <= self.blur <= 1:
            raise ValueError(
                "Expected `blur` to be in 0..1, as a share of the photo's longer side, but got "
                f"{self.blur}."
            )

    def __call__(
        self, maps: Tensor, photo: Tensor, background: bool = True, rescale: bool = False
    ) -> Tensor:
        """Label one photo.

        Args:
            maps: `(K, gh, gw)`, non-negative, a map for each class.
            photo: `(3, H, W)` uint8 RGB.
            background: whether to add a background channel, 1 where every class is 0.
            rescale: min-max scale each upsampled class, as the released code does in some cases.

        Returns:
            `(H, W)` int64: k for the k-th class counted from 1, 0 for background.
        """
        return self.batch([maps], [photo], [background], [rescale])[0]

    def batch(
        self,
        maps: Sequence[Tensor],
        photos: Sequence[Tensor],
        backgrounds: Sequence[bool],
        rescale: Sequence[bool] | None = None,
    ) -> list[Tensor]:
        """Label several photos of any sizes; see `__call__`."""
        _check_finite(maps)
        channels = [
            self.channels(m, (p.shape[-2], p.shape[-1]), b, r)
            for m, p, b, r in zip(
                maps, photos, backgrounds, rescale or [False] * len(maps), strict=True
            )
        ]
        # A single channel has nothing to refine.
        several = [i for i, c in enumerate(channels) if c.shape[0] > 1]
        refinement = resolve(self.refine)
        if refinement is not None and several:
            refined = refinement.probabilities(
                [channels[i] for i in several], [photos[i] for i in several]
            )
            for i, q in zip(several, refined, strict=True):
                channels[i] = q
        # `max` gives the first of equal channels as `argmax` does, 3 to 8 times faster on a CPU.
        return [
            c.max(0).indices + (0 if b else 1) for c, b in zip(channels, backgrounds, strict=True)
        ]

    def settings(self) -> dict[str, Any]:
        """What decides the labels, for reports and run folders."""
        refinement = resolve(self.refine)
        return {
            "threshold": self.threshold,
            "blur": self.blur,
            "refine": None if refinement is None else refinement.settings(),
        }

    def channels(
        self, maps: Tensor, size: tuple[int, int], background: bool, rescale: bool = False
    ) -> Tensor:
        """What competes for the pixels: `(K + background, H, W)`, before refinement.

        Raises:
            ValueError: no class and no background.
        """
        if maps.dim() != 3 or (maps.shape[0] == 0 and not background):
            raise ValueError(
                "Expected `maps` of shape (K, gh, gw) with at least one class or a background, "
                f"but got shape {tuple(maps.shape)} and background={background}."
            )
        # Under autocast the products would be rounded to 8 bits.
        with torch.autocast(maps.device.type, enabled=False), full_float32():
            return self._channels(maps.float(), size, background, rescale)

    def _channels(
        self, maps: Tensor, size: tuple[int, int], background: bool, rescale: bool
    ) -> Tensor:
        grid = torch.where(min_max(maps) < self.threshold, 0.0, maps)
        rows = upsampling(grid.shape[-2], size[0], maps.device)
        columns = upsampling(grid.shape[-1], size[1], maps.device)
        classes = rows @ grid @ columns.T
        if rescale:
            classes = min_max(classes)
        if background:
            nothing = classes.amax(0) == 0 if len(classes) else torch.ones(size, device=maps.device)
            classes = torch.cat([nothing[None].to(classes.dtype), classes])
        if self.blur:
            sigma = self.blur * max(size)
            rows, columns = (blurring(length, sigma, maps.device) for length in size)
            # A constant stays one; scaling would blow the blur's rounding up to 0..1.
            varies = classes.amax((-2, -1), keepdim=True) > classes.amin((-2, -1), keepdim=True)
            classes = torch.where(varies, min_max(rows @ classes @ columns.T), 0.0)
        return classes


def _check_finite(maps: Sequence[Tensor]) -> None:
    """Refuse maps that are not finite; a GPU is waited for once, whatever their number.

    Raises:
        ValueError: names the class.
    """
    finite = [torch.isfinite(own).flatten(1).all(1) for own in maps]
    if not finite or torch.cat(finite).all():
        return
    own = next(each for each in finite if not each.all())
    raise ValueError(
        f"Expected `maps` to be finite, but got NaN or infinity in class "
        f"{int(own.int().argmin()) + 1} of {len(own)}; in half precision the VLM overflows: run it "
        "in float32 or bfloat16."
    )
