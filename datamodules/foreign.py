"""A data module of a data set as other libraries have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ovss.benchmark import Benchmark, of_classes

from .base import BenchmarkDataModule
from .dataset import PhotoDataset, Split
from .items import Field, describe, labels_of, photo_of, take, values_of
from .masks import Labels, Sample, label_table


class ForeignDataset(PhotoDataset):
    """A data set's items as photos and labels.

    Args:
        split: the names.
        benchmark: the classes.
        preprocess: see `PhotoDataset`.
        items: the data set.
        image: where in an item its image is; see `datamodules.items.take`.
        mask: where its mask is.
        labels: mask value -> label.
    """

    def __init__(
        self,
        split: Split,
        benchmark: Benchmark,
        preprocess: Callable[[np.ndarray], Tensor] | None,
        items: Any,
        image: Field | None,
        mask: Field | None,
        labels: Mapping[int, int],
    ) -> None:
        super().__init__(split, benchmark, preprocess)
        self.items = items
        self.image = image
        self.mask = mask
        self.labels = labels

    def read(self, index: int) -> tuple[np.ndarray, Labels | None]:
        """See `PhotoDataset.read`.

        Raises:
            ValueError: an image or a mask of a form that is not known, a mask of another size, or
                an unknown mask value.
        """
        item = self.items[index]
        image = take(item, self.image, "image", 0)
        if image is None:
            raise ValueError(
                f"Expected an image in {describe(item)}, but found none; name it with `image`."
            )
        photo, labels = photo_of(image), self._labels(index, item)
        if labels is not None and labels.mask.shape != photo.shape[:2]:
            raise ValueError(
                f"Expected the mask of {self.split.samples[index].id} to have its image's size, "
                f"{photo.shape[0]} x {photo.shape[1]} (height x width), but got "
                f"{labels.mask.shape[0]} x {labels.mask.shape[1]}."
            )
        return photo, labels

    def truth(self, index: int) -> Labels | None:
        """See `PhotoDataset.truth`."""
        return self._labels(index, self.items[index])

    def _labels(self, index: int, item: Any) -> Labels | None:
        mask = take(item, self.mask, "mask", 1)
        if mask is None:
            return None
        return labels_of(values_of(mask), self.labels, self.split.samples[index].id)


class ForeignData(BenchmarkDataModule):
    """What `from_dataset` makes; see there for its arguments."""

    def __init__(
        self,
        dataset: Any,
        benchmark: Benchmark,
        image: Field | None,
        mask: Field | None,
        ids: str | Sequence[str] | None,
        labels: Mapping[int, int],
        **kwargs: Any,
    ) -> None:
        super().__init__(Path(), benchmark, **kwargs)
        self.items = dataset
        self.image = image
        self.mask = mask
        self.ids = ids
        self.labels = labels

    @property
    def remedy(self) -> str:
        """What to do about the data, for errors."""
        return "Look at what `from_dataset` was given."

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`; a first item that cannot be read is an error at once."""
        names = self._names()
        samples = [Sample(name, Path(name)) for name in names]
        split = Split(samples, label_table({}), "nowhere: no masks")
        _, truth = self._with_items(split).read(0)
        return split if truth is None else replace(split, source="the data set's masks")

    def setup(self, stage: str | None = None) -> None:
        """See `BenchmarkDataModule.setup`."""
        super().setup(stage)
        self._dataset = self._with_items(self.dataset.split, self.dataset.preprocess)

    def _with_items(
        self, split: Split, preprocess: Callable[[np.ndarray], Tensor] | None = None
    ) -> ForeignDataset:
        return ForeignDataset(
            split, self.benchmark, preprocess, self.items, self.image, self.mask, self.labels
        )

    def _names(self) -> list[str]:
        count, ids = len(self.items), self.ids
        if ids is None:
            return [f"{index:06d}" for index in range(count)]
        if not isinstance(ids, str):
            names = [str(name) for name in ids]
        elif ids in (getattr(self.items, "column_names", None) or ()):  # Hugging Face's datasets
            names = [str(name) for name in self.items[ids]]
        else:
            names = [str(take(self.items[index], ids, ids, 0)) for index in range(count)]
        if len(names) != count or len(set(names)) != count:
            raise ValueError(
                f"Expected `ids` to name each of the {count} photos apart, but got {len(names)} "
                f"names, {len(set(names))} of them different."
            )
        return names


def from_dataset(
    dataset: Any,
    classes: Sequence[str] | Benchmark,
    image: Field | None = None,
    mask: Field | None = None,
    ids: str | Sequence[str] | None = None,
    labels: Mapping[int, int] | None = None,
    name: str = "dataset",
    **kwargs: Any,
) -> ForeignData:
    """A data module of a data set as torchvision, torchgeo, `datasets` and people have them.

    It does all that the benchmarks' do: exact scores on any number of processes, resume, reports.
    Image-level labels are read off the masks.

    Args:
        dataset: has a length, and items by number: dicts, tuples, or images alone. Images are PIL
            images, paths, arrays or tensors, `(C, H, W)` or `(H, W, C)`, uint8 or floats in 0..1,
            masks likewise with whole numbers, `(H, W)` or with a channel of 1.
        classes: names in label order, synonyms separated by `;`. If the first is `background`,
            label 0 is what belongs to none of them. Or a benchmark, with its own names and scoring.
        image: the image's key in a dict or place in a tuple, or a function of the item; default:
            `image`, or the first.
        mask: the mask's; default: `mask`, or the second. Without masks only `predict` works.
        ids: the photos' names, or the key of a dict that holds them: label maps are named so.
            Default: their numbers. A key is read from all items, unless the data set has columns.
        labels: mask value -> label, 255 for what is not scored; default: values are labels, and 255
            is not scored.
        name: short name of the data set, for reports.
        kwargs: see `BenchmarkDataModule`, such as `batch_size`, `num_workers` and `limit`.

    Raises:
        ValueError: no length or nothing in it, no classes, or an argument that cannot be. When the
            run begins: a first item of a form that is not known.

    Example:
        >>> photo, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.int64)
        >>> from_dataset([{"image": photo, "mask": mask}], ["background", "cat"]).benchmark.classes
        ('background', 'cat')
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or isinstance(
        dataset, (str, Mapping)
    ):
        raise ValueError(
            "Expected a data set with a length and items by number, but got "
            f"{type(dataset).__name__}; `list(...)` makes one of a data set that is iterated over, "
            "and of several splits give one."
        )
    if not len(dataset):
        raise ValueError(f"Expected photos in the data set, but {type(dataset).__name__} is empty.")
    benchmark = classes if isinstance(classes, Benchmark) else _benchmark(classes, name)
    values = {**{label: label for label in range(benchmark.scored)}, 255: 255}
    if labels is not None:
        values = {int(value): int(label) for value, label in labels.items()}
        wrong = sorted(set(values.values()).difference(range(benchmark.scored), [255]))
        if wrong:
            raise ValueError(
                f"Expected `labels` to give labels in 0..{benchmark.scored - 1} or 255, but "
                f"got {wrong[:5]}."
            )
    return ForeignData(dataset, benchmark, image, mask, ids, values, **kwargs)


def _benchmark(classes: Sequence[str], name: str) -> Benchmark:
    if isinstance(classes, str) or not 1 <= len(classes) <= 255:
        raise ValueError(f"Expected `classes` to be 1 to 255 names, but got {classes!r}.")
    names = [str(each) for each in classes]
    background = names[0].strip().lower() == "background"
    benchmark = of_classes(names[background:], background)
    return replace(benchmark, key=name, title=f"{name} ({len(names)} classes)")
