"""What Lightning's loggers get beside the scalars that the module logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from PIL import Image


def log_settings(trainer: Trainer, settings: dict[str, Any]) -> None:
    """Give the settings that a score is only comparable with to each logger, as hyperparameters."""
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)


def log_classes(trainer: Trainer, classes: list[dict[str, Any]]) -> None:
    """Give `IoU/<class>`, in 0..1, to each logger.

    Args:
        trainer: with the loggers.
        classes: those of `ovss.runs.scores.scores_as_data`; a class that does not count is left
            out.
    """
    metrics = {f"IoU/{each['name']}": each["IoU"] for each in classes if each["IoU"] is not None}
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)


def log_picture(trainer: Trainer, name: str, image: Image.Image) -> None:
    """Give a picture to each logger that takes one: TensorBoard, W&B, MLflow, Comet."""
    loggers: list[Any] = trainer.loggers
    for logger in loggers:
        if hasattr(logger, "log_image"):  # W&B, Comet
            logger.log_image(key=name, images=[image])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, image, artifact_file=f"{name}.png")
        elif hasattr(getattr(logger, "experiment", None), "add_image"):  # TensorBoard
            logger.experiment.add_image(name, np.asarray(image), dataformats="HWC")


def log_file(trainer: Trainer, path: Path) -> None:
    """Give a file to each logger that takes one: W&B and MLflow."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            # "now": W&B would keep looking at the file until the run ends, which it is about to.
            logger.experiment.save(str(path), base_path=str(path.parent), policy="now")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path))
