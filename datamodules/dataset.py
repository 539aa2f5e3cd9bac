"""Decoded photos, their labels, and the VLM's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ovss.benchmark import Benchmark, PhotoBatch, Unreadable
from ovss.preprocessing import read_photo

from .errors import SharedMemoryError
from .masks import Labels, Sample, read_png, to_labels


@dataclass(frozen=True)
class Split:
    """The files of a split, and how their labels are read.

    Attributes:
        samples: photos and masks in a fixed order.
        labels: `(256,)` table from a mask's values to labels; see `masks.label_table`.
        source: what the labels are read from, for people.
        read_mask: decodes a sample's mask to `(H, W)` uint8 values.
        upright: turn photos by the camera's orientation tag.
    """

    samples: Sequence[Sample]
    labels: np.ndarray
    source: str
    read_mask: Callable[[Sample], np.ndarray] = read_png
    upright: bool = False


class PhotoDataset(Dataset):
    """Photos in the order of a split.

    Args:
        split: the files.
        benchmark: the classes.
        preprocess: photo `(H, W, 3)` -> VLM input; None to read without.
    """

    def __init__(
        self,
        split: Split,
        benchmark: Benchmark,
        preprocess: Callable[[np.ndarray], Tensor] | None = None,
    ) -> None:
        self.split = split
        self.benchmark = benchmark
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.split.samples)

    def read(self, index: int) -> tuple[np.ndarray, Labels | None]:
        """A photo `(H, W, 3)` uint8 and its labels, if it has any.

        Raises:
            FileNotFoundError: a file is gone.
            ValueError: an unreadable file, a mask of another size, or an unknown mask value.
        """
        sample = self.split.samples[index]
        photo = read_photo(sample.photo, self.split.upright)
        labels = self.truth(index)
        if labels is None:
            return photo, None
        values = labels.mask
        if values.shape != photo.shape[:2]:
            turned = values.shape == photo.shape[1::-1]
            raise ValueError(
                f"Expected the mask of {sample.photo} in {sample.mask} to have its size, "
                f"{photo.shape[0]} x {photo.shape[1]} (height x width), but got "
                f"{values.shape[0]} x {values.shape[1]}"
                + ("; was the photo turned after it was labelled?" if turned else ".")
            )
        return photo, labels

    def truth(self, index: int) -> Labels | None:
        """The labels of a photo, if it has any; raises as `read` does."""
        sample = self.split.samples[index]
        if sample.mask is None:
            return None
        where = f"{self.benchmark.title} for {sample.photo.name} in {sample.mask}"
        return to_labels(self.split.read_mask(sample), self.split.labels, where)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One photo as `collate` takes it; see `read` for what it raises."""
        photo, labels = self.read(index)
        item: dict[str, Any] = {
            "id": self.split.samples[index].id,
            "photo": torch.from_numpy(photo.transpose(2, 0, 1).copy()),
        }
        if self.preprocess is not None:
            item["pixel_values"] = self.preprocess(photo)
        if labels is not None:
            searchable = set(self.benchmark.searchable)
            item["mask"] = torch.tensor(labels.mask)
            item["present"] = tuple(label for label in labels.present if label in searchable)
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any] | Unreadable]:
        """Photos of a batch; a bad file does not end the run while others are left to do."""
        return [self._item_or_error(index) for index in indices]

    def _item_or_error(self, index: int) -> dict[str, Any] | Unreadable:
        try:
            return self[index]
        except (ValueError, OSError) as error:
            return Unreadable(self.split.samples[index].id, str(error))


def collate(batch: Sequence[dict[str, Any] | Unreadable], stack: bool = True) -> PhotoBatch:
    """Items of `PhotoDataset` as one batch; photos and masks keep their own sizes.

    Args:
        batch: the items.
        stack: whether the model's inputs are of one size.
    """
    items = [item for item in batch if not isinstance(item, Unreadable)]
    with_truth = bool(items) and "mask" in items[0]
    pixels: Any = [item["pixel_values"] for item in items]
    if stack:
        pixels = torch.stack(pixels) if pixels else torch.empty(0)
    made = PhotoBatch(
        ids=[item["id"] for item in items],
        photos=[item["photo"] for item in items],
        pixel_values=pixels,
        present=[item["present"] for item in items] if with_truth else None,
        masks=[item["mask"] for item in items] if with_truth else None,
        unreadable=[item for item in batch if isinstance(item, Unreadable)],
    )
    if get_worker_info() is not None:
        _share(made)
    return made


def _share(batch: PhotoBatch) -> None:
    """Put a loader process's batch where the run finds it.

    Left to the queue, it happens on a thread that drops what fails: the run waits for ever.

    Raises:
        SharedMemoryError: it has no room.
    """
    try:
        pixels = batch.pixel_values
        inputs = [pixels] if isinstance(pixels, Tensor) else pixels
        for tensor in (*inputs, *batch.photos, *(batch.masks or ())):
            tensor.share_memory_()
    except (RuntimeError, OSError) as error:
        raise SharedMemoryError(str(error)) from None
