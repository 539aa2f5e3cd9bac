"""A page about the run."""

from __future__ import annotations

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from ovss.callbacks.loggers import log_file
from ovss.callbacks.recorder import runs_of
from ovss.report.single import write_report
from ovss.runs.run import read_run
from ovss.sharing import sharing

log = logging.getLogger(__name__)


class ReportWriter(Callback):
    """Writes `report.html` into the run's folder when testing ends; W&B and MLflow get it, too.

    It reads the files of the run, so it comes after the callbacks that write them.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page."""
        if not trainer.is_global_zero:
            return
        dataset = getattr(getattr(trainer, "datamodule", None), "dataset", None)
        # Other people's data modules may serve anything; the page then has no photos.
        usable = dataset if hasattr(dataset, "benchmark") else None
        with sharing():
            for layout, module, cell in runs_of(trainer, pl_module):
                if not layout.photos.is_file() or module.results is None:
                    continue
                path = write_report(read_run(layout.folder), module.benchmark, usable)
                if cell is None:
                    log.info("report: %s", path)
                    log_file(trainer, path)
