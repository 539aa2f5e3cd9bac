"""Overlays: label maps over their photos, as files and for the loggers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from ovss.benchmark import Benchmark
from ovss.callbacks.loggers import log_picture
from ovss.callbacks.recorder import PassRun, runs_of
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
        self._to_log: set[tuple[str | None, str]] = set()

    def _choose_photos(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names: list[str] = getattr(getattr(trainer, "datamodule", None), "photo_ids", [])
        self._to_write, self._to_log = set(self.photos), set()
        if trainer.loggers:
            cells = [run.cell for run in runs_of(trainer, pl_module)]
            self._to_log = set(product(cells, names[: self.logged]))
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
        for run in runs_of(trainer, pl_module):
            predictions = run.predictions(prediction) or []
            photos = batch.named([one.id for one in predictions]).photos
            for one, photo in zip(predictions, photos, strict=True):
                if one.id in self._to_write or (run.cell, one.id) in self._to_log:
                    pixels = photo.cpu().numpy().transpose(1, 2, 0)
                    overlay = overlay_of(pixels, one.labels.cpu().numpy(), run.module.benchmark)
                    self._write_and_log(trainer, run, one.id, overlay)

    def _write_and_log(
        self, trainer: Trainer, run: PassRun, photo_id: str, overlay: Image.Image
    ) -> None:
        if photo_id in self._to_write:
            write_png(run.layout.overlay(photo_id), overlay)
        if (run.cell, photo_id) in self._to_log:
            self._to_log.remove((run.cell, photo_id))
            name = photo_id if run.cell is None else f"{run.cell}/{photo_id}"
            log_picture(trainer, f"overlays/{name}", overlay)

    def _draw_finished(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the photos that an earlier part of the run finished."""
        dataset = getattr(getattr(trainer, "datamodule", None), "dataset", None)
        wanted = self._to_write or self._to_log
        if not trainer.is_global_zero or dataset is None or not wanted:
            return
        names = trainer.datamodule.photo_ids  # type: ignore[attr-defined]
        for run, (index, name) in product(runs_of(trainer, pl_module), enumerate(names)):
            labels = run.layout.label_map(name)
            missing = name in self._to_write and not run.layout.overlay(name).exists()
            if (missing or (run.cell, name) in self._to_log) and labels.exists():
                photo = dataset[index]["photo"].numpy().transpose(1, 2, 0)
                overlay = overlay_of(photo, read_labels(labels), run.module.benchmark)
                self._write_and_log(trainer, run, name, overlay)

    # Lightning's hooks; those of predicting call `write_on_batch_end`.

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the photos."""
        self._choose_photos(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the photos."""
        self._choose_photos(trainer, pl_module)

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
