"""A LightningDataModule for each benchmark."""

from datamodules.errors import DatasetNotFoundError
from datamodules.scenes import Scenes
from datamodules.voc import VOC

__all__ = ["VOC", "DatasetNotFoundError", "Scenes"]
