"""A LightningDataModule for each benchmark."""

from datamodules.ade20k import ADE20K
from datamodules.base import BenchmarkDataModule
from datamodules.cityscapes import Cityscapes
from datamodules.coco import COCOObject, COCOStuff
from datamodules.errors import DatasetNotFoundError
from datamodules.folder import Folder
from datamodules.foreign import from_dataset
from datamodules.pascal_context import PascalContext
from datamodules.scenes import Scenes
from datamodules.voc import VOC

__all__ = [
    "ADE20K",
    "VOC",
    "BenchmarkDataModule",
    "COCOObject",
    "COCOStuff",
    "Cityscapes",
    "DatasetNotFoundError",
    "Folder",
    "PascalContext",
    "Scenes",
    "from_dataset",
]
