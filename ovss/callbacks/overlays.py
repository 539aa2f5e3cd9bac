"""Predictions in other shapes: overlays to look at, COCO's formats for other tools.

The label maps themselves are written by `RunFolder`.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from ovss.benchmark import Benchmark
from ovss.callbacks.run_folder import run_folder
from ovss.report.gallery import read_labels
from ovss.runs.run import read_photos
from ovss.utils.files import write_atomically
from ovss.visualization.overlay import draw_overlay


class OverlayWriter(BasePredictionWriter):
    """Writes `overlays/<id>.png` for some photos, and shows a few to the loggers.

    TensorBoard's and W&B's loggers take pictures; others get none.

    Args:
        first: how many from the start of the data set.
        random: how many drawn from all of it.
        photos: names of further photos.
        seed: of the draw.
        logged: how many of the first photos to show to the loggers, if there are any.
    """

    def __init__(
        self,
        first: int = 0,
        random: int = 0,
        photos: Sequence[str] = (),
        seed: int = 0,
        logged: int = 0,
    ) -> None:
        super().__init__("batch")
        self.first = first
        self.random = random
        self.photos = tuple(photos)
        self.seed = seed
        self.logged = logged
        self._wanted: set[str] = set()
        self._shown: set[str] = set()
        self._folder = Path()

    def _start(self, trainer: Trainer) -> None:
        self._folder = run_folder(trainer) / "overlays"
        names: list[str] = getattr(getattr(trainer, "datamodule", None), "photo_ids", [])
        self._wanted, self._shown = set(self.photos), set()
        if trainer.loggers:
            self._shown = set(names[: self.logged])
        if not (self.first or self.random or self.photos):
            return
        missing = sorted(self._wanted.difference(names))
        if not names or missing:
            raise ValueError(
                "Expected `photos` to be names in the data set, but got "
                f"{missing or 'a data module without `photo_ids`'}; its names are such as "
                f"{names[:3]}."
            )
        self._wanted.update(names[: self.first])
        draw = random.Random(self.seed)
        self._wanted.update(draw.sample(names, min(self.random, len(names))))

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Draw the photos of a batch that are wanted."""
        module: Any = pl_module
        for one, photo in zip(prediction, batch.photos, strict=True):
            if one.id in self._wanted or one.id in self._shown:
                pixels = photo.cpu().numpy().transpose(1, 2, 0)
                overlay = overlay_of(pixels, one.labels.cpu().numpy(), module.benchmark)
                self._keep(trainer, one.id, overlay)

    def _keep(self, trainer: Trainer, photo_id: str, overlay: Image.Image) -> None:
        if photo_id in self._wanted:
            data = io.BytesIO()
            overlay.save(data, "png")
            write_atomically(self._folder / f"{photo_id}.png", data.getvalue())
        if photo_id in self._shown:
            show_to_loggers(trainer, f"overlays/{photo_id}", overlay)

    def _finish(self, trainer: Trainer, module: Any) -> None:
        """Draw the photos that an earlier part of the run finished."""
        dataset = getattr(getattr(trainer, "datamodule", None), "dataset", None)
        if not trainer.is_global_zero or dataset is None or not self._wanted:
            return
        for index, name in enumerate(trainer.datamodule.photo_ids):  # type: ignore[attr-defined]
            labels = self._folder.parent / "labels" / f"{name}.png"
            done = (self._folder / f"{name}.png").exists()
            if name in self._wanted and not done and labels.exists():
                photo = dataset[index]["photo"].numpy().transpose(1, 2, 0)
                self._keep(trainer, name, overlay_of(photo, read_labels(labels), module.benchmark))

    # Lightning's hooks; those of predicting call `write_on_batch_end`.

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the photos."""
        self._start(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the photos."""
        self._start(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the photos of a batch that are wanted."""
        self.write_on_batch_end(trainer, pl_module, outputs, None, batch, batch_idx, dataloader_idx)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what an earlier part of the run finished."""
        self._finish(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what an earlier part of the run finished."""
        self._finish(trainer, pl_module)


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
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the folder, on all processes, as that talks to the others."""
        self._folder = run_folder(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write, after all other callbacks have."""
        module: Any = pl_module
        folder = self._folder
        if not trainer.is_global_zero or folder is None or not (folder / "photos.jsonl").is_file():
            return
        write_coco(folder, module.benchmark, self.kind)


def overlay_of(photo: np.ndarray, labels: np.ndarray, benchmark: Benchmark) -> Image.Image:
    """An overlay in a benchmark's colours; see `ovss.visualization.overlay.draw_overlay`."""
    return draw_overlay(photo, labels, benchmark.classes, benchmark.palette, benchmark.background)


def show_to_loggers(trainer: Trainer, name: str, image: Image.Image) -> None:
    """Give a picture to each logger that takes one."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):  # W&B, Comet, Neptune of Lightning
            logger.log_image(key=name, images=[image])
            continue
        experiment = getattr(logger, "experiment", None)
        if experiment is not None and hasattr(experiment, "add_image"):  # TensorBoard
            experiment.add_image(name, np.asarray(image), dataformats="HWC")


def write_coco(folder: Path, benchmark: Benchmark, kind: Literal["rle", "panoptic"]) -> Path:
    """Write a run's label maps as `CocoWriter` says; the file with the annotations comes back."""
    from pycocotools import mask as rle

    photos = read_photos(folder)
    annotations: list[dict[str, Any]] = []
    for photo in photos:
        labels = read_labels(folder / "labels" / f"{photo.id}.png")
        found = [int(k) for k in np.unique(labels) if k < len(benchmark.classes)]
        found = [label for label in found if label != benchmark.background]
        if kind == "panoptic":
            annotations.append(_panoptic(folder, photo.id, labels, found))
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
    path = folder / f"coco_{kind}.json"
    write_atomically(path, json.dumps(content, ensure_ascii=False) + "\n")
    return path


def _panoptic(
    folder: Path, photo_id: str, labels: np.ndarray, found: Sequence[int]
) -> dict[str, Any]:
    """One photo: its PNG, whose red + 256 green + 65536 blue is the segment (0: none)."""
    table = np.zeros(256, np.uint8)
    for label in found:
        table[label] = label + 1  # 0 is no segment, and labels may be 0
    pixels = np.zeros((*labels.shape, 3), np.uint8)
    pixels[..., 0] = table[labels]
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    write_atomically(folder / "coco_panoptic" / f"{photo_id}.png", data.getvalue())
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
