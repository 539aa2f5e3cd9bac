"""What a run keeps of each photo: its line of `photos.jsonl`, its label map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovss.runs.layout import RunLayout
from ovss.utils.files import check_regular


@dataclass(frozen=True)
class PhotoRecord:
    """A line of `photos.jsonl`.

    Attributes:
        index: the line, counted from 0.
        id: the photo's name.
        proposal: labels that were looked for.
        counts: `(n, 3)` int64 rows true, predicted, pixels; None without ground truth.
    """

    index: int
    id: str
    proposal: tuple[int, ...]
    counts: np.ndarray | None


def photo_line(
    photo_id: str, size: Sequence[int], proposal: Sequence[int], counts: np.ndarray | None
) -> str:
    """A line of `photos.jsonl`, without its end.

    Args:
        photo_id: the photo's name.
        size: height and width.
        proposal: labels that were looked for.
        counts: see `PhotoRecord`.
    """
    data: dict[str, Any] = {"id": photo_id, "size": list(size), "proposal": list(proposal)}
    if counts is not None:
        data["counts"] = counts.tolist()
    return json.dumps(data, ensure_ascii=False)


def read_photos(layout: RunLayout) -> tuple[PhotoRecord, ...]:
    """The photos of a run, in the data set's order."""
    lines = layout.photos.read_text(encoding="utf-8").split("\n")
    return tuple(_photo(index, json.loads(line)) for index, line in enumerate(lines) if line)


def _photo(index: int, line: dict[str, Any]) -> PhotoRecord:
    counts = line.get("counts")
    return PhotoRecord(
        index,
        str(line["id"]),
        tuple(line["proposal"]),
        None if counts is None else np.array(counts, np.int64).reshape(-1, 3),
    )


def counts_of(photos: Sequence[PhotoRecord]) -> list[np.ndarray]:
    """The sparse confusions of photos with ground truth."""
    return [photo.counts for photo in photos if photo.counts is not None]


def read_labels(file: Path) -> np.ndarray:
    """A label map `(H, W)` uint8 from a palette PNG."""
    check_regular(file)
    with Image.open(file, formats=["PNG"]) as image:
        return np.asarray(image)
