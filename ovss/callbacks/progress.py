"""A progress bar that counts photos."""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ovss.benchmark import PhotoBatch

log = logging.getLogger(__name__)


class RateColumn(ProgressColumn):
    """Photos a second since the start."""

    def render(self, task: Task) -> Text:
        """Draw the rate."""
        rate = task.finished_speed or task.speed
        return Text("- photos/s" if not rate else f"{rate:.1f} photos/s", style="cyan")


class PhotoProgress(ProgressBar):
    """Photos done, photos a second and time left; a line a minute where there is no terminal.

    Args:
        interval: seconds between two lines in a log file.
    """

    def __init__(self, interval: float = 60.0) -> None:
        super().__init__()
        self.interval = interval
        self._bar: Progress | None = None
        self._enabled = True
        self._done = self._total = 0
        self._began = self._said = 0.0

    def disable(self) -> None:
        """Show nothing (Lightning calls it on all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        (self._bar.console if self._bar else Console()).print(*args)

    def _start(self, trainer: Trainer, what: str) -> None:
        datamodule = getattr(trainer, "datamodule", None)
        self._total = len(datamodule.dataset) if hasattr(datamodule, "dataset") else 0
        self._done, self._began = 0, time.monotonic()
        self._said = self._began
        console = Console()
        if self._enabled and console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.add_task(what, total=self._total or None)
            self._bar.start()

    def _advance(self, trainer: Trainer, batch: Any) -> None:
        # The first process stands for all: batches are dealt in turn, so all are about as far.
        photos = len(batch.ids) if isinstance(batch, PhotoBatch) else 1
        photos *= trainer.world_size
        self._done += photos if not self._total else min(photos, self._total - self._done)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif self._enabled and now - self._said >= self.interval:
            self._said = now
            rate = self._done / max(now - self._began, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            log.info(
                "%d of %d photos, %.1f photos/s, %.0f s left", self._done, self._total, rate, left
            )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # Lightning's hooks for testing and predicting.

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self._start(trainer, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self._start(trainer, "predict")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Count."""
        self._advance(trainer, batch)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Count."""
        self._advance(trainer, batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hide the bar."""
        self._stop()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hide the bar."""
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Hide the bar."""
        self._stop()
