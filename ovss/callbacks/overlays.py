"""Overlays: label maps over their photos, as files and for the loggers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from ovss.benchmark import Benchmark
from ovss.callbacks.loggers import log_picture
from ovss.callbacks.run_folder import run_folder
from ovss.runs.layout import RunLayout
from ovss.runs.photos import read_labels
from ovss.utils.files import write_png
from ovss.visualization.overlay import draw_overlay


class OverlayWriter(BasePredictionWriter):
    """Writes `overlays/<id>.png` for some photos, and shows a few to the loggers.

    TensorBoard, W&B, MLflow and Comet take pictures; others get none.

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
        self._to_write: set[str] = set()
        self._to_log: set[str] = set()
        self._layout = RunLayout(Path())

    def _choose_photos(self, trainer: Trainer) -> None:
        self._layout = RunLayout(run_folder(trainer))
        names: list[str] = getattr(getattr(trainer, "datamodule", None), "photo_ids", [])
        self._to_write, self._to_log = set(self.photos), set()
        if trainer.loggers:
            self._to_log = set(names[: self.logged])
        if not (self.first or self.random or self.photos):
            return
        missing = sorted(self._to_write.difference(names))
        if not names or missing:
            raise ValueError(
                "Expected `photos` to be names in the data set, but got "
                f"{missing or 'a data module without `photo_ids`'}; its names are such as "
                f"{names[:3]}."
            )
        self._to_write.update(names[: self.first])
        draw = random.Random(self.seed)
        self._to_write.update(draw.sample(names, min(self.random, len(names))))

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
        photos = batch.named([one.id for one in prediction]).photos
        for one, photo in zip(prediction, photos, strict=True):
            if one.id in self._to_write or one.id in self._to_log:
                pixels = photo.cpu().numpy().transpose(1, 2, 0)
                overlay = overlay_of(pixels, one.labels.cpu().numpy(), module.benchmark)
                self._write_and_log(trainer, one.id, overlay)

    def _write_and_log(self, trainer: Trainer, photo_id: str, overlay: Image.Image) -> None:
        if photo_id in self._to_write:
            write_png(self._layout.overlay(photo_id), overlay)
        if photo_id in self._to_log:
            self._to_log.remove(photo_id)
            log_picture(trainer, f"overlays/{photo_id}", overlay)

    def _draw_finished(self, trainer: Trainer, module: Any) -> None:
        """Draw the photos that an earlier part of the run finished."""
        dataset = getattr(getattr(trainer, "datamodule", None), "dataset", None)
        wanted = self._to_write or self._to_log
        if not trainer.is_global_zero or dataset is None or not wanted:
            return
        for index, name in enumerate(trainer.datamodule.photo_ids):  # type: ignore[attr-defined]
            labels = self._layout.label_map(name)
            missing = name in self._to_write and not self._layout.overlay(name).exists()
            if (missing or name in self._to_log) and labels.exists():
                photo = dataset[index]["photo"].numpy().transpose(1, 2, 0)
                overlay = overlay_of(photo, read_labels(labels), module.benchmark)
                self._write_and_log(trainer, name, overlay)

    # Lightning's hooks; those of predicting call `write_on_batch_end`.

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the photos."""
        self._choose_photos(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the photos."""
        self._choose_photos(trainer)

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
        self._draw_finished(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what an earlier part of the run finished."""
        self._draw_finished(trainer, pl_module)


def overlay_of(photo: np.ndarray, labels: np.ndarray, benchmark: Benchmark) -> Image.Image:
    """An overlay in a benchmark's colours; see `ovss.visualization.overlay.draw_overlay`."""
    return draw_overlay(photo, labels, benchmark.classes, benchmark.palette, benchmark.background)
