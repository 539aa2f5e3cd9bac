"""A progress bar that counts photos."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from ovss.benchmark import PhotoBatch
from ovss.callbacks.run_folder import done_before
from ovss.utils.progress import Progress


class PhotoProgress(ProgressBar):
    """Photos done, photos a second and time left; a line a minute where there is no terminal.

    Args:
        interval: seconds between two lines in a log file.
    """

    def __init__(self, interval: float = 60.0) -> None:
        super().__init__()
        self.interval = interval
        self._enabled = True
        self._progress: Progress | None = None

    def disable(self) -> None:
        """Show nothing (Lightning calls it on all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._progress is not None:
            self._progress.console.print(*args)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, with what an earlier start of the run finished as done."""
        dataset = getattr(getattr(trainer, "datamodule", None), "dataset", None)
        what = trainer.state.fn.value if trainer.state.fn is not None else "run"
        self._progress = Progress(
            what,
            None if dataset is None else len(dataset),
            interval=self.interval,
            enabled=self._enabled,
            before=done_before(trainer),
        )
        self._progress.__enter__()

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
        # The first process stands for all: batches are dealt in turn, so all are about as far.
        photos = len(batch.ids) if isinstance(batch, PhotoBatch) else 1
        if self._progress is not None:
            self._progress.advance(photos * trainer.world_size)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hide the bar."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Hide the bar."""
        self.on_test_end(trainer, pl_module)

    # Predicting goes the same way.
    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end
    on_predict_end = on_test_end
