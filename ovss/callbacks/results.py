"""Scores into files and onto the screen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.text import Text

from ovss.files import write_atomically
from ovss.report import headline, per_class_table, scores_as_data, write_scores


class ResultsWriter(Callback):
    """Writes `scores.json`, `per_class.csv` and `timing.json` into the run's folder.

    Args:
        show: print the table of classes and the mIoU line.
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self._began = 0.0

    def _start(self) -> None:
        self._began = time.perf_counter()

    def _finish(self, trainer: Trainer, module: Any) -> None:
        if not trainer.is_global_zero or module.results is None:
            return
        seconds = time.perf_counter() - self._began
        data = scores_as_data(module.results, module.benchmark, module.describe())
        folder = run_folder(trainer)
        write_scores(folder, data)
        timing = {
            "seconds": round(seconds, 3),
            "photos_per_second": round(data["photos"] / seconds, 3),
            "stages": {name: round(spent, 3) for name, spent in module.times.seconds.items()},
            "processes": trainer.world_size,
        }
        write_atomically(folder / "timing.json", json.dumps(timing, indent=2) + "\n")
        if self.show:
            console = Console()
            console.print(per_class_table(data))
            console.print(Text(headline(data), style="bold"), soft_wrap=True)
            console.print(
                Text(f"{data['photos'] / seconds:.1f} photos/s; results in {folder}"),
                soft_wrap=True,
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and show."""
        self._finish(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and show, where there was ground truth."""
        self._finish(trainer, pl_module)


def run_folder(trainer: Trainer) -> Path:
    """Where a run's files go: the logger's folder, or `default_root_dir` without a logger."""
    return Path(trainer.log_dir or trainer.default_root_dir)
