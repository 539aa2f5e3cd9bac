"""What a setting lets the reward model see of a photo: M_k of eq. 6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ovss.benchmark import Benchmark
from ovss.maps import full_float32, min_max, upsampling
from ovss.pnp import PnP
from ovss.tuning.photos import TuningPhotos
from ovss.tuning.space import Setting

Mask = Literal["labels", "map"]
"""What masks a photo: the labels that the whole pipeline predicts, or the map they come from."""

Masks = Callable[[Sequence[int], Sequence[Tensor], Setting], list[Tensor]]
"""Places in `TuningPhotos`, their class maps and a setting -> `(K_i, R, R)` masks in 0..1."""


def make_masks(
    kind: Mask, segmenter: PnP, benchmark: Benchmark, photos: TuningPhotos, size: int
) -> Masks:
    """Masks of a kind.

    Args:
        kind: `labels` or `map`.
        segmenter: its labeller makes the labels.
        benchmark: the classes.
        photos: the photos.
        size: side R of the reward model's input.

    Raises:
        ValueError: another kind.
    """

    def of_labels(places: Sequence[int], maps: Sequence[Tensor], setting: Setting) -> list[Tensor]:
        labels = label_photos(segmenter, benchmark, photos, places, maps, setting)
        return [
            label_masks(own, photos.labels[place], size)
            for own, place in zip(labels, places, strict=True)
        ]

    def of_maps(places: Sequence[int], maps: Sequence[Tensor], setting: Setting) -> list[Tensor]:
        return [soft_mask(own, setting.threshold, size) for own in maps]

    if kind == "labels":
        return of_labels
    if kind == "map":
        return of_maps
    raise ValueError(f"Expected `reward.mask` to be labels or map, but got {kind!r}.")


def label_masks(label_map: Tensor, labels: Sequence[int], size: int) -> Tensor:
    """`(H, W)` label map -> `(K, size, size)`: each label's share of each pixel, in 0..1."""
    wanted = torch.tensor(labels, device=label_map.device).view(-1, 1, 1, 1)
    masks = (label_map == wanted).float()
    return interpolate(masks, (size, size), mode="bilinear", antialias=True)[:, 0].clamp(0, 1)


def soft_mask(maps: Tensor, threshold: float, size: int) -> Tensor:
    """`(K, g, g)` class maps -> `(K, size, size)` in 0..1.

    What `ovss.labelling.Labeller.channels` does to a map before it adds background and blur, on the
    min-max scaled map: zero where it is below the threshold on the grid, then bilinear with aligned
    corners.
    """
    scaled = min_max(maps.float())
    kept = torch.where(scaled < threshold, 0.0, scaled)
    matrix = upsampling(maps.shape[-1], size, maps.device)
    with torch.autocast(maps.device.type, enabled=False), full_float32():
        return (matrix @ kept @ matrix.T).clamp(0, 1)


def label_photos(
    segmenter: PnP,
    benchmark: Benchmark,
    photos: TuningPhotos,
    places: Sequence[int],
    maps: Sequence[Tensor],
    setting: Setting,
) -> list[Tensor]:
    """For each photo `(H, W)`: the labels that `test` would give it with this setting.

    Args:
        segmenter: its labeller is used.
        benchmark: the classes.
        photos: the tuning photos.
        places: which of them.
        maps: `(K_i, g, g)` class maps of each.
        setting: what the maps were made with, and the labeller's threshold.
    """
    device = segmenter.vlm.device
    return segmenter.label_maps(
        [photos.photos[place].to(device) for place in places],
        [own.to(device) for own in maps],
        [photos.labels[place] for place in places],
        benchmark,
        setting.rounds,
        setting.threshold,
    )
