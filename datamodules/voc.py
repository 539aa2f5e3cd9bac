"""Pascal VOC 2012 in its official layout."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from ovss.benchmark import Benchmark, Protocol

from .base import BenchmarkDataModule
from .dataset import Split
from .download.archives import Archive
from .errors import DatasetNotFoundError
from .layouts import find_listed
from .masks import label_table
from .specs import check_choice, class_names, palette, prompt_names, refuse_released

TREE = """
VOCdevkit/VOC2012/
  ImageSets/Segmentation/{split}.txt
  JPEGImages/<id>.jpg
  SegmentationClass/<id>.png
"""
BASE_FOLDERS = ("VOCdevkit/VOC2012", "VOC2012", ".")
VAL_LIST = "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"


@cache
def benchmark(classes: str, protocol: Protocol) -> Benchmark:
    """`voc21`, with background, or `voc20`, without."""
    check_choice("classes", classes, ("voc21", "voc20"))
    if classes == "voc20":
        refuse_released(
            "voc20", protocol, "the released code scores VOC with background; use voc21."
        )
    blank = ((),) if classes == "voc21" else ()
    return Benchmark(
        key=classes,
        title=f"Pascal VOC 2012 ({classes[3:]} classes)",
        protocol=protocol,
        classes=class_names(classes),
        prompts=(*blank, *prompt_names("voc20")),
        released_prompts=(*blank, *prompt_names("voc20_released")),
        palette=palette(classes),
        background=0 if blank else None,
        background_rule="always" if blank else "never",
        expected=1449,
    )


class VOC(BenchmarkDataModule):
    """Pascal VOC 2012, `val`: 1,449 photos.

    Args:
        root: the folder that holds `VOCdevkit`, or `VOCdevkit`, or `VOC2012` itself.
        classes: `voc21` (with background) or `voc20` (background not scored).
        protocol: `standard` ignores the void border; `released` scores it as background.
        split: name of a list in `ImageSets/Segmentation`.
        kwargs: see `BenchmarkDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Literal["voc21", "voc20"] = "voc21",
        protocol: Protocol = "standard",
        split: str = "val",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, benchmark(classes, protocol), **kwargs)
        self.split = split
        # Mask values: 0 background, 1..20 the classes, 255 the void border.
        border = 0 if protocol == "released" else 255
        self.labels = (
            label_table({0: 255, **{i: i - 1 for i in range(1, 21)}, 255: 255})
            if classes == "voc20"
            else label_table({**{i: i for i in range(21)}, 255: border})
        )

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`."""
        return find_voc(self, self.split, self.labels)

    archives = (
        Archive(
            name="VOCtrainval_11-May-2012.tar",
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
            members=(
                VAL_LIST,
                "VOCdevkit/VOC2012/JPEGImages/{id}.jpg",
                "VOCdevkit/VOC2012/SegmentationClass/{id}.png",
            ),
            listing=lambda root, read: read(VAL_LIST).decode().split(),
            done=("VOCdevkit/VOC2012/SegmentationClass/*.png", 1449),
        ),
    )


def find_voc(module: BenchmarkDataModule, split: str, labels: Any) -> Split:
    """A split in the VOC layout, in its list's order.

    Raises:
        DatasetNotFoundError: no such list.
        FileNotFoundError: missing photos or masks.
        ValueError: a list with anything but names in it.
    """
    name, remedy = module.benchmark.title, module.remedy
    for base in BASE_FOLDERS:
        folder = module.root / base
        listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if listing.is_file():
            break
    else:
        raise DatasetNotFoundError(name, module.root, TREE.format(split=split), remedy)
    ids = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").split("\n"), 1):
        for photo_id in line.split():
            if photo_id in (".", "..") or "/" in photo_id or "\\" in photo_id:
                raise ValueError(
                    f"Expected names of photos in {listing}, but got {photo_id!r} in line "
                    f"{number}; take it out, or get the list anew."
                )
            ids.append(photo_id)
    photos, masks = folder / "JPEGImages", folder / "SegmentationClass"
    samples = find_listed(name, ids, listing, photos, masks, remedy)
    return Split(samples, labels, f"{masks.relative_to(module.root).as_posix()}/*.png")
