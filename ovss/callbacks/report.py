"""A page about the run."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ovss.callbacks.loggers import log_file
from ovss.callbacks.run_folder import run_folder
from ovss.report.single import write_report
from ovss.runs.layout import RunLayout
from ovss.runs.run import read_run

log = logging.getLogger(__name__)


class ReportWriter(Callback):
    """Writes `report.html` into the run's folder when testing ends; W&B and MLflow get it, too.

    It reads the files of the run, so it comes after the callbacks that write them.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page."""
        module: Any = pl_module
        folder = run_folder(trainer)
        if not trainer.is_global_zero or not RunLayout(folder).photos.is_file():
            return
        dataset = getattr(getattr(trainer, "datamodule", None), "dataset", None)
        # Other people's data modules may serve anything; the page then has no photos.
        usable = dataset if hasattr(dataset, "benchmark") else None
        path = write_report(read_run(folder), module.benchmark, usable)
        log.info("report: %s", path)
        log_file(trainer, path)
