"""Photos in a report: ground truth and predictions beside each other."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ovss.benchmark import Benchmark
from ovss.runs.photos import PhotoRecord, read_labels
from ovss.sharing import shared
from ovss.visualization.overlay import draw_overlay

_SEARCHED = 50


class Photos(Protocol):
    """What a gallery needs of a data set; `datamodules.base.PhotoDataset` has it."""

    benchmark: Benchmark

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A photo: `id`, `photo` `(3, H, W)` uint8, `mask` `(H, W)` uint8 if there is one."""


@dataclass(frozen=True)
class Figure:
    """Pictures of one photo.

    Attributes:
        photo: its id.
        pictures: what each is, and the picture as a data URI.
        caption: what to say below.
        legend: the classes in them, and their colours (0..255).
    """

    photo: str
    pictures: list[tuple[str, str]]
    caption: str
    legend: list[tuple[str, tuple[int, int, int]]]


def show_photo(
    dataset: Photos, record: PhotoRecord, predictions: Sequence[tuple[str, Path]], caption: str
) -> Figure | None:
    """A figure of a photo, its ground truth and predictions; None where a file is gone.

    Args:
        dataset: where the photo and its ground truth are.
        record: which photo.
        predictions: what each is, and the file of its label map.
        caption: what to say below.
    """
    item = _find(dataset, record)
    if item is None or not all(file.is_file() for _, file in predictions):
        return None
    photo = item["photo"].numpy().transpose(1, 2, 0)
    benchmark = dataset.benchmark
    found = np.zeros(256, bool)

    def draw(labels: np.ndarray) -> str:
        overlay = draw_overlay(
            photo,
            labels,
            benchmark.classes,
            benchmark.palette,
            benchmark.background,
            opacity=0.65,
            names=False,
            legend=False,
        )
        return data_uri(overlay)

    # Pages of a sweep's cells show the same photos with the same ground truth.
    once, source = shared().once, (id(dataset), record.id)
    pictures = [("photo", once(lambda: data_uri(Image.fromarray(photo)), "photo", *source))]
    if "mask" in item:
        mask = item["mask"].numpy()
        found[np.unique(mask)] = True
        pictures.append(("ground truth", once(lambda: draw(mask), "ground truth", *source)))
    for what, file in predictions:
        labels = read_labels(file)
        found[np.unique(labels)] = True
        pictures.append((what, draw(labels)))
    legend = [
        (name, benchmark.palette[label])
        for label, name in enumerate(benchmark.classes)
        if found[label] and label != benchmark.background
    ]
    return Figure(record.id, pictures, caption, legend)


def _find(dataset: Photos, record: PhotoRecord) -> dict[str, Any] | None:
    # Lines are in the data set's order, but photos that could not be read have none.
    for index in range(record.index, min(record.index + _SEARCHED, len(dataset))):
        try:
            item = dataset[index]
        except (OSError, ValueError):
            continue
        if item["id"] == record.id:
            return item
    return None


def data_uri(image: Image.Image, side: int = 640) -> str:
    """An image inside the page: some 40 kB, no side longer than most benchmarks' photos."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    # Half the bytes of a JPEG that looks the same; every browser has shown it since 2020.
    small.save(data, "webp", quality=80)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
