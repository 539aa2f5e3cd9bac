"""Pascal VOC 2012 in its official layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from datamodules import specs
from datamodules.base import BenchmarkDataModule, Sample, check_pairs
from datamodules.errors import DatasetNotFoundError
from ovss.benchmark import Protocol
from ovss.preprocessing import InputSpec

TREE = """
VOCdevkit/VOC2012/
  ImageSets/Segmentation/{split}.txt
  JPEGImages/<id>.jpg
  SegmentationClass/<id>.png
"""


class VOC(BenchmarkDataModule):
    """Pascal VOC 2012, `val`: 1,449 photos.

    Args:
        root: the folder that holds `VOCdevkit`, or `VOCdevkit`, or `VOC2012` itself.
        classes: `voc21` (with background) or `voc20` (background not scored).
        protocol: `standard` ignores the void border; `released` scores it as background.
        split: name of a list in `ImageSets/Segmentation`.
        limit: only the first so many photos.
        batch_size: photos in a step.
        num_workers: loader processes; default by the cores at hand.
        spec: the VLM's input; default: asked of the module under test.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Literal["voc21", "voc20"] = "voc21",
        protocol: Protocol = "standard",
        split: str = "val",
        limit: int | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        spec: InputSpec | None = None,
    ) -> None:
        benchmark = specs.voc(classes, protocol)
        super().__init__(
            root, benchmark, mask_labels(classes, protocol), limit, batch_size, num_workers, spec
        )
        self.split = split

    def find(self) -> list[Sample]:
        """See `BenchmarkDataModule.find`."""
        return find_voc(self.root, self.split, "Pascal VOC 2012", VOC_REMEDY)


VOC_REMEDY = (
    "Download VOCtrainval_11-May-2012.tar from the challenge's site and extract it there, "
    "or point `data.root` elsewhere."
)


def find_voc(root: Path, split: str, name: str, remedy: str) -> list[Sample]:
    """The split's photos and masks, in the list's order.

    Raises:
        DatasetNotFoundError: no such list.
        FileNotFoundError: missing photos or masks.
    """
    for folder in (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root):
        listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if listing.is_file():
            break
    else:
        raise DatasetNotFoundError(name, root, TREE.format(split=split), remedy)
    ids = listing.read_text(encoding="utf-8").split()
    samples = [
        Sample(
            photo_id,
            folder / "JPEGImages" / f"{photo_id}.jpg",
            folder / "SegmentationClass" / f"{photo_id}.png",
        )
        for photo_id in ids
    ]
    check_pairs(samples)
    return samples


def mask_labels(classes: str, protocol: Protocol) -> np.ndarray:
    """Mask values to labels: 0 background, 1..20 classes, 255 the void border."""
    table = np.full(256, -1)
    if classes == "voc21":
        table[:21] = np.arange(21)
    else:
        table[0] = 255
        table[1:21] = np.arange(20)
    table[255] = 0 if protocol == "released" else 255
    return table
