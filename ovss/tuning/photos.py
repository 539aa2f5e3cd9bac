"""The photos to tune on, with image-level labels and without masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.proposals import Proposer
from ovss.vlm.base import VLM

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningPhotos:
    """What the search sees of a data set.

    Attributes:
        ids: names of the photos.
        indices: their places in the data set.
        photos: `(3, H_i, W_i)` uint8 RGB each.
        pixel_values: `(P, 3, S, S)`, the VLM's input.
        thumbnails: `(P, 3, R, R)` uint8 RGB, the photos in the size the reward model reads.
        labels: the classes looked for in each photo, at least two, as labels of the benchmark.
    """

    ids: list[str]
    indices: list[int]
    photos: list[Tensor]
    pixel_values: Tensor
    thumbnails: Tensor
    labels: list[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.ids)


class WithoutMasks:
    """Collates as a loader does, and takes the ground truth out before anything else sees it.

    Args:
        collate: the loader's own function; gives a `PhotoBatch`.
    """

    def __init__(self, collate: Callable[[list[Any]], PhotoBatch]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> PhotoBatch:
        """Collate items; the image-level labels stay."""
        return self.collate(items)._replace(masks=None)


def gather_photos(
    loader: DataLoader,
    benchmark: Benchmark,
    proposer: Proposer,
    vlm: VLM,
    size: int,
    limit: int,
    seed: int,
) -> TuningPhotos:
    """A random part of a data set's photos in which at least two classes are looked for.

    Pr in eq. 7 is a softmax over the photo's classes: with one class it is 1 whatever the map, so
    such a photo cannot tell settings apart and is left out.

    Args:
        loader: gives `PhotoBatch`; only its data set, batch size, workers and collation are used.
        benchmark: classes.
        proposer: which classes to look for; `oracle` uses the image-level labels.
        vlm: the frozen model, on its device.
        size: side R of the reward model's input.
        limit: at most so many photos.
        seed: of the choice.

    Raises:
        ValueError: no photo has two classes, or one cannot be read.
    """
    order = np.random.default_rng(seed).permutation(len(loader.dataset)).tolist()  # type: ignore[arg-type]
    shuffled = DataLoader(
        Subset(loader.dataset, order),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=WithoutMasks(loader.collate_fn),
    )
    ids: list[str] = []
    indices: list[int] = []
    photos: list[Tensor] = []
    pixels: list[Tensor] = []
    thumbnails: list[Tensor] = []
    labels: list[tuple[int, ...]] = []
    seen = 0
    for batch in shuffled:
        for unreadable in batch.unreadable:
            raise ValueError(f"Expected photos to tune on to be readable: {unreadable.reason}")
        moved = batch._replace(
            photos=[photo.to(vlm.device) for photo in batch.photos],
            pixel_values=batch.stacked.to(vlm.device),
        )
        for row, proposal in enumerate(proposer(moved, benchmark, vlm)):
            if len(proposal.labels) > 1 and len(ids) < limit:
                ids.append(batch.ids[row])
                indices.append(order[seen + row])
                photos.append(batch.photos[row])
                pixels.append(batch.stacked[row])
                thumbnails.append(resize(batch.photos[row], size))
                labels.append(proposal.labels)
        seen += len(batch.ids)
        if len(ids) == limit:
            break
    if not ids:
        raise ValueError(
            f"Expected photos with at least two classes to tune on, but none of the {seen} photos "
            f"has them with `proposals: {proposer.name}`."
        )
    log.info(
        "%d photos with two classes or more, of %d looked at; %d (photo, class) pairs",
        len(ids),
        seen,
        sum(map(len, labels)),
    )
    return TuningPhotos(ids, indices, photos, torch.stack(pixels), torch.stack(thumbnails), labels)


def resize(photo: Tensor, size: int) -> Tensor:
    """`(3, H, W)` uint8 -> `(3, R, R)` uint8, bicubic, low-passed where it shrinks.

    A square, as the VLM's input is: the maps then lie on the photo without any cropping.
    """
    image = Image.fromarray(photo.permute(1, 2, 0).cpu().numpy())
    resized = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def chunked(count: int, size: int) -> list[Sequence[int]]:
    """`range(count)` in parts of at most `size`."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]
