"""Scores into files and onto the screen."""

from __future__ import annotations

import json
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.text import Text

from ovss.callbacks.loggers import log_classes, log_settings
from ovss.callbacks.recorder import PassRun, runs_of
from ovss.report.tables import headline, per_class_table
from ovss.runs.scores import conditions, scores_as_data, write_scores
from ovss.sweep_module import SweepModule
from ovss.utils.files import write_atomically
from ovss.utils.text import counted, pace


class ResultsWriter(Callback):
    """Writes `scores.json`, `per_class.csv` and `timing.json` into the run's folder.

    Loggers get the settings as hyperparameters, and each class's IoU. Of a sweep they get neither,
    as its cells differ in them, and nothing is printed.

    `timing.json` is of the last start that had photos left to do: a finished run that is started
    again keeps it.

    Args:
        show: print the table of classes and the mIoU line.
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self._began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the loggers the settings, before Lightning has them write their hyperparameters."""
        for _, module, cell in runs_of(trainer, pl_module):
            module.take_benchmark(getattr(trainer, "datamodule", None))
            if cell is None:
                log_settings(trainer, conditions(module.benchmark, module.segmenter))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and show, where there was ground truth."""
        seconds = time.perf_counter() - self._began
        for run in runs_of(trainer, pl_module):
            if trainer.is_global_zero and run.module.results is not None:
                self._write(trainer, pl_module, run, seconds)

    def _write(
        self, trainer: Trainer, pl_module: LightningModule, run: PassRun, seconds: float
    ) -> None:
        layout, module, cell = run
        whole = getattr(getattr(trainer, "datamodule", None), "whole", None)
        expected = module.benchmark.expected if whole is None else whole
        assert module.results is not None
        data = scores_as_data(module.results, module.benchmark, module.segmenter, expected)
        if module.unreadable:
            data["skipped"] = {
                "count": len(module.unreadable),
                "ids": [each.id for each in module.unreadable],
            }
        write_scores(layout, data)
        done = data["photos"] - len(module.finished)
        work = "nothing was left to do"
        if done > 0:
            work = f"{counted(done, 'photo')} done, {pace(done, seconds)}"
            timing: dict[str, Any] = {
                "seconds": round(seconds, 3),
                "photos": done,
                "photos_per_second": round(done / seconds, 3),
                "stages": {name: round(spent, 3) for name, spent in module.times.seconds.items()},
                "processes": trainer.world_size,
            }
            if module.proposal_costs:
                timing["proposals"] = module.proposal_costs
            if isinstance(pl_module, SweepModule):  # whose pass these seconds are
                timing["sweep"] = pl_module.saved()
            write_atomically(layout.timing, json.dumps(timing, indent=2) + "\n")
        if cell is not None:
            return
        log_classes(trainer, data["classes"])
        if self.show:
            console = Console()
            console.print(per_class_table(data))
            console.print(Text(headline(data), style="bold"), soft_wrap=True)
            for remark in module.segmenter.proposer.remarks():
                console.print(Text(remark), soft_wrap=True)
            console.print(Text(f"{work}; results in {layout.folder}"), soft_wrap=True)

    # Predicting goes the same way.
    on_predict_start = on_test_start
    on_predict_end = on_test_end
