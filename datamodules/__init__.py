"""A LightningDataModule for each benchmark.

The same package under two names: `ovss.datamodules`, which always works, and `datamodules`, which
works where no other folder of that name comes first.
"""

if __name__ == "datamodules":
    # One module and one class, whichever name it is asked by: hand on those of `ovss.datamodules`.
    import sys
    from importlib import import_module
    from pkgutil import walk_packages

    sys.modules[__name__] = import_module(f"ovss.{__name__}")
    for _each in walk_packages(__path__, f"{__name__}."):
        sys.modules[_each.name] = import_module(f"ovss.{_each.name}")

from .ade20k import ADE20K
from .base import BenchmarkDataModule
from .cityscapes import Cityscapes
from .coco import COCOObject, COCOStuff
from .errors import DatasetNotFoundError
from .folder import Folder
from .foreign import from_dataset
from .pascal_context import PascalContext
from .scenes import Scenes
from .voc import VOC

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
