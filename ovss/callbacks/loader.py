"""Whether the model waits for its photos, and whether they have room on their way."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ovss.utils.errors import LOADER_REMEDY

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
"""Where loader processes put their batches."""


class LoaderWatch(Callback):
    """Times the waits for the data loader and says so once, when they are the bottleneck.

    The time is the stage `load` of the module's `times`, where it has any.

    Args:
        share: of the time since the second batch, in 0..1, from which waiting is worth a warning.
        batches: batches to look at before judging; the first one always waits for the workers.
    """

    def __init__(self, share: float = 0.2, batches: int = 10) -> None:
        if not 0 < share < 1:
            raise ValueError(f"Expected `share` to be between 0 and 1, but got {share}.")
        self.share = share
        self.batches = batches
        self._began = self._ended = self._waited = 0.0
        self._seen = 0
        self._said = False

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for shared memory, start the clock."""
        _look_for_room(trainer)
        self._ended = time.perf_counter()
        self._began = self._waited = 0.0
        self._seen, self._said = 0, False

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """A batch has come."""
        now = time.perf_counter()
        times = getattr(pl_module, "times", None)
        if times is not None:
            times.add("load", now - self._ended)
        if self._seen:
            self._waited += now - self._ended
        else:
            self._began = now

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """A batch is done."""
        self._ended = time.perf_counter()
        self._seen += 1
        spent = self._ended - self._began
        if self._said or self._seen <= self.batches or self._waited < self.share * spent:
            return
        self._said = True
        workers = getattr(getattr(trainer, "datamodule", None), "num_workers", None)
        log.warning(
            "The data loader is the bottleneck: the model waited for it %.0f %% of the time%s. "
            "Raise `data.init_args.num_workers` if there are idle cores, or put the photos on a "
            "faster disk.",
            100 * self._waited / spent,
            "" if workers is None else f" (num_workers={workers})",
        )

    # Predicting goes the same way.
    on_predict_epoch_start = on_test_epoch_start
    on_predict_batch_start = on_test_batch_start
    on_predict_batch_end = on_test_batch_end


def _look_for_room(trainer: Trainer) -> None:
    """Warn where shared memory is too small for the batches of a node's loaders."""
    needs = getattr(getattr(trainer, "datamodule", None), "shared_memory", None)
    if needs is None or not trainer.is_global_zero or not SHARED_MEMORY.is_dir():
        return
    volume = os.statvfs(SHARED_MEMORY)
    free, needed = volume.f_bavail * volume.f_frsize, needs() * trainer.num_devices
    if needed > free:
        log.warning(
            "The loader processes may need %d MiB in %s, which has %d MiB free. %s",
            needed >> 20,
            SHARED_MEMORY,
            free >> 20,
            LOADER_REMEDY,
        )
