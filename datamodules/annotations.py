"""Ground truth from COCO-like JSON files, kept small enough to hand to every worker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as rle

from .masks import Sample


class Region(NamedTuple):
    """An annotated part of a photo.

    Attributes:
        label: its class.
        outline: polygons, or a run-length code, as in the file.
    """

    label: int
    outline: Any


class AnnotatedPhoto(NamedTuple):
    """A photo's size and regions."""

    id: str
    height: int
    width: int
    regions: Sequence[Region]


class Annotations:
    """Run-length codes of many photos in flat arrays.

    JSON is read once, in the parent process; workers get a few arrays and not a million objects,
    which each of them would copy.

    Args:
        photos: photos and their regions.
        wins: which region a pixel belongs to that several cover: the `first` or the `last`.
    """

    def __init__(self, photos: Iterable[AnnotatedPhoto], wins: Literal["first", "last"]) -> None:
        rows: dict[str, int] = {}
        sizes, ends, labels, lengths = [], [0], [], [0]
        codes = bytearray()
        for row, photo in enumerate(photos):
            rows[photo.id] = row
            sizes.append((photo.height, photo.width))
            for region in photo.regions:
                codes += encode(region.outline, photo.height, photo.width)
                labels.append(region.label)
                lengths.append(len(codes))
            ends.append(len(labels))
        self.wins = wins
        self.rows = rows
        self.sizes = np.array(sizes, np.int32).reshape(-1, 2)
        self.ends = np.array(ends, np.int64)
        self.labels = np.array(labels, np.uint8)
        self.bytes = np.array(lengths, np.int64)
        self.codes = np.frombuffer(bytes(codes), np.uint8)

    def read_mask(self, sample: Sample) -> np.ndarray:
        """A photo's labels, `(H, W)` uint8; 0 where no region is."""
        row = self.rows[sample.id]
        height, width = self.sizes[row].tolist()
        mask = np.zeros((height, width), np.uint8)
        regions = range(int(self.ends[row]), int(self.ends[row + 1]))
        for region in reversed(regions) if self.wins == "first" else regions:
            counts = self.codes[self.bytes[region] : self.bytes[region + 1]].tobytes()
            inside = rle.decode({"size": [height, width], "counts": counts})
            np.putmask(mask, inside, self.labels[region])
        return mask


def encode(outline: Any, height: int, width: int) -> bytes:
    """A region as compressed run-length code, as pycocotools' `COCO.annToRLE` reads it."""
    if isinstance(outline, list):
        return rle.merge(rle.frPyObjects(outline, height, width))["counts"]
    if list(outline["size"]) != [height, width]:
        raise ValueError(
            f"Expected a region of {height} x {width} pixels (height x width), but its code says "
            f"{outline['size']}."
        )
    counts = outline["counts"]
    if isinstance(counts, list):
        return rle.frPyObjects(outline, height, width)["counts"]
    return counts.encode() if isinstance(counts, str) else counts


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file is cut short or is none.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected {path} to be JSON, but got: {error}; download or extract it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected {path} to be a JSON object, but got {type(content).__name__}.")
    return content


def annotated_photos(
    path: Path,
    content: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
    image_key: str = "id",
    annotations_key: str = "annotations",
) -> list[AnnotatedPhoto]:
    """Photos with their regions, in the order of `images`.

    Args:
        path: the file, for errors.
        content: the whole file.
        images: those of its images that are wanted.
        labels: category id -> label.
        image_key: name of an image's id.
        annotations_key: name of the list of regions.

    Raises:
        ValueError: a part of the file is missing, or a category has no label.
    """
    try:
        regions: dict[Any, list[Region]] = {image[image_key]: [] for image in images}
        for annotation in content[annotations_key]:
            own = regions.get(annotation["image_id"])
            if own is not None:
                label = labels.get(annotation["category_id"])
                if label is None:
                    raise ValueError(
                        f"Expected known category ids in {path}, but got "
                        f"{annotation['category_id']!r}; is this another data set's file?"
                    )
                own.append(Region(label, annotation["segmentation"]))
        return [
            AnnotatedPhoto(
                Path(image["file_name"]).stem,
                int(image["height"]),
                int(image["width"]),
                regions[image[image_key]],
            )
            for image in images
        ]
    except KeyError as error:
        raise ValueError(
            f"Expected {path} to have {error} as the official file has, but it has not."
        ) from error
