"""A run's label maps in COCO's formats, for other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from ovss.benchmark import Benchmark
from ovss.callbacks.recorder import runs_of
from ovss.runs.layout import RunLayout
from ovss.runs.photos import read_labels, read_photos
from ovss.utils.files import write_atomically, write_png


class CocoWriter(Callback):
    """Writes the run's label maps in a format of COCO's, when the run is finished.

    It reads what `RunFolder` wrote, so that resumed runs and those of several processes are whole.
    Category ids are the benchmark's labels; background and ignored pixels are left out.

    Args:
        kind: `rle`: `coco_rle.json`, COCO's result format with a mask a class and photo.
            `panoptic`: `coco_panoptic.json` and `coco_panoptic/<id>.png`, a segment a class.
    """

    def __init__(self, kind: Literal["rle", "panoptic"] = "rle") -> None:
        if kind not in ("rle", "panoptic"):
            raise ValueError(f"Expected `kind` to be 'rle' or 'panoptic', but got {kind!r}.")
        self.kind = kind

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write, after all other callbacks have."""
        for layout, module, _ in runs_of(trainer, pl_module) if trainer.is_global_zero else ():
            if layout.photos.is_file():
                write_coco(layout, module.benchmark, self.kind)


def write_coco(layout: RunLayout, benchmark: Benchmark, kind: Literal["rle", "panoptic"]) -> Path:
    """Write a run's label maps as `CocoWriter` says; the file with the annotations comes back."""
    from pycocotools import mask as rle

    photos = read_photos(layout)
    annotations: list[dict[str, Any]] = []
    for photo in photos:
        labels = read_labels(layout.label_map(photo.id))
        found = [int(k) for k in np.unique(labels) if k < len(benchmark.classes)]
        found = [label for label in found if label != benchmark.background]
        if kind == "panoptic":
            annotations.append(_write_panoptic_png(layout, photo.id, labels, found))
            continue
        for label in found:
            encoded = rle.encode(np.asfortranarray(labels == label, dtype=np.uint8))
            counts = encoded["counts"].decode("ascii")
            annotations.append(
                {
                    "image_id": photo.id,
                    "category_id": label,
                    "segmentation": {"size": list(labels.shape), "counts": counts},
                    "score": 1.0,
                }
            )
    content: Any = annotations
    if kind == "panoptic":
        categories = [
            {"id": k, "name": name, "isthing": 0, "color": list(benchmark.palette[k])}
            for k, name in enumerate(benchmark.classes)
            if k != benchmark.background
        ]
        images = [{"id": photo.id, "file_name": photo.id} for photo in photos]
        content = {"images": images, "annotations": annotations, "categories": categories}
    path = layout.coco(kind)
    write_atomically(path, json.dumps(content, ensure_ascii=False) + "\n")
    return path


def _write_panoptic_png(
    layout: RunLayout, photo_id: str, labels: np.ndarray, found: Sequence[int]
) -> dict[str, Any]:
    """One photo: its PNG, whose red + 256 green + 65536 blue is the segment (0: none)."""
    table = np.zeros(256, np.uint8)
    for label in found:
        table[label] = label + 1  # 0 is no segment, and labels may be 0
    pixels = np.zeros((*labels.shape, 3), np.uint8)
    pixels[..., 0] = table[labels]
    write_png(layout.coco_panoptic(photo_id), Image.fromarray(pixels))
    segments = [
        {
            "id": label + 1,
            "category_id": label,
            "area": int((labels == label).sum()),
            "iscrowd": 0,
        }
        for label in found
    ]
    return {"image_id": photo_id, "file_name": f"{photo_id}.png", "segments_info": segments}
