"""`config.yaml` of a run."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from ovss.callbacks.run_folder import run_folder
from ovss.runs.layout import RunLayout


class RunConfig(SaveConfigCallback):
    """Writes the resolved configuration of the newest start into the run's folder.

    Lightning's own writes into the folder of the first logger, which may be new for each start or
    none at all; it is told not to by `save_to_log_dir=False`.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it; called on the first process alone."""
        path = RunLayout(run_folder(trainer)).config
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)
